"""The retraining flow: collect, train, judge, promote, announce. One Prefect task per stage; a Dask worker trains and judges.

Read this file and ``tasks/retrain_cycle.py`` to know the loop. Restarts do not depend on Prefect: what is done is what stands in
the registry's record of the cycle.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.events import emit_event

from cdmodel.descent import TrainingProgress
from cdmodel.errors import RunError
from cdmodel.gate_facts import GateDecision
from cdmodel.models import count_gpus, limit_threads
from flows.bars import busy_bar, evaluation_bars, training_bars
from flows.dispatch import Cluster, Completed, open_cluster, run_on_workers
from flows.interruption import keep_catching_signals
from flows.prefect_runs import claim_flow_run
from flows.progress import tell_where_to_look
from flows.retrain_config import RetrainConfig, WhyNow, to_retrain_request
from flows.retrain_receipt import gate_receipt
from flows.worker_progress import heard_progress, told_to
from storage.cycle_store import Candidate, CycleOutcome
from storage.run_record import RunRecord
from tasks.judge_candidate import GateProgress
from tasks.record_cycle import record_cycle
from tasks.retrain_cycle import CoolingDown, Cycle, collect, judge, open_cycle, promote, train

Progress = TypeVar("Progress")
Result = TypeVar("Result")


@flow(name="retrain", persist_result=False)
def retrain_student(config: RetrainConfig, why: WhyNow = WhyNow()) -> RunRecord | CoolingDown:  # noqa: B008 - frozen
    """Learn from what was labeled, and promote the candidate if the gate says so.

    Safe to run again whatever happened: a cycle that has not ended goes on where it stopped.

    Raises:
        UsageError: the configuration cannot be carried out, or there is nothing to learn from.
        TrainingError, RunError, StorageError: a stage failed; running again goes on.
    """
    keep_catching_signals()
    cycle = open_cycle(to_retrain_request(config, why), datetime.now(UTC), obeys_cooldown=why.by_alarm)
    if isinstance(cycle, CoolingDown):
        return cycle
    claim_flow_run(config.out, f"retrain-{cycle.begun.cycle_id}")
    _tell_begun(cycle)
    collect_stage(cycle)
    candidate, decision = learn_stage(cycle, config)
    outcome = promote_stage(cycle, candidate, decision)
    return announce_stage(cycle, candidate, decision, outcome)


@task(name="collect", cache_policy=NO_CACHE, persist_result=False)
def collect_stage(cycle: Cycle) -> None:
    """Gather examples, and the audits that nothing learns from."""
    with busy_bar("collect"):
        collect(cycle)


@task(name="learn", cache_policy=NO_CACHE, persist_result=False)
def learn_stage(cycle: Cycle, config: RetrainConfig) -> tuple[Candidate, GateDecision]:
    """Train the candidate and compare it with production, on a worker."""
    settings = config.cluster if config.cluster.scheduler else replace(config.cluster, workers=1)
    with open_cluster(settings, min(count_gpus(), 1)) as cluster:
        tell_where_to_look(cluster.dashboard)
        candidate = _on_a_worker(
            cluster, cycle, "train", _train_there, (cycle, cluster.model_threads), TrainingProgress, training_bars()
        )
        decision = _on_a_worker(
            cluster,
            cycle,
            "judge",
            _judge_there,
            (cycle, candidate, cluster.model_threads),
            GateProgress,
            evaluation_bars(),
        )
    return candidate, decision


@task(name="promote", cache_policy=NO_CACHE, persist_result=False)
def promote_stage(cycle: Cycle, candidate: Candidate, decision: GateDecision) -> CycleOutcome:
    """Move the aliases as the gate says."""
    return promote(cycle, candidate, decision, f"{getpass.getuser()}@{socket.gethostname()}", datetime.now(UTC))


@task(name="announce", cache_policy=NO_CACHE, persist_result=False)
def announce_stage(cycle: Cycle, candidate: Candidate, decision: GateDecision, outcome: CycleOutcome) -> RunRecord:
    """Write the row of the table of runs, and show the gate's checks in Prefect."""
    record = record_cycle(cycle, candidate, decision, outcome)
    create_markdown_artifact(gate_receipt(record), key="gate", description=f"Cycle {cycle.begun.cycle_id}")
    get_run_logger().info("cycle %s: %s, %s", cycle.begun.cycle_id, outcome.ending, outcome.reason)
    emit_event(
        event=f"cdlabel.model.{outcome.ending}",
        resource={
            "prefect.resource.id": f"cdlabel.model.{candidate.model_version}",
            "prefect.resource.name": candidate.model_version,
        },
        payload={"reason": outcome.reason, "alias": cycle.begun.alias, "before": cycle.begun.production},
    )
    return record


def _tell_begun(cycle: Cycle) -> None:
    verb = "going on with" if cycle.resumed else "begun"
    get_run_logger().info("%s cycle %s against %s", verb, cycle.begun.cycle_id, cycle.begun.production)


def _on_a_worker(
    cluster: Cluster,
    cycle: Cycle,
    stage: str,
    work: Callable[..., Result],
    arguments: tuple[Any, ...],
    kind: type[Progress],
    bars: AbstractContextManager[Callable[[Progress], None]],
) -> Result:
    """Run one piece of work on one worker, and on another one should that die: what is kept is gone on with."""
    topic = f"cdlabel-{stage}-{cycle.begun.cycle_id}"
    with bars as on_progress, heard_progress(cluster.client, topic, kind, on_progress):
        for outcome in run_on_workers(cluster, partial(work, topic=topic), iter([(topic, arguments)])):
            if isinstance(outcome, Completed):
                return outcome.result
    raise RunError(
        f"cycle {cycle.begun.cycle_id}",
        f"every worker that was to {stage} died; look for memory in their logs, then run the same command again",
    )


def _train_there(arguments: tuple[Cycle, int | None], topic: str) -> Candidate:
    cycle, threads = arguments
    _use_threads(threads)
    return train(cycle, work_folder(), told_to(topic))


def _judge_there(arguments: tuple[Cycle, Candidate, int | None], topic: str) -> GateDecision:
    cycle, candidate, threads = arguments
    _use_threads(threads)
    return judge(cycle, candidate, told_to(topic))


def _use_threads(threads: int | None) -> None:
    if threads is not None:
        limit_threads(threads)


def work_folder() -> Path:
    """Return where a worker keeps how far its training is: what is lost with it is trained again."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "cdlabel" / "retrain"
