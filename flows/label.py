"""The labeling flow: plan, label, publish, report. One Prefect task per stage; Dask runs the shards.

Read this file, ``tasks/label_shard.py`` and ``cdmodel/cascade.py`` to know the main path. The tasks are plain functions;
this is where they get retries and names. Restarts do not depend on Prefect: what is done is what stands in storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from itertools import chain
from uuid import uuid4

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from cdmodel.errors import RunError
from cdmodel.models import count_gpus
from cdmodel.types import Shard
from flows.bars import busy_bar
from flows.config import LabelRunConfig, to_json, to_request
from flows.dispatch import Cluster, WorkerKilled, open_cluster, run_on_workers
from flows.interruption import keep_catching_signals
from flows.prefect_runs import claim_flow_run
from flows.progress import LabelingProgress
from flows.receipt import savings_receipt
from flows.worker_logs import forwarded_logs
from storage.attempt_log import can_go_on, died_of
from storage.filesystem import open_store
from storage.run_record import RunRecord
from storage.run_store import committed_shards, iter_shards
from storage.views import run_query
from tasks.finish_run import publish_and_record
from tasks.label_shard import LabelingSpec, label_shard
from tasks.plan_run import open_run
from tasks.run_request import LabelingPlan, NothingToDo
from tasks.worker_models import WorkerModels

FAILURES_SHOWN = 100


@flow(name="label", persist_result=False)
def label_corpus(config: LabelRunConfig) -> RunRecord | NothingToDo:
    """Label every video of ``config.source`` that has no terminal row yet, and publish the rows.

    Safe to run again whatever happened: an unfinished run goes on where it stopped.

    Raises:
        UsageError: the configuration cannot be carried out; nothing was done.
        RunError: some shards could not be labeled; the others are kept, and running again tries the rest.
        StorageError: the store failed; running again goes on.
    """
    keep_catching_signals()
    plan = plan_stage(config)
    if isinstance(plan, NothingToDo):
        return plan
    claim_flow_run(config.out, plan.header.run_id)
    label_stage(config, plan)
    record = publish_stage(config, plan.header.run_id)
    report_stage(config, record)
    return record


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan_stage(config: LabelRunConfig) -> LabelingPlan | NothingToDo:
    """List, subtract what is done, and freeze the plan in storage."""
    plan = open_run(to_request(config))
    if isinstance(plan, LabelingPlan):
        header = plan.header
        get_run_logger().info("run %s: %d videos in %d shards", header.run_id, header.videos, header.shards)
    return plan


@task(name="label", cache_policy=NO_CACHE, persist_result=False)
def label_stage(config: LabelRunConfig, plan: LabelingPlan) -> None:
    """Label the shards that have no object yet, on the cluster."""
    store = open_store(config.out)
    done = committed_shards(store, plan.header.run_id)
    pending = (shard for shard in iter_shards(store, plan.header.run_id) if shard.shard_id not in done)
    first = next(pending, None)
    if first is None:
        return
    with (
        LabelingProgress(plan.header, shards_done=len(done)) as progress,
        open_cluster(config.cluster, count_gpus()) as cluster,
    ):
        progress.tell_where_to_look(cluster.dashboard)
        spec = labeling_spec(config, plan, cluster.model_threads)
        with forwarded_logs(cluster.client, spec.run_id, get_run_logger()):
            given_up = _label_in_rounds(cluster, spec, chain([first], pending), progress)
    if given_up:
        raise RunError(
            plan.header.run_id,
            f"{len(given_up)} shards killed every worker they were given to, the first one {given_up[0].shard_id}, "
            "and no video was found at fault; all others are labeled and kept; run the same command again to try the rest",
        )


@task(name="publish", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=5)
def publish_stage(config: LabelRunConfig, run_id: str) -> RunRecord:
    """Merge the shards into the published table and write the run's row."""
    with busy_bar("publish"):
        return publish_and_record(config.out, run_id, config_json=to_json(config), code_version=version("cdlabel"))


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def report_stage(config: LabelRunConfig, record: RunRecord) -> None:
    """Show the run in Prefect: the savings receipt, and what failed and why."""
    create_markdown_artifact(savings_receipt(record), key="savings-receipt", description=f"Run {record.run_id}")
    failures = run_query(
        open_store(config.out),
        "select video_id, uri, error_kind, error_message from failures "
        f"where run_id = '{record.run_id}' order by error_kind, uri limit {FAILURES_SHOWN}",
    )
    rows = [dict(zip(failures.columns, row, strict=True)) for row in failures.rows]
    create_table_artifact(rows, key="failed-videos", description=f"Run {record.run_id}: failed and partial videos")


def _label_in_rounds(
    cluster: Cluster, spec: LabelingSpec, shards: Iterator[Shard], progress: LabelingProgress
) -> list[Shard]:
    """Label all shards; one that killed its workers again as long as that names videos. Return those given up."""
    work = partial(label_shard, spec=spec)
    store = open_store(spec.out)
    given_up: list[Shard] = []
    named: dict[str, frozenset[str] | None] = {}
    rounds = 0
    while True:
        rounds += 1
        killed: list[Shard] = []
        completed = 0
        for outcome in run_on_workers(cluster, work, _keyed(spec.run_id, rounds, shards)):
            if isinstance(outcome, WorkerKilled):
                killed.append(outcome.item)
            else:
                completed += 1
                progress.advance(outcome.result)
        named_before = named
        named = {shard.shard_id: died_of(store, spec.run_id, shard.shard_id, spec.launch_id) for shard in killed}
        again = [shard for shard in killed if can_go_on(named[shard.shard_id], named_before.get(shard.shard_id))]
        given_up += [shard for shard in killed if shard not in again]
        if not again or (not completed and all(videos is None for videos in named.values())):
            return given_up + again
        shards = iter(again)


def _keyed(run_id: str, number: int, shards: Iterator[Shard]) -> Iterator[tuple[str, Shard]]:
    """Return a Dask key with each shard; every round needs its own."""
    return ((f"label-{run_id}-{shard.shard_id}-{number}", shard) for shard in shards)


def labeling_spec(config: LabelRunConfig, plan: LabelingPlan, model_threads: int | None) -> LabelingSpec:
    """Return what the workers of a run have to know."""
    header = plan.header
    return LabelingSpec(
        out=config.out,
        run_id=header.run_id,
        launch_id=uuid4().hex[:12],
        run_date=header.run_date,
        corpus=header.corpus,
        fingerprint=header.fingerprint,
        models=WorkerModels(
            bundle=config.models.bundle,
            model_version=header.model_version,
            allowed_builders=config.models.allowed_builders,
            model_threads=model_threads,
        ),
        sampling=plan.sampling,
        cascade=plan.cascade,
        limits=config.decode,
        prices=config.prices,
    )
