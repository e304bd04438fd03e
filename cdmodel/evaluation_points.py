"""What an evaluation finds, as values: one type for each part of the document. Nothing here computes.

Shares are of the dense teacher's cost; accuracies are fractions of videos; decoding is in the seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Metric = Literal["accuracy_top1", "accuracy_hit1"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DensePoint:
    """One model on every clip, plain mean."""

    accuracy: float
    flops_per_video: float
    seconds_per_video: float
    decode_seconds_per_video: float
    mean_average_precision: float | None
    """Where videos may have several labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyPoint:
    """One policy at one setting, on ``test``."""

    policy: str
    aggregation: str
    setting: float | None
    accuracy: float
    accuracy_ci95: tuple[float, float]
    flops_per_video: float
    seconds_per_video: float
    saved_flops_share: float
    saved_seconds_share: float
    escalated_clip_share: float
    harmful_flips: int
    """Videos wrong here and right under the dense teacher."""
    helpful_flips: int
    mean_average_precision: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ParityPoint:
    """The cheapest policy whose accuracy on ``cal`` is within the tolerance of the dense teacher's; measured on test."""

    tolerance_points: float
    policy: str | None
    """None where no setting reaches it on ``cal``."""
    setting: float | None
    accuracy: float | None
    accuracy_minus_dense_ci95: tuple[float, float] | None
    """Paired by video, bootstrap over groups."""
    saved_flops_share: float | None
    saved_seconds_share: float | None
    mean_average_precision: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPoint:
    """Whether probabilities mean what they say, on ``test``. Expected calibration errors in 15 bins of equal mass."""

    video_ece: float
    video_ece_debiased: float
    """Root mean square, freed of the plug-in's bias."""
    q_teacher_ece: float
    q_student_ece: float
    q_teacher_auroc: float | None
    q_student_auroc: float | None
    gain_auroc: float | None
    """Of clips on which the teacher is right and the student wrong."""
    augrc: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CertifiedPoint:
    """The certified threshold and what it did on ``test``."""

    epsilon: float
    delta: float
    groups: int
    setting: float | None
    """Smallest value that is escalated; None where nothing could be certified."""
    harm_on_test: float | None
    saved_flops_share: float | None
    reason: str | None
    """Why not, where nothing could be certified."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RivalPoint:
    """A policy at the default's mean FLOPs on ``test``, between its two nearest settings mixed at random."""

    policy: str
    aggregation: str
    accuracy: float
    default_minus_rival_ci95: tuple[float, float]
    """Paired by video, bootstrap over groups."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """All figures; shares are of the dense teacher's cost, decoding included in seconds."""

    metric: Metric
    dense_teacher: DensePoint
    dense_student: DensePoint
    default: PolicyPoint
    default_minus_dense_ci95: tuple[float, float]
    at_parity: ParityPoint
    policies: tuple[PolicyPoint, ...]
    baselines: tuple[PolicyPoint, ...]
    ablations: Mapping[str, Mapping[str, object]]
    calibration: CalibrationPoint
    certified: CertifiedPoint | None
    at_default_cost: tuple[RivalPoint, ...]
    """Policies and baselines that can spend what the default does."""
    requested_and_realised: tuple[Mapping[str, float], ...]
    """Escalated shares asked for by thresholds from ``cal``, and what they came to on ``test``."""
