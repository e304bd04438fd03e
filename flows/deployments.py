"""The flow that schedules run, and its Prefect deployment: one run at a time, parameters checked before any work.

``prefect.yaml`` deploys the same flow to a work pool.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import flow
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy, State
from prefect.runner import Runner
from prefect.schedules import Cron
from prefect.states import Completed
from prefect.types.entrypoint import EntrypointType

from flows.config import LabelRunConfig
from flows.interruption import end_now
from flows.nightly_config import NightlyConfig, ServedRetraining
from flows.prefect_runs import SERVED, claim_process, process_identity
from flows.retrain_config import RetrainConfig, WhyNow
from flows.run_hooks import tell_cancelled, tell_crashed, tell_failed
from tasks.run_request import NothingToDo

FLOW_NAME, RETRAIN_FLOW_NAME = "label-nightly", "retrain-nightly"
BY_SCHEDULE = WhyNow(reason="by schedule")
SERVER_PROCESS = "CDLABEL_SERVED_BY"
"""Environment variable with the process id of what serves the schedule, for the runs that it starts."""
LOOK_SECONDS = 0.5
UNWINDING_SECONDS = 20.0
"""How long a run may take to end after the process that serves it has died."""


@flow(
    name=FLOW_NAME,
    persist_result=False,
    on_failure=[tell_failed],
    on_crashed=[tell_crashed],
    on_cancellation=[tell_cancelled],
)
def label_nightly(config: LabelRunConfig) -> State[Any]:
    """Label whatever is there that has no terminal row yet; a run that was cut short is finished first.

    Raises: as ``label_corpus``.
    """
    from flows.label import label_corpus  # what serves the schedule needs none of it

    end_with_server()
    claim_process(config.out)
    began = datetime.now(UTC)
    record = label_corpus.fn(config)
    if not isinstance(record, NothingToDo) and record.started_at < began:
        # It was planned before tonight, so what has come since is not in it.
        rest = label_corpus.fn(config)
        record = record if isinstance(rest, NothingToDo) else rest
    if isinstance(record, NothingToDo):
        return Completed(message=f"Nothing to label: {record.videos_skipped} videos are done")
    return Completed(message=f"Run {record.run_id}: {record.videos_planned} videos")


@flow(
    name=RETRAIN_FLOW_NAME,
    persist_result=False,
    on_failure=[tell_failed],
    on_crashed=[tell_crashed],
    on_cancellation=[tell_cancelled],
)
def retrain_nightly(config: RetrainConfig, why: WhyNow = BY_SCHEDULE) -> State[Any]:
    """Turn the learning loop once, or go on with the turn that was cut short.

    Raises: as ``retrain_student``.
    """
    from flows.retrain import retrain_student  # what serves the schedule needs none of it
    from tasks.retrain_cycle import CoolingDown

    end_with_server()
    claim_process(config.out)
    record = retrain_student.fn(config, why)
    if isinstance(record, CoolingDown):
        return Completed(message=f"Cooling down until {record.until:%Y-%m-%d %H:%M %Z}: nothing was begun")
    return Completed(message=f"Candidate {record.model_version}: {record.status}")


async def add_retraining(runner: Runner, served: ServedRetraining) -> UUID:
    """Register the deployment of the learning loop, and have the runner serve it from this process."""
    schedule = served.schedule
    deployment = await retrain_nightly.ato_deployment(
        name=schedule.name,
        description=f"Students for {served.config.retrain.registry} from {served.config.out}",
        schedule=None if schedule.cron is None else Cron(schedule.cron, timezone=schedule.timezone),
        paused=False,
        parameters={"config": served.config.model_dump(mode="json", exclude_none=True)},
        tags=[f"retrain:{served.config.out}", SERVED + process_identity()],
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        enforce_parameter_schema=True,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    deployment.work_pool_name = deployment.work_queue_name = None
    return await runner.aadd_deployment(deployment)


async def add_nightly(runner: Runner, config: NightlyConfig) -> UUID:
    """Register the deployment that the file describes with the API, and have the runner serve it from this process."""
    deployment = await label_nightly.ato_deployment(
        name=config.schedule.name,
        description=f"{config.label.source} into {config.label.out}",
        schedule=Cron(config.schedule.cron, timezone=config.schedule.timezone),
        paused=False,
        parameters={"config": config.label.model_dump(mode="json", exclude_none=True)},
        tags=[f"out:{config.label.out}", SERVED + process_identity()],
        concurrency_limit=ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        enforce_parameter_schema=True,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # Set, so that a deployment of this name to a work pool becomes one that is served.
    deployment.work_pool_name = deployment.work_queue_name = None
    os.environ[SERVER_PROCESS] = str(os.getpid())
    return await runner.aadd_deployment(deployment)


def end_with_server() -> None:
    """Have this process end when the one that serves the schedule is gone, as it does when that is told to end.

    Only where it was started by that process; in a work pool the worker answers for it.
    """
    server = os.getppid()
    if os.environ.get(SERVER_PROCESS) != str(server):
        return

    def watch() -> None:
        while os.getppid() == server:
            time.sleep(LOOK_SECONDS)
        timer = threading.Timer(UNWINDING_SECONDS, end_now)
        timer.daemon = True
        timer.start()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end with the server", daemon=True).start()
