"""Alarms of a run as Prefect events, which automations can act on, and as warnings in the run's log."""

from __future__ import annotations

from prefect import get_run_logger
from prefect.events import emit_event

from storage.run_record import RunRecord
from tasks.audit_run import alarms_of

OUT_OF_ALARM = "cdlabel.out"
"""Label of the event's resource: where the run has written."""


def emit_alarms(out: str, record: RunRecord) -> None:
    """Emit ``cdlabel.alarm.<name>`` for each alarm that rings; the resource is the run, the payload value and limit."""
    for alarm in alarms_of(record) or ():
        get_run_logger().warning("alarm %s: %s", alarm.name, alarm.message)
        emit_event(
            event=f"cdlabel.alarm.{alarm.name}",
            resource={
                "prefect.resource.id": f"cdlabel.run.{record.run_id}",
                "prefect.resource.name": record.run_id,
                OUT_OF_ALARM: out,
            },
            payload={
                "message": alarm.message,
                "value": alarm.value,
                "limit": alarm.limit,
                "corpus": record.corpus,
                "model_version": record.model_version,
            },
        )
