"""What the Prefect server does by itself for a deployment: runs whose heartbeat stops are Crashed, somebody is told.

The server of our own runs automations too. They are brought up to date whenever the schedule is served.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events import ResourceSpecification
from prefect.events.actions import CallWebhook, ChangeFlowRunState, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound

from cdmodel.errors import ConfigError
from flows.alarm_events import OUT_OF_ALARM
from flows.nightly_config import ServedRetraining

HEARTBEAT_SECONDS = 60
LOST_AFTER = timedelta(seconds=3 * HEARTBEAT_SECONDS)
ENDED = frozenset(
    {"prefect.flow-run.Completed", "prefect.flow-run.Failed", "prefect.flow-run.Cancelled", "prefect.flow-run.Crashed"}
)
WRONG = frozenset({"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"})
TEXT = "{{ flow_run.name }} is {{ flow_run.state.name }}: {{ flow_run.state.message }}"
"""Filled in by the server."""


Notification = CallWebhook | SendNotification


def find_notification(client: SyncPrefectClient, block: str | None) -> Notification | None:
    """Return what the named block can do: a webhook is called, everything else is a notifier. No block is nothing.

    Raises:
        ConfigError: the server has no such block.
    """
    if block is None:
        return None
    type_slug, _, name = block.partition("/")
    try:
        document = client.read_block_document_by_name(name, type_slug)
    except ObjectNotFound as error:
        raise ConfigError(
            "schedule.notify", f"the Prefect server has no block {block}; prefect block ls shows those it has"
        ) from error
    if type_slug == "webhook":
        return CallWebhook(block_document_id=document.id, payload=f'{{"text": "cdlabel: {TEXT}"}}')
    return SendNotification(block_document_id=document.id, subject="cdlabel: a run did not end well", body=TEXT)


def replace_automations(
    client: SyncPrefectClient, deployment: str, deployment_id: UUID, notification: Notification | None
) -> Sequence[str]:
    """Make the automations of a deployment, in place of those of its earlier configuration; return their names."""
    wanted = [lost_heartbeat(deployment, deployment_id)]
    if notification is not None:
        wanted.append(failed_run(deployment, deployment_id, notification))
    for name in (_name_of_lost(deployment), _name_of_failed(deployment)):
        _replace(client, name, next((automation for automation in wanted if automation.name == name), None))
    return [automation.name for automation in wanted]


def lost_heartbeat(deployment: str, deployment_id: UUID) -> AutomationCore:
    """Return the automation that closes a run whose machine or process is gone, wherever it ran."""
    return AutomationCore(
        name=_name_of_lost(deployment),
        description="A run that has sent no heartbeat for a while is dead. Made by cdlabel serve.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_of(deployment_id),
            for_each={"prefect.resource.id"},
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ENDED},
            posture=Posture.Proactive,
            threshold=1,
            within=LOST_AFTER,
        ),
        actions=[
            ChangeFlowRunState(
                name=None,
                force=False,
                state=StateType.CRASHED,
                message=f"No heartbeat for {LOST_AFTER.seconds} s; what is committed is kept, the next run goes on with it",
            )
        ],
    )


def failed_run(deployment: str, deployment_id: UUID, action: Notification) -> AutomationCore:
    """Return the automation that tells somebody of a run that failed or crashed."""
    return AutomationCore(
        name=_name_of_failed(deployment),
        description="Tells of runs that failed or crashed. Made by cdlabel serve.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=_of(deployment_id),
            for_each={"prefect.resource.id"},
            expect=set(WRONG),
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[action],
    )


def replace_retrain_automation(client: SyncPrefectClient, served: ServedRetraining, deployment_id: UUID) -> str | None:
    """Make the automation that begins a cycle when an alarm rings, in place of an earlier one; return its name."""
    name = f"cdlabel {served.schedule.name}: alarm"
    wanted = on_alarms(name, served, deployment_id) if served.schedule.on_alarms else None
    _replace(client, name, wanted)
    return None if wanted is None else name


def on_alarms(name: str, served: ServedRetraining, deployment_id: UUID) -> AutomationCore:
    """Return the automation that begins a cycle of retraining when a night at the same OUT rings one of the alarms."""
    return AutomationCore(
        name=name,
        description="An alarm of a night begins a cycle of retraining. Made by cdlabel serve.",
        trigger=EventTrigger(
            match=ResourceSpecification.model_validate(
                {"prefect.resource.id": "cdlabel.run.*", OUT_OF_ALARM: served.config.out}
            ),
            expect={f"cdlabel.alarm.{alarm}" for alarm in served.schedule.on_alarms},
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            RunDeployment(
                source="selected",
                deployment_id=deployment_id,
                parameters={"why": {"reason": "by an alarm", "by_alarm": True}},
                job_variables=None,
            )
        ],
    )


def _replace(client: SyncPrefectClient, name: str, wanted: AutomationCore | None) -> None:
    """Make the one automation of that name what is wanted; one that is so already stays, with what it has seen."""
    standing = client.read_automations_by_name(name)
    if len(standing) == 1 and wanted is not None and _content(standing[0]) == _content(wanted):
        return
    for automation in standing:
        client.delete_automation(automation.id)
    if wanted is not None:
        client.create_automation(wanted)


def _content(automation: AutomationCore) -> dict[str, object]:
    return automation.model_dump(include=set(AutomationCore.model_fields))


def _of(deployment_id: UUID) -> ResourceSpecification:
    labels = {"prefect.resource.id": f"prefect.deployment.{deployment_id}", "prefect.resource.role": "deployment"}
    return ResourceSpecification.model_validate(labels)


def _name_of_lost(deployment: str) -> str:
    return f"cdlabel {deployment}: lost heartbeat"


def _name_of_failed(deployment: str) -> str:
    return f"cdlabel {deployment}: run failed or crashed"
