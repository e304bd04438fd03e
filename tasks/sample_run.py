"""Which videos of a planned run to measure, and what the whole run will take by what they took. Pure: nothing is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from math import nan
from typing import Any, Literal, get_args

from cdmodel.budget import BudgetSettings, Unit
from cdmodel.cost import ComputeCost, PriceTable, cpu_seconds, price_usd
from cdmodel.cost_estimate import (
    LEVEL,
    Estimate,
    SampleDesign,
    design_sample,
    estimate_total,
    makespan,
)
from cdmodel.errors import ConfigError
from cdmodel.expected_cost import Floats, expected_shares
from cdmodel.types import Shard, VideoRef
from tasks.sample_video import MeasuredVideo, ScoutedVideo
from tasks.scouted_costs import with_teacher

Stage = Literal["decode", "student", "teacher", "read"]

PUBLISH_SECONDS, PUBLISH_SECONDS_PER_SHARD, PUBLISH_SECONDS_PER_VIDEO = 1.0, 1.7e-3, 9e-5
"""Publishing as measured by ``benchmarks/bench_scale.py`` on 100,000 and 1,000,000 videos, see docs/experiments.md."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplePlan:
    """The videos to measure, of those that a run has left to label."""

    shards: tuple[Shard, ...]
    design: SampleDesign
    videos: tuple[VideoRef, ...]
    """In the order of the design."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSetting:
    """What decides about a run's cost besides its videos."""

    workers: int
    model_threads: int | None
    """Of each worker's models, which spend their CPU seconds on as many at once; None counts as one."""
    startup_seconds: float
    prices: PriceTable | None
    audit_share: float = 0.0
    """Share of the videos that the teacher labels densely besides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEstimate:
    """What a run will take, from start to published tables. Intervals are about which videos were drawn."""

    videos: int
    """All that are left to label, for which everything here is."""
    sampled_videos: int
    """Seen by the student, or labeled in full where the policy needs the teacher to tell what it asks next."""
    sampled_failures: int
    workers: int
    wall_seconds: Estimate
    cpu_seconds: Estimate
    """Decoding, and the models where they run on CPUs: what the run's row will add up, and what is paid for."""
    gpu_seconds: Estimate
    teacher_seconds: Estimate
    """Of the device that the teacher runs on, as ``budget.teacher_gpu_seconds`` counts them; the audit's too."""
    student_flops: Estimate
    teacher_flops: Estimate
    audit_flops: Estimate
    """Of the teacher on the clips that only the audit asks about; the teacher's seconds include theirs."""
    usd: Estimate | None
    budget_share: float
    """Share of the clips that the policy wants which the run's budget is expected to pay for; 1 without a budget."""
    stage_seconds: dict[Stage, Estimate]
    """Wall time that each stage keeps one worker busy; decoding goes on beside the models. ``read`` is what neither the
    decoder, nor the models, nor waiting for a core accounts for: waiting for the store."""
    slowest_stage: Stage
    startup_seconds: float
    """Part of ``wall_seconds``: until the workers label."""
    publish_seconds: float
    """Part of ``wall_seconds``: modeled, not measured."""
    peak_memory_bytes: int
    """Of all workers with their decoders: the most that one needed in the sample, times their number."""

    def to_json(self) -> dict[str, Any]:
        """Return the object ``estimate`` of ``plan --json``."""
        return {"interval": LEVEL, **asdict(self)}


def plan_sample(shards: Sequence[Shard], sample: int, seed: int) -> SamplePlan:
    """Choose ``sample`` of the shards' videos at random, over all sizes; all where there are not so many.

    Raises:
        ConfigError: fewer than two are asked for.
    """
    refuse_small_sample(sample)
    videos = [video for shard in shards for video in shard.videos]
    design = design_sample(_shares(videos), sample, seed)
    return SamplePlan(shards=tuple(shards), design=design, videos=tuple(videos[place] for place in design.chosen_n))


def refuse_small_sample(sample: int) -> None:
    """Raise ConfigError for a sample that shows no spread."""
    if sample < 2:
        raise ConfigError("--sample", f"must be at least 2: one video does not show how much they differ, got {sample}")


def estimate_run(plan: SamplePlan, measured: Sequence[MeasuredVideo], setting: RunSetting) -> RunEstimate:
    """Add up what all videos of the plan will take; ``measured`` in any order, one for each video of the sample.

    Wall time is that of the shards handed, the dearest first, to whichever worker is free, each as long as its videos'
    expected shares of the whole, between start-up and publishing.
    """
    by_id = {one.video_id: one for one in measured}
    sample = [by_id[video.video_id] for video in plan.videos]
    audit_flops = [_audit_flops(one.cost, setting) for one in sample]
    pace = _teacher_pace(sample)
    costs = [
        _with_audit(one, flops * pace, setting.model_threads) for one, flops in zip(sample, audit_flops, strict=True)
    ]
    total = partial(estimate_total, plan.design)
    stages = _stage_seconds(plan.design, sample, costs, setting.model_threads)
    publish_seconds = _publish_seconds(plan)
    return RunEstimate(
        videos=plan.design.videos,
        sampled_videos=len(sample),
        sampled_failures=sum(one.failed for one in sample),
        workers=setting.workers,
        wall_seconds=total([cost.wall_seconds for cost in costs]).scaled(
            _busiest_share(plan, setting.workers), plus=setting.startup_seconds + publish_seconds
        ),
        cpu_seconds=total([cpu_seconds(cost) for cost in costs]),
        gpu_seconds=total([cost.gpu_seconds for cost in costs]),
        teacher_seconds=total([cost.teacher_seconds for cost in costs]),
        student_flops=total([cost.student_flops for cost in costs]),
        teacher_flops=total([cost.teacher_flops for cost in costs]),
        audit_flops=total(audit_flops),
        usd=None
        if setting.prices is None
        else total([price_usd(cost, one.device, setting.prices) for cost, one in zip(costs, sample, strict=True)]),
        budget_share=1.0,
        stage_seconds=stages,
        slowest_stage=max(stages, key=lambda stage: stages[stage].value),
        startup_seconds=setting.startup_seconds,
        publish_seconds=publish_seconds,
        peak_memory_bytes=setting.workers * max(one.peak_bytes for one in sample),
    )


def estimate_scouted(
    plan: SamplePlan,
    scouted: Sequence[ScoutedVideo],
    labeled: Mapping[str, MeasuredVideo],
    setting: RunSetting,
    budget: BudgetSettings | None,
) -> RunEstimate:
    """Do as ``estimate_run``, from the student's look at all videos of the sample and the teacher's at some of them.

    What a budget does not pay for is left out, as if every clip cost alike; the intervals are those of its share.
    """
    found = estimate_run(plan, with_teacher(scouted, labeled), setting)
    if budget is None or not budget.is_limited:
        return found
    student_alone = estimate_run(plan, with_teacher(scouted, labeled, 0.0), setting)
    share = affordable_share(budget, student_alone, found)
    if share == 1.0:
        return found
    return replace(estimate_run(plan, with_teacher(scouted, labeled, share), setting), budget_share=share)


def affordable_share(budget: BudgetSettings, student_alone: RunEstimate, whole: RunEstimate) -> float:
    """Return the share, 0 to 1, of the teacher's clips that every limit leaves room for; audits are paid for first."""
    shares = [1.0]
    for unit, limit in budget.limits.items():
        least, most = _amount(unit, student_alone), _amount(unit, whole)
        if most > limit:
            shares.append((limit - least) / (most - least) if limit > least else 0.0)
    return min(shares)


def _amount(unit: Unit, estimate: RunEstimate) -> float:
    match unit:
        case "teacher_flops":
            return estimate.teacher_flops.value + estimate.audit_flops.value
        case "teacher_gpu_seconds":
            return estimate.teacher_seconds.value
        case "usd":
            return estimate.usd.value if estimate.usd else 0.0
        case "wall_clock":
            return estimate.wall_seconds.value - estimate.publish_seconds


def _shares(videos: Sequence[VideoRef]) -> Floats:
    return expected_shares([nan if video.size_bytes is None else video.size_bytes for video in videos])


def _audit_flops(cost: ComputeCost, setting: RunSetting) -> float:
    """Return the expected FLOPs of the teacher on clips of this video that the policy does not ask about."""
    return setting.audit_share * max(cost.dense_teacher_flops - cost.teacher_flops, 0)


def _teacher_pace(sample: Sequence[MeasuredVideo]) -> float:
    """Return the teacher's seconds per FLOP; 0 where it was never asked, and its pace is not known."""
    flops = sum(one.cost.teacher_flops for one in sample)
    return sum(one.cost.teacher_seconds for one in sample) / flops if flops else 0.0


def _with_audit(one: MeasuredVideo, audit_seconds: float, model_threads: int | None) -> ComputeCost:
    """Return what the video costs, with the seconds of the teacher that its audit is expected to take."""
    added = ComputeCost(
        teacher_seconds=audit_seconds,
        gpu_seconds=audit_seconds if one.on_gpu else 0.0,
        wall_seconds=_model_wall(one, audit_seconds, model_threads),
    )
    return one.cost + added


def _model_wall(one: MeasuredVideo, model_seconds: float, model_threads: int | None) -> float:
    """Return how long a worker was in its models: on a CPU their seconds are those of all threads together."""
    return model_seconds if one.on_gpu else model_seconds / (model_threads or 1)


def _stage_seconds(
    design: SampleDesign, sample: Sequence[MeasuredVideo], costs: Sequence[ComputeCost], model_threads: int | None
) -> dict[Stage, Estimate]:
    seconds: dict[Stage, list[float]] = {stage: [] for stage in get_args(Stage)}
    for one, cost in zip(sample, costs, strict=True):
        student = _model_wall(one, cost.student_seconds, model_threads)
        teacher = _model_wall(one, cost.teacher_seconds, model_threads)
        seconds["decode"].append(cost.decode_cpu_seconds)
        seconds["student"].append(student)
        seconds["teacher"].append(teacher)
        accounted = cost.decode_cpu_seconds + student + teacher + one.core_wait_seconds
        seconds["read"].append(max(cost.wall_seconds - accounted, 0.0))
    return {stage: estimate_total(design, values) for stage, values in seconds.items()}


def _busiest_share(plan: SamplePlan, workers: int) -> float:
    """Return the share of all labeling that the worker which ends last does: 1 / workers where shards are many."""
    shares_N = _shares([video for shard in plan.shards for video in shard.videos])
    ends = list(accumulate((len(shard.videos) for shard in plan.shards), initial=0))
    return makespan(sorted((float(shares_N[start:end].sum()) for start, end in pairwise(ends)), reverse=True), workers)


def _publish_seconds(plan: SamplePlan) -> float:
    per_shards = PUBLISH_SECONDS_PER_SHARD * len(plan.shards)
    return PUBLISH_SECONDS + per_shards + PUBLISH_SECONDS_PER_VIDEO * plan.design.videos
