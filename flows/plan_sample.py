"""Measures a sample of a planned run on the workers that would label it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeVar

import psutil

from cdmodel.errors import RunError
from cdmodel.escalation import asks_once, needs_student
from cdmodel.models import count_gpus
from cdmodel.policies import EscalationPolicy
from cdmodel.types import Shard, VideoRef
from flows.bars import count_bar
from flows.config import LabelRunConfig
from flows.dispatch import Cluster, Completed, count_workers, open_cluster, run_on_workers
from flows.embedded_prefect import use_embedded_prefect
from storage.filesystem import open_store
from storage.run_store import committed_shards, iter_shards
from tasks.label_shard import LabelingSpec
from tasks.run_request import LabelingPlan
from tasks.sample_run import RunEstimate, RunSetting, estimate_run, estimate_scouted, plan_sample, refuse_small_sample
from tasks.sample_video import MeasuredVideo, ScoutedVideo, measure_video, scout_video
from tasks.scouted_costs import SCOUTED_PER_LABELED, choose_labeled

Measured = TypeVar("Measured", MeasuredVideo, ScoutedVideo)
PREFECT_IMPORTS, PREFECT_IMPORTS_WITH_SERVER = 3.0, 0.6
"""What a run takes besides and a sample does not, in units of what loading Prefect took a moment ago: its server, unless
one runs already, and the flow's own steps. The first follows from the wall time of one run that was planned before, the second
is a guess; all are a processor's work, so that a slower or busier one makes them longer alike."""


def estimate_run_cost(config: LabelRunConfig, plan: LabelingPlan, sample: int, seed: int) -> RunEstimate:
    """Measure videos that the run has left, on its workers and for the cost alone; nothing is written.

    The student looks at ``SCOUTED_PER_LABELED`` times ``sample`` videos, and at most ``sample`` of those that the policy
    would ask the teacher about are labeled in full. Where the policy cannot tell after the student alone, ``sample`` videos
    are labeled.

    Raises:
        ConfigError: the sample is too small, or a worker's device has no price.
        ClusterError, BundleError: as for the run.
        RunError: a video of the sample kills its workers, or the cluster is lost.
    """
    can_scout = _can_scout(plan.cascade.policy)
    refuse_small_sample(sample)
    chosen = plan_sample(_shards_left(config, plan), sample * (SCOUTED_PER_LABELED if can_scout else 1), seed)
    use_embedded_prefect("CRITICAL")
    began = time.perf_counter()
    from flows.label import labeling_spec

    prefect_seconds = (time.perf_counter() - began) * (
        PREFECT_IMPORTS_WITH_SERVER if "PREFECT_API_URL" in os.environ else PREFECT_IMPORTS
    )
    with open_cluster(config.cluster, count_gpus()) as cluster:
        # What audits take is added to every video by their share: a sample is too small to draw its own.
        spec = labeling_spec(config, plan, cluster)
        spec = replace(spec, audit=replace(spec.audit, share=0.0))
        workers, opened_at = count_workers(cluster), _seconds_of_this_process()
        clock = _StartClock()
        if can_scout:
            scouted = list(_on_workers(cluster, "scout", scout_video, chosen.videos, spec, clock.note_scouted))
            wanted = choose_labeled(scouted, sample, seed)
            labeled = [video for video in chosen.videos if video.video_id in wanted]
        else:
            scouted, labeled = [], list(chosen.videos)
        measured = list(_on_workers(cluster, "sample", measure_video, labeled, spec, clock.note))
    setting = RunSetting(
        workers=workers,
        model_threads=spec.models.model_threads,
        startup_seconds=max(opened_at, clock.all_ready_at) + prefect_seconds,
        prices=config.prices,
        audit_share=config.audit.share,
    )
    if can_scout:
        by_id = {one.video_id: one for one in measured}
        return estimate_scouted(chosen, scouted, by_id, setting, config.budget)
    return estimate_run(chosen, measured, setting)


def _can_scout(policy: EscalationPolicy) -> bool:
    """Tell whether the student alone shows what the teacher will be asked."""
    return needs_student(policy) and asks_once(policy)


class _StartClock:
    """When each worker had begun to measure, by the seconds of this process."""

    def __init__(self) -> None:
        self._ready_at: dict[str, float] = {}

    @property
    def all_ready_at(self) -> float:
        return max(self._ready_at.values(), default=0.0)

    def note(self, one: MeasuredVideo) -> None:
        self._ready_at.setdefault(one.worker, _seconds_of_this_process() - one.cost.wall_seconds)

    def note_scouted(self, one: ScoutedVideo) -> None:
        self.note(one.measured)


def _on_workers(
    cluster: Cluster,
    stage: str,
    measure: Callable[..., Measured],
    videos: Sequence[VideoRef],
    spec: LabelingSpec,
    note: Callable[[Measured], None],
) -> Iterator[Measured]:
    """Yield what each video took, the largest first, so that no worker waits long for the last one."""
    largest_first = sorted(videos, key=lambda video: video.size_bytes or 0, reverse=True)
    work = partial(measure, spec=spec)
    with count_bar(stage, len(videos), "videos") as advance:
        outcomes = run_on_workers(cluster, work, ((f"{stage}-{video.video_id}", video) for video in largest_first))
        for done, outcome in enumerate(outcomes, start=1):
            if not isinstance(outcome, Completed):
                raise RunError(
                    outcome.item.uri,
                    "kills the workers that sample it; a run will name it and go on, try another --seed",
                )
            note(outcome.result)
            advance(done)
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
