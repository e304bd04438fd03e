"""Serves a schedule: finds a Prefect server, clears up after killed runs, makes good for missed nights, runs what is due.

Prefect's runner starts each run as a process of its own, which can be told to end and may crash; what it has committed is
kept whatever happens, and the next run goes on with it.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import copy_context
from datetime import UTC, datetime
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound
from prefect.runner import Runner
from prefect.states import Crashed

from cdmodel.errors import ConfigError, RunError
from flows.automations import (
    HEARTBEAT_SECONDS,
    find_notification,
    replace_automations,
    replace_retrain_automation,
)
from flows.command import say
from flows.config import to_request
from flows.deployments import FLOW_NAME, RETRAIN_FLOW_NAME, add_nightly, add_retraining
from flows.embedded_prefect import scheduling_server
from flows.fire_times import last_fire, next_fires, why_catch_up
from flows.interruption import unwind_within
from flows.local_price import require_local_price_apart
from flows.nightly_config import NightlyConfig, ServedRetraining
from flows.prefect_runs import KILLED_BEFORE_SERVING, SERVED, RunsOfOut, close_dead_runs, is_known_alive, tagged
from flows.run_hooks import tell_crashed
from tasks.last_night import LastNight, read_last_night

SHOWN_FIRES = 3
UNWINDING_SECONDS = 45.0
"""How long a run, and the server, may take to end when serving is told to end. Prefect gives a run 30 s."""
WHY = {
    "unfinished": "a run was cut short and is gone on with",
    "missed": "the last night was missed",
}


def serve_nightly(config: NightlyConfig) -> None:
    """Serve the schedule until this process is told to end.

    Raises:
        UsageError: the request cannot be carried out, or the schedule is served already; nothing was started.
        RunError: there is no Prefect server, or it went away.
        Interrupted: we were told to end, and have.
    """
    unwind_within(UNWINDING_SECONDS)
    if config.label.prices is not None and config.label.cluster.scheduler is None:
        require_local_price_apart(config.label.prices)
    before = read_last_night(to_request(config.label))
    with scheduling_server() as url, get_client(sync_client=True) as client:
        standing = _find_deployment(client, config.schedule.name)
        notification = find_notification(client, config.schedule.notify)
        with _RunnerThread(config) as runner:
            automations = [*replace_automations(client, config.schedule.name, runner.deployment_id, notification)]
            if config.retraining is not None and runner.retrain_id is not None:
                alarm = replace_retrain_automation(client, config.retraining, runner.retrain_id)
                automations += [] if alarm is None else [alarm]
                _drop_late_runs(client, runner.retrain_id)
            runs = close_dead_runs(client, config.label.out)
            _tell_closed(runs)
            _drop_late_runs(client, runner.deployment_id)
            _announce(config, url, runner.deployment_id, automations)
            if config.schedule.catch_up:
                _catch_up(client, config, standing, before, runs, runner.deployment_id)
            runner.run()


def _find_deployment(client: SyncPrefectClient, name: str) -> DeploymentResponse | None:
    """Return the deployment of an earlier time.

    Raises:
        ConfigError: another process on this machine serves it now.
    """
    try:
        standing = client.read_deployment_by_name(f"{FLOW_NAME}/{name}")
    except ObjectNotFound:
        return None
    server = tagged(standing.tags, SERVED)
    if is_known_alive(server):
        raise ConfigError(
            "schedule.name",
            f"{name} is served already, by process {server.split()[3]}; end that, or choose another name",
        )
    return standing


def _tell_closed(runs: RunsOfOut) -> None:
    for run in runs.closed:
        say(f"closed run {run.name}, whose process was killed")
        tell_crashed(None, run, Crashed(message=KILLED_BEFORE_SERVING))
    for run in runs.alive:
        say(f"run {run.name} is under way elsewhere")


def _drop_late_runs(client: SyncPrefectClient, deployment_id: UUID) -> None:
    """Delete the runs that were due while nobody served: one run makes good for all of them."""
    late = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED])),
            expected_start_time=FlowRunFilterExpectedStartTime.model_validate({"before_": datetime.now(UTC)}),
        ),
        deployment_filter=_only(deployment_id),
    )
    for run in late:
        if run.auto_scheduled:
            with suppress(ObjectNotFound):
                client.delete_flow_run(run.id)


def _announce(config: NightlyConfig, url: str, deployment_id: UUID, automations: Sequence[str]) -> None:
    schedule = config.schedule
    fires = next_fires(schedule.cron, schedule.timezone, datetime.now(UTC), SHOWN_FIRES)
    say(f"serving {FLOW_NAME}/{schedule.name}: {config.label.source} into {config.label.out}")
    say(f"Prefect: {url.removesuffix('/api')}/deployments/deployment/{deployment_id}")
    say(f"automations: {', '.join(automations)}")
    say(f"next runs: {_listed(fires)}")
    if config.retraining is not None:
        _announce_retraining(config.retraining)


def _announce_retraining(served: ServedRetraining) -> None:
    schedule = served.schedule
    say(f"serving {RETRAIN_FLOW_NAME}/{schedule.name}: students for {served.config.retrain.registry}")
    if schedule.cron is not None:
        say(f"next cycles: {_listed(next_fires(schedule.cron, schedule.timezone, datetime.now(UTC), SHOWN_FIRES))}")


def _listed(fires: Sequence[datetime]) -> str:
    return ", ".join(f"{fire:%a %Y-%m-%d %H:%M %Z}" for fire in fires)


def _catch_up(
    client: SyncPrefectClient,
    config: NightlyConfig,
    standing: DeploymentResponse | None,
    before: LastNight,
    runs: RunsOfOut,
    deployment_id: UUID,
) -> None:
    """Start one run now if something was missed and nothing is under way."""
    if runs.alive:
        return
    schedule = config.schedule
    last_runs = [before.planned_at, None if standing is None else _last_completed(client, deployment_id)]
    why = why_catch_up(
        last_due=last_fire(schedule.cron, schedule.timezone, datetime.now(UTC)),
        last_run=max((moment for moment in last_runs if moment is not None), default=None),
        served_since=None if standing is None else standing.created,
        unfinished=before.unfinished is not None,
    )
    if why is not None:
        run = client.create_flow_run_from_deployment(deployment_id, tags=["catch-up"])
        say(f"catching up by run {run.name}: {WHY[why]}")


def _last_completed(client: SyncPrefectClient, deployment_id: UUID) -> datetime | None:
    """Return when the latest run of the deployment that came to its end began; one that found nothing to do counts."""
    completed: list[FlowRun] = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED]))
        ),
        deployment_filter=_only(deployment_id),
        sort=FlowRunSort.START_TIME_DESC,
        limit=1,
    )
    return completed[0].start_time if completed else None


def _only(deployment_id: UUID) -> DeploymentFilter:
    return DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id]))


class _RunnerThread:
    """Prefect's runner in a thread of its own, so that signals end this process our way and not the runner's.

    The processes of runs inherit that the thread does not hear the terminal: this process tells them to end.
    """

    def __init__(self, config: NightlyConfig) -> None:
        self._config = config
        self._runner = Runner(name="cdlabel-serve", heartbeat_seconds=HEARTBEAT_SECONDS)
        self._deployed: Future[tuple[UUID, UUID | None]] = Future()
        self._may_run: Future[None] = Future()
        self._ended: Future[None] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=copy_context().run, args=(self._run,), name="runner", daemon=True)

    def __enter__(self) -> _RunnerThread:
        """Register the deployments."""
        self._thread.start()
        self.deployment_id, self.retrain_id = self._deployed.result()
        return self

    def __exit__(self, *_: object) -> None:
        """Tell a run under way to end, and wait until it has."""
        if self._loop is not None and not self._ended.done():
            asyncio.run_coroutine_threadsafe(self._stop(), self._loop)
        self._thread.join()

    def run(self) -> None:
        """Run what is due, for ever; raises what the runner ends with, or what a signal raises here."""
        self._may_run.set_result(None)
        self._ended.result()
        raise RunError("the Prefect runner", "has ended; start the command again")

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            asyncio.run(self._serve())
            self._ended.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            for future in (self._deployed, self._ended):
                if not future.done():
                    future.set_exception(error)

    async def _serve(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), asyncio.current_task()
        nightly = await add_nightly(self._runner, self._config)
        served = self._config.retraining
        self._deployed.set_result((nightly, None if served is None else await add_retraining(self._runner, served)))
        await asyncio.wrap_future(self._may_run)
        await self._runner.start()

    async def _stop(self) -> None:
        if self._runner.started:
            await self._runner.astop()
        elif self._task is not None:
            self._task.cancel()
