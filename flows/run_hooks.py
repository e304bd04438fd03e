"""What is said, and sent out as an event, when a scheduled run does not end as it should."""

from __future__ import annotations

from typing import Any

from prefect import Flow, State
from prefect.client.schemas.objects import FlowRun
from prefect.events import emit_event
from prefect.logging.loggers import flow_run_logger

FAILED, CRASHED, CANCELLED = "cdlabel.run.failed", "cdlabel.run.crashed", "cdlabel.run.cancelled"
"""Names of the events; the resource is the flow run."""

ADVICE = {
    FAILED: "what is committed is kept; mend what the message names, then start a run of the deployment or wait for the next",
    CRASHED: "what is committed is kept; the next run goes on with it, and so does cdlabel serve when it is started",
    CANCELLED: "what is committed is kept; the next run goes on with it",
}


def tell_failed(flow: Flow[..., Any] | None, flow_run: FlowRun, state: State[Any]) -> None:
    """Say that a run failed: its configuration was wrong, its store was away, or shards could not be labeled."""
    _tell(FAILED, "failed", flow_run, state)


def tell_crashed(flow: Flow[..., Any] | None, flow_run: FlowRun, state: State[Any]) -> None:
    """Say that a run's process died."""
    _tell(CRASHED, "crashed", flow_run, state)


def tell_cancelled(flow: Flow[..., Any] | None, flow_run: FlowRun, state: State[Any]) -> None:
    """Say that a run was told to end."""
    _tell(CANCELLED, "was cancelled", flow_run, state)


def _tell(event: str, what: str, flow_run: FlowRun, state: State[Any]) -> None:
    message = " ".join((state.message or "no message").split())
    flow_run_logger(flow_run).error("run %s %s: %s (%s)", flow_run.name, what, message, ADVICE[event])
    emit_event(
        event=event,
        resource={"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": flow_run.name},
        payload={"message": message, "advice": ADVICE[event], "tags": sorted(flow_run.tags)},
    )
