"""What a run spent against what the teacher on every clip would have: arithmetic on the run's row, for reports.

Pure. Where a figure was not measured, the comparison is left out rather than invented.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from storage.run_record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class CostPair:
    """One measure of cost, as it was and as dense teaching would have made it."""

    measure: str
    """``FLOPs``, ``seconds`` or ``US dollars``."""
    spent: float
    dense: float
    is_estimate: bool
    """Whether the dense side is estimated from the run's own pace; FLOPs are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """Seconds of work in one stage, over all workers."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFacts:
    """What the audit slice told. None is what was not measured."""

    videos: int
    agreement: float | None
    agreement_low: float | None
    agreement_high: float | None
    groups: int | None
    """Source recordings among them; None where the corpus names none."""
    mean_confidence: float | None
    calibration_error: float | None
    student_drift: float | None
    """Population stability index against the bundle's reference."""
    teacher_drift: float | None
    saved_flops_share: float | None
    """With the audit's own cost on the side of what was spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLimit:
    """One limit of a run's budget."""

    unit: str
    """A field of ``cdmodel.budget.BudgetSettings``."""
    limit: float
    spent: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetFacts:
    """What the run was allowed to spend, and what that left to the student."""

    limits: tuple[BudgetLimit, ...]
    clips_unfunded: int
    videos_unfunded: int


def compare_costs(record: RunRecord) -> tuple[CostPair, ...]:
    """Return the measures that are known on both sides: FLOPs, then seconds, then US dollars.

    The dense seconds are those that ``saved_seconds_share`` was computed from. The price of the run includes its audit; the dense
    price takes every dense second at what a second of this run cost on average: with a GPU that is too little, since the
    teacher's seconds are the dear ones.
    """
    pairs = []
    if record.dense_teacher_flops:
        flops = record.student_flops + record.teacher_flops
        pairs.append(CostPair(measure="FLOPs", spent=flops, dense=record.dense_teacher_flops, is_estimate=False))
    seconds = record.decode_cpu_seconds + record.student_seconds + record.teacher_seconds
    share = record.saved_seconds_share
    if share is not None and share < 1 and seconds > 0:
        dense = seconds / (1 - share)
        pairs.append(CostPair(measure="seconds", spent=seconds, dense=dense, is_estimate=True))
        if record.cost_usd:
            usd_per_second = record.cost_usd / (seconds + (record.audit_seconds or 0.0))
            dense_usd = usd_per_second * dense
            pairs.append(CostPair(measure="US dollars", spent=record.cost_usd, dense=dense_usd, is_estimate=True))
    return tuple(pairs)


def stage_seconds(record: RunRecord) -> tuple[StageSeconds, ...]:
    """Return the work by stage, in the order of a video's way; the audit's only where there was one."""
    stages = [
        StageSeconds(stage="decode", seconds=record.decode_cpu_seconds),
        StageSeconds(stage="student", seconds=record.student_seconds),
        StageSeconds(stage="teacher", seconds=record.teacher_seconds),
    ]
    if record.audit_seconds:
        stages.append(StageSeconds(stage="audit", seconds=record.audit_seconds))
    return tuple(stages)


def audit_facts(record: RunRecord) -> AuditFacts:
    """Return the audit's figures, and the drift, which is known without an audit too."""
    return AuditFacts(
        videos=record.audit_videos or 0,
        agreement=record.audit_agreement,
        agreement_low=record.audit_agreement_low,
        agreement_high=record.audit_agreement_high,
        groups=record.audit_groups,
        mean_confidence=record.audit_confidence,
        calibration_error=record.audit_ece,
        student_drift=record.student_drift,
        teacher_drift=record.teacher_drift,
        saved_flops_share=record.saved_flops_share_with_audit,
    )


def budget_facts(record: RunRecord) -> BudgetFacts | None:
    """Return the budget's figures; None where the run had no budget."""
    if record.budget_json is None:
        return None
    told = json.loads(record.budget_json)
    return BudgetFacts(
        limits=tuple(
            BudgetLimit(unit=unit, limit=figures["limit"], spent=figures.get("spent")) for unit, figures in told.items()
        ),
        clips_unfunded=record.clips_unfunded or 0,
        videos_unfunded=record.videos_unfunded or 0,
    )


def split_alarms(names: str | None) -> tuple[str, ...] | None:
    """Return the alarms that a run's row names: none rang where it is empty, nothing was checked where it is null."""
    return None if names is None else tuple(name for name in names.split(",") if name)
