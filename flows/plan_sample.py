"""Measures a sample of a planned run on the workers that would label it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import psutil

from cdmodel.errors import RunError
from cdmodel.models import count_gpus
from cdmodel.types import Shard
from flows.bars import count_bar
from flows.config import LabelRunConfig
from flows.dispatch import Cluster, Completed, count_workers, open_cluster, run_on_workers
from flows.embedded_prefect import use_embedded_prefect
from storage.filesystem import open_store
from storage.run_store import committed_shards, iter_shards
from tasks.label_shard import LabelingSpec
from tasks.run_request import LabelingPlan
from tasks.sample_run import RunEstimate, RunSetting, SamplePlan, estimate_run, plan_sample
from tasks.sample_video import MeasuredVideo, measure_video

PREFECT_IMPORTS, PREFECT_IMPORTS_WITH_SERVER = 4.5, 0.6
"""What a run takes besides and a sample does not, in units of what loading Prefect took a moment ago: its server, unless
one runs already, and the flow's own steps. The first follows from CPU times of one flow without work, the second is a
guess; all are a processor's work, so that a slower or busier one makes them longer alike."""


def estimate_run_cost(config: LabelRunConfig, plan: LabelingPlan, sample: int, seed: int) -> RunEstimate:
    """Label ``sample`` of the videos that the run has left, on its workers and for the cost alone; nothing is written.

    Raises:
        ConfigError: the sample is too small, or a worker's device has no price.
        ClusterError, BundleError: as for the run.
        RunError: a video of the sample kills its workers, or the cluster is lost.
    """
    chosen = plan_sample(_shards_left(config, plan), sample, seed)
    use_embedded_prefect("CRITICAL")
    began = time.perf_counter()
    from flows.label import labeling_spec

    prefect_seconds = (time.perf_counter() - began) * (
        PREFECT_IMPORTS_WITH_SERVER if "PREFECT_API_URL" in os.environ else PREFECT_IMPORTS
    )
    with open_cluster(config.cluster, count_gpus()) as cluster:
        # What audits take is added to every video by their share: a sample is too small to draw its own.
        spec = labeling_spec(config, plan, cluster.model_threads)
        spec = replace(spec, audit=replace(spec.audit, share=0.0))
        workers, opened_at = count_workers(cluster), _seconds_of_this_process()
        measured: list[MeasuredVideo] = []
        ready_at: dict[str, float] = {}
        with count_bar("sample", len(chosen.videos), "videos") as advance:
            for one in _measure(cluster, chosen, spec):
                measured.append(one)
                ready_at.setdefault(one.worker, _seconds_of_this_process() - one.cost.wall_seconds)
                advance(len(measured))
    setting = RunSetting(
        workers=workers,
        model_threads=spec.models.model_threads,
        startup_seconds=max(opened_at, *ready_at.values()) + prefect_seconds,
        prices=config.prices,
        audit_share=config.audit.share,
    )
    return estimate_run(chosen, measured, setting)


def _measure(cluster: Cluster, chosen: SamplePlan, spec: LabelingSpec) -> Iterator[MeasuredVideo]:
    """Yield what each video of the sample took, the largest first, so that no worker waits long for the last one."""
    largest_first = sorted(chosen.videos, key=lambda video: video.size_bytes or 0, reverse=True)
    work = partial(measure_video, spec=spec)
    for outcome in run_on_workers(cluster, work, ((f"sample-{video.video_id}", video) for video in largest_first)):
        if not isinstance(outcome, Completed):
            raise RunError(
                outcome.item.uri, "kills the workers that sample it; a run will name it and go on, try another --seed"
            )
        yield outcome.result


def _shards_left(config: LabelRunConfig, plan: LabelingPlan) -> list[Shard]:
    if plan.shards is not None:
        return list(plan.shards)
    store, run_id = open_store(config.out), plan.header.run_id
    done = committed_shards(store, run_id)
    return [shard for shard in iter_shards(store, run_id) if shard.shard_id not in done]


def _seconds_of_this_process() -> float:
    """Return for how long this command has run, Python's own start included."""
    return time.time() - float(psutil.Process().create_time())
