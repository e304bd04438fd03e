"""What an evaluation shows beside its points: flips, who is escalated, reliability, and policies at one price.

Pure, on replays of ``test`` and on the points of ``evaluation``. V videos, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdmodel.evaluation import PLAIN_MEAN, Subject
from cdmodel.evaluation_points import PolicyPoint
from cdmodel.intervals import mcnemar_p
from cdmodel.labels import is_right
from cdmodel.metrics import (
    ReliabilityBins,
    RiskCoverage,
    accuracy_at_cost,
    area_under_cost,
    deferral_efficiency,
    gap_recovered,
    reliability_bins,
    risk_coverage,
)
from cdmodel.policies import DenseStudent, DenseTeacher
from cdmodel.replay import CachedVideo, Replay, ScoredVideo, calibrate, harm, replay, truth_of
from cdmodel.scores import BoolArray

COST_SHARES = (0.1, 0.2, 0.3, 0.5)
"""Of the dense teacher's FLOPs: prices at which policies are compared."""
LENGTH_GROUPS = 5
WITHOUT_STUDENT = ("dense_teacher", "uniform", "random", "centre", "early_exit")
"""Policies whose cheapest end is not the student's answer: they have no area over the escalated share."""
UNKNOWN_LABELS = "(labels the bundle does not know)"
ORACLE, CHANCE = "oracle_subset", "random_mix"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipTable:
    """The bundle's default and the dense teacher on the same videos."""

    both_right: int
    harmful: int
    """Wrong here, right under the dense teacher."""
    helpful: int
    """Right here, wrong under the dense teacher."""
    both_wrong: int
    mcnemar_p: float
    """Exact, two-sided, videos taken as independent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSlice:
    """Some of the test videos under the bundle's default."""

    name: str
    videos: int
    escalated_clip_share: float
    accuracy: float
    dense_teacher_accuracy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderComparison:
    """One policy under one aggregation, over all of its settings."""

    policy: str
    aggregation: str
    accuracy_at_cost_share: tuple[float | None, ...]
    """At ``COST_SHARES`` of the dense teacher's FLOPs, by interpolation; None below the policy's cheapest setting."""
    gap_recovered: tuple[float | None, ...]
    """(A - A_student) / (A_teacher - A_student) there; None as well where there is no gap."""
    area_over_escalated_share: float | None
    """Mean accuracy over escalated shares from 0 (the student alone) to 1; None for policies without a student."""
    deferral_efficiency: float | None
    """That area above random escalation, as a share of the greedy oracle's; under the plain mean alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationDetails:
    """Everything that tables and plots show beside ``Evaluation``."""

    flips: FlipTable
    mean_class_accuracy: Mapping[str, float]
    """Of the default, the dense teacher and the dense student: each class counts alike."""
    by_class: tuple[VideoSlice, ...]
    """A video with several labels counts under each of them; those the bundle knows no label of stand at the end."""
    by_length: tuple[VideoSlice, ...]
    """Videos in up to five groups of about equal size, by their number of clips."""
    reliability: Mapping[str, ReliabilityBins]
    """Of ``video_confidence``, ``q_teacher`` and ``q_student``."""
    risk_coverage: Mapping[str, RiskCoverage]
    """Of the default, the dense teacher and the dense student."""


def describe_test(test: Sequence[CachedVideo], subject: Subject, labels: Sequence[str]) -> EvaluationDetails:
    """Replay the bundle's default and both dense ends on ``test`` and look closer."""
    videos = [calibrate(video, subject.calibration, subject.label_kind) for video in test]
    default = replay(subject.policy, subject.judge, videos, subject.flops)
    plain = subject.judge_with(PLAIN_MEAN)
    dense = replay(DenseTeacher(), plain, videos, subject.flops)
    student = replay(DenseStudent(), plain, videos, subject.flops)
    runs = {"default": default, "dense_teacher": dense, "dense_student": student}
    return EvaluationDetails(
        flips=_count_flips(default, dense),
        mean_class_accuracy={name: _mean_class_accuracy(run, truth_of(videos)) for name, run in runs.items()},
        by_class=_slice_by_class(default, dense, truth_of(videos), labels),
        by_length=_slice_by_length(default, dense),
        reliability=_reliability(videos, default),
        risk_coverage={
            name: risk_coverage(run.probabilities_VK.max(axis=1), run.right_V) for name, run in runs.items()
        },
    )


def compare_ladders(
    points: Sequence[PolicyPoint], *, dense_flops: float, student_accuracy: float, teacher_accuracy: float
) -> tuple[LadderComparison, ...]:
    """Compare all policies at the same prices; ``points`` are an evaluation's policies and baselines together."""
    ladders: dict[tuple[str, str], list[PolicyPoint]] = {}
    for point in points:
        ladders.setdefault((point.policy, point.aggregation), []).append(point)
    ends = {
        aggregation: rungs[0].accuracy
        for (policy, aggregation), rungs in ladders.items()
        if policy == DenseStudent().kind
    }
    areas = {key: _area(key, rungs, ends.get(key[1]), teacher_accuracy) for key, rungs in ladders.items()}
    compared = []
    for key, rungs in ladders.items():
        policy, aggregation = key
        accuracies = tuple(_at_share(rungs, share * dense_flops) for share in COST_SHARES)
        compared.append(
            LadderComparison(
                policy=policy,
                aggregation=aggregation,
                accuracy_at_cost_share=accuracies,
                gap_recovered=tuple(
                    None if value is None else gap_recovered(value, student=student_accuracy, teacher=teacher_accuracy)
                    for value in accuracies
                ),
                area_over_escalated_share=areas[key],
                deferral_efficiency=_efficiency(
                    areas[key], areas.get((CHANCE, aggregation)), areas.get((ORACLE, aggregation))
                ),
            )
        )
    return tuple(compared)


def _count_flips(default: Replay, dense: Replay) -> FlipTable:
    harmful, helpful = int(harm(default, dense).sum()), int(harm(dense, default).sum())
    return FlipTable(
        both_right=int((default.right_V & dense.right_V).sum()),
        harmful=harmful,
        helpful=helpful,
        both_wrong=int((~default.right_V & ~dense.right_V).sum()),
        mcnemar_p=mcnemar_p(helpful, harmful),
    )


def _mean_class_accuracy(run: Replay, truth_VK: BoolArray) -> float:
    shown_K = truth_VK.any(axis=0)
    return float(np.mean([run.right_V[truth_V].mean() for truth_V in truth_VK.T[shown_K]]))


def _slice_by_class(
    default: Replay, dense: Replay, truth_VK: BoolArray, labels: Sequence[str]
) -> tuple[VideoSlice, ...]:
    slices = [
        _slice(label, truth_V, default, dense)
        for label, truth_V in zip(labels, truth_VK.T, strict=True)
        if truth_V.any()
    ]
    unknown_V = np.asarray(~truth_VK.any(axis=1))
    return tuple(slices) if not unknown_V.any() else (*slices, _slice(UNKNOWN_LABELS, unknown_V, default, dense))


def _slice_by_length(default: Replay, dense: Replay) -> tuple[VideoSlice, ...]:
    edges = np.unique(np.quantile(default.clips_V, np.linspace(0, 1, LENGTH_GROUPS + 1)[1:-1], method="lower"))
    group_V = np.searchsorted(edges, default.clips_V)
    slices = []
    for group in np.unique(group_V):
        chosen_V = group_V == group
        low, high = int(default.clips_V[chosen_V].min()), int(default.clips_V[chosen_V].max())
        slices.append(_slice(str(low) if low == high else f"{low}-{high}", chosen_V, default, dense))
    return tuple(slices)


def _slice(name: str, chosen_V: NDArray[np.bool_], default: Replay, dense: Replay) -> VideoSlice:
    return VideoSlice(
        name=name,
        videos=int(chosen_V.sum()),
        escalated_clip_share=float(default.asked_V[chosen_V].sum() / default.clips_V[chosen_V].sum()),
        accuracy=float(default.right_V[chosen_V].mean()),
        dense_teacher_accuracy=float(dense.right_V[chosen_V].mean()),
    )


def _reliability(videos: Sequence[ScoredVideo], default: Replay) -> dict[str, ReliabilityBins]:
    truth_NK = np.concatenate([np.tile(video.truth_K, (len(video.student.q_student_N), 1)) for video in videos])
    teacher_right_N = is_right(np.concatenate([video.teacher.probabilities_NK for video in videos]), truth_NK)
    student_right_N = is_right(np.concatenate([video.student.probabilities_NK for video in videos]), truth_NK)
    return {
        "video_confidence": reliability_bins(default.probabilities_VK.max(axis=1), default.right_V),
        "q_teacher": reliability_bins(np.concatenate([v.student.q_teacher_N for v in videos]), teacher_right_N),
        "q_student": reliability_bins(np.concatenate([v.student.q_student_N for v in videos]), student_right_N),
    }


def _at_share(rungs: Sequence[PolicyPoint], flops: float) -> float | None:
    costs = [rung.flops_per_video for rung in rungs]
    if flops < min(costs):
        return None
    return accuracy_at_cost([rung.accuracy for rung in rungs], costs, flops)


def _area(
    key: tuple[str, str], rungs: Sequence[PolicyPoint], student_accuracy: float | None, teacher_accuracy: float
) -> float | None:
    if key[0] in WITHOUT_STUDENT or student_accuracy is None:
        return None
    shares = [0.0, *(rung.escalated_clip_share for rung in rungs)]
    accuracies = [student_accuracy, *(rung.accuracy for rung in rungs)]
    if key[0] == CHANCE:
        # The line from the student to the teacher; a policy's accuracy holds on beyond its dearest setting instead.
        shares, accuracies = [*shares, 1.0], [*accuracies, teacher_accuracy]
    return area_under_cost(accuracies, shares)


def _efficiency(area: float | None, random_area: float | None, oracle_area: float | None) -> float | None:
    if area is None or random_area is None or oracle_area is None:
        return None
    return deferral_efficiency(area, random_area=random_area, oracle_area=oracle_area)
