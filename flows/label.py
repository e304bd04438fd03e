"""The labeling flow: plan, label, publish, report. One Prefect task per stage; Dask runs the shards.

Read this file, ``tasks/label_shard.py`` and ``cdmodel/cascade.py`` to know the main path. The tasks are plain functions;
this is where they get retries and names. Restarts do not depend on Prefect: what is done is what stands in storage.
"""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version
from uuid import uuid4

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE

from cdmodel.budget import BudgetSettings
from cdmodel.errors import RunError
from cdmodel.models import count_gpus
from cdmodel.stretches import stretch
from cdmodel.student_pass import PassReceipt
from cdmodel.types import Shard, ShardReceipt
from flows.alarm_events import emit_alarms
from flows.bars import busy_bar, count_bar
from flows.command import say
from flows.config import LabelRunConfig, to_json, to_request
from flows.dispatch import Cluster, count_workers, describe_workers, open_cluster
from flows.interruption import keep_catching_signals
from flows.lineage import materialize_predictions
from flows.prefect_runs import claim_flow_run
from flows.profile import profiled_shards, profiled_work, profiling
from flows.progress import LabelingProgress, tell_where_to_look
from flows.receipt import savings_receipt
from flows.shard_rounds import ShardWork, run_in_rounds
from flows.worker_logs import forwarded_logs
from storage.filesystem import open_store
from storage.run_record import RunRecord
from storage.run_store import committed_shards
from storage.shard_order import count_videos, iter_dearest_first, read_costs
from storage.student_passes import committed_passes, passes_log_name
from storage.views import run_query
from tasks.finish_run import publish_and_record
from tasks.fund_run import AUDIT_AT_MOST, open_funds, refuse_dear_student, share_at_most
from tasks.label_shard import LabelingSpec, label_funded_shard, label_shard
from tasks.plan_run import open_run
from tasks.run_request import LabelingPlan, NothingToDo
from tasks.score_shard import score_shard
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
    with profiling(config.profile):
        plan = plan_stage(config)
        if isinstance(plan, NothingToDo):
            return plan
        claim_flow_run(config.out, plan.header.run_id)
        label_stage(config, plan)
        record = publish_stage(config, plan.header.run_id)
        materialize_predictions(config.out, record)
        report_stage(config, record)
        return record


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
@stretch("driver", "plan")
def plan_stage(config: LabelRunConfig) -> LabelingPlan | NothingToDo:
    """List, subtract what is done, and freeze the plan in storage."""
    plan = open_run(to_request(config))
    if isinstance(plan, LabelingPlan):
        header = plan.header
        get_run_logger().info("run %s: %d videos in %d shards", header.run_id, header.videos, header.shards)
    return plan


@task(name="label", cache_policy=NO_CACHE, persist_result=False)
@stretch("driver", "label")
def label_stage(config: LabelRunConfig, plan: LabelingPlan) -> None:
    """Label the shards that have no object yet, on the cluster."""
    started = time.time()
    store = open_store(config.out)
    done = committed_shards(store, plan.header.run_id)
    if len(done) == plan.header.shards:
        return
    with open_cluster(config.cluster, count_gpus()) as cluster:
        tell_where_to_look(cluster.dashboard)
        say(describe_workers(cluster))
        spec = labeling_spec(config, plan, cluster)
        with forwarded_logs(cluster.client, spec.run_id, get_run_logger()):
            if config.budget is not None and config.budget.is_limited:
                _score_pending(cluster, spec, config, plan)
                given_up = _label_funded(cluster, spec, config, plan, done, started)
            else:
                given_up = _label_pending(cluster, spec, plan, done)
    _refuse_given_up(plan.header.run_id, given_up)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False, retries=2, retry_delay_seconds=5)
@stretch("driver", "publish")
def publish_stage(config: LabelRunConfig, run_id: str) -> RunRecord:
    """Merge the shards into the published table and write the run's row."""
    with busy_bar("publish"):
        return publish_and_record(
            config.out,
            run_id,
            config_json=to_json(config),
            code_version=version("cdlabel"),
            budget=config.budget,
        )


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
@stretch("driver", "report")
def report_stage(config: LabelRunConfig, record: RunRecord) -> None:
    """Show the run in Prefect: the savings receipt, what failed and why, and an event for each alarm."""
    create_markdown_artifact(savings_receipt(record), key="savings-receipt", description=f"Run {record.run_id}")
    failures = run_query(
        open_store(config.out),
        "select video_id, uri, error_kind, error_message from failures "
        f"where run_id = '{record.run_id}' order by error_kind, uri limit {FAILURES_SHOWN}",
    )
    rows = [dict(zip(failures.columns, row, strict=True)) for row in failures.rows]
    create_table_artifact(rows, key="failed-videos", description=f"Run {record.run_id}: failed and partial videos")
    emit_alarms(config.out, record)


@stretch("driver", "label the shards")
def _label_pending(cluster: Cluster, spec: LabelingSpec, plan: LabelingPlan, done: frozenset[str]) -> list[Shard]:
    store = open_store(spec.out)
    pending = iter_dearest_first(store, spec.run_id, done)
    with LabelingProgress(plan.header, videos_done=count_videos(store, spec.run_id, done)) as progress:
        work = ShardWork(run=label_shard, name="label", on_done=progress.advance)
        return run_in_rounds(cluster, spec, profiled_shards(pending), profiled_work(work))


@stretch("driver", "score the shards")
def _score_pending(cluster: Cluster, spec: LabelingSpec, config: LabelRunConfig, plan: LabelingPlan) -> None:
    """Have the student look at every video of the run that it has not seen."""
    store, header, budget = open_store(spec.out), plan.header, config.budget
    done = committed_passes(store, spec.run_id)
    pending = iter_dearest_first(store, spec.run_id, done)
    seen_before = count_videos(store, spec.run_id, done)
    expected = {cost.shard_id: cost.expected_share for cost in read_costs(store, spec.run_id)}
    videos, expected_share, usd = 0, 0.0, 0.0
    with count_bar("score", header.videos, "videos") as advance:

        def count(receipt: PassReceipt) -> None:
            nonlocal videos, expected_share, usd
            videos, usd = videos + receipt.videos, usd + (receipt.cost_usd or 0.0)
            expected_share += expected[receipt.shard_id]
            advance(seen_before + videos)
            if budget is not None:
                share_done = share_at_most(videos / header.videos, expected_share)
                refuse_dear_student(budget, usd, share_done=min(share_done, 1.0))

        work = ShardWork(run=score_shard, name="score", on_done=count, log_name=passes_log_name)
        given_up = run_in_rounds(cluster, spec, profiled_shards(pending), profiled_work(work))
    _refuse_given_up(spec.run_id, given_up)


@stretch("driver", "label the shards")
def _label_funded(
    cluster: Cluster,
    spec: LabelingSpec,
    config: LabelRunConfig,
    plan: LabelingPlan,
    done: frozenset[str],
    started: float,
) -> list[Shard]:
    """Label from the student's passes what the budget pays for; the shards' parts are settled as they come back."""
    store = open_store(spec.out)
    pending = list(iter_dearest_first(store, spec.run_id, done))
    funded = open_funds(
        store,
        plan.header,
        [shard.shard_id for shard in pending],
        config.budget or BudgetSettings(),
        config.prices,
        workers=count_workers(cluster),
        started=started,
    )
    if not funded.can_audit and spec.audit.share:
        text = (
            f"auditing would take more than {AUDIT_AT_MOST:.0%} of what is left of the budget; nothing more is audited"
        )
        get_run_logger().warning("run %s: %s", spec.run_id, text)
        say(text)
        spec = replace(spec, audit=replace(spec.audit, share=0.0))
    with LabelingProgress(plan.header, videos_done=count_videos(store, spec.run_id, done)) as progress:

        def settle(receipt: ShardReceipt) -> None:
            funded.settle(receipt)
            progress.advance(receipt)

        work = ShardWork(run=label_funded_shard, name="label", allot=funded.allot, on_done=settle)
        return run_in_rounds(cluster, spec, profiled_shards(iter(pending)), profiled_work(work))


def _refuse_given_up(run_id: str, given_up: list[Shard]) -> None:
    if given_up:
        raise RunError(
            run_id,
            f"{len(given_up)} shards killed every worker they were given to, the first one {given_up[0].shard_id}, "
            "and no video was found at fault; all others are labeled and kept; run the same command again to try the rest",
        )


def labeling_spec(config: LabelRunConfig, plan: LabelingPlan, cluster: Cluster) -> LabelingSpec:
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
            bundle=plan.bundle,
            model_version=header.model_version,
            allowed_builders=config.models.allowed_builders,
            model_threads=cluster.model_threads,
        ),
        sampling=plan.sampling,
        cascade=plan.cascade,
        limits=config.decode,
        prices=config.prices,
        audit=config.audit,
        videos_ahead=cluster.videos_ahead,
        videos_at_once=cluster.videos_at_once,
        worker_cores=cluster.worker_cores,
    )
