"""From clip probabilities to one answer per video. Separate from routing, so that neither takes credit for the other.

Every clip counts once: the teacher's answer where it was asked, else the student's. N clips, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from cdmodel.escalation import BoolArray
from cdmodel.scores import FloatArray, StudentScores, TeacherScores
from cdmodel.setting_groups import FORBID_UNKNOWN

SMALLEST_PROBABILITY = 1e-7
"""Floor before logarithms: one clip must not veto a class for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanProbability:
    """The plain mean of the clips' probabilities: the usual dense baseline."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    kind: Literal["mean"] = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPool:
    """A weighted logarithmic pool. Source: Genest and Zidek 1986.

    Clip i weighs ``c_i ** confidence_power``, times ``teacher_factor`` where the teacher was asked; c_i is P(right) of
    whoever answered. With W the sum of weights, the pool is softmax(sum_i w_i log p_i / W ** (1 - independence)).
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    confidence_power: float = 2.0
    """0 weighs all clips alike; larger trusts confident clips more."""
    independence: float = 0.0
    """0 averages the evidence of the clips, 1 treats them as independent."""
    teacher_factor: float = 1.0
    kind: Literal["log_pool"] = "log_pool"

    def __post_init__(self) -> None:
        # Beyond these the weights of unsure clips vanish in the arithmetic, and their share is no number.
        if not 0 <= self.confidence_power <= 20:
            raise ValueError(f"confidence_power must lie between 0 and 20, got {self.confidence_power}")
        if not 0 <= self.independence <= 1:
            raise ValueError(f"independence must lie between 0 and 1, got {self.independence}")
        if not 1e-6 <= self.teacher_factor <= 1e6:
            raise ValueError(f"teacher_factor must lie between 1e-6 and 1e6, got {self.teacher_factor}")


Aggregation = MeanProbability | LogPool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAnswers:
    """The answer that counts for each clip."""

    probabilities_NK: FloatArray
    confidence_N: FloatArray
    """P(right) of whoever answered: ``q_teacher`` or ``q_student``, or the teacher's peak where no student looked."""
    by_teacher_N: BoolArray


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoScore:
    """The aggregate of one video."""

    probabilities_K: NDArray[np.float64]
    """Uncalibrated across clips; ``Calibration.video_temperature`` comes after."""
    weights_N: NDArray[np.float64]
    """Share of each clip; sums to 1."""


def merge_answers(student: StudentScores | None, teacher: TeacherScores | None, escalated_N: BoolArray) -> ClipAnswers:
    """Take the teacher's answer where it was asked and the student's elsewhere.

    ``teacher`` holds one row per true entry of ``escalated_N``, in order; None stands for no rows. ``student`` is None
    where the student did not run, which requires every clip to be escalated.
    """
    if student is None:
        if teacher is None or not escalated_N.all():
            raise ValueError("without a student every clip needs the teacher")
        peaks_N = teacher.probabilities_NK.max(axis=1)
        return ClipAnswers(probabilities_NK=teacher.probabilities_NK, confidence_N=peaks_N, by_teacher_N=escalated_N)
    probabilities_NK = student.probabilities_NK.copy()
    if teacher is not None:
        probabilities_NK[escalated_N] = teacher.probabilities_NK
    confidence_N = np.where(escalated_N, student.q_teacher_N, student.q_student_N).astype(np.float32)
    return ClipAnswers(probabilities_NK=probabilities_NK, confidence_N=confidence_N, by_teacher_N=escalated_N)


def aggregate(aggregation: Aggregation, answers: ClipAnswers) -> VideoScore:
    """Return the video's class probabilities and each clip's share in them. ``answers`` must hold a clip."""
    match aggregation:
        case MeanProbability():
            weights_N = np.full(len(answers.confidence_N), 1.0 / len(answers.confidence_N))
            return VideoScore(probabilities_K=weights_N @ answers.probabilities_NK, weights_N=weights_N)
        case LogPool():
            return _log_pool(aggregation, answers)
        case _:
            assert_never(aggregation)


def _log_pool(pool: LogPool, answers: ClipAnswers) -> VideoScore:
    confidence_N = np.maximum(answers.confidence_N.astype(np.float64), SMALLEST_PROBABILITY)
    weights_N = confidence_N**pool.confidence_power
    weights_N = np.where(answers.by_teacher_N, pool.teacher_factor * weights_N, weights_N)
    total = weights_N.sum()
    log_probabilities_NK = np.log(np.maximum(answers.probabilities_NK.astype(np.float64), SMALLEST_PROBABILITY))
    evidence_K = (weights_N @ log_probabilities_NK) / total ** (1.0 - pool.independence)
    odds_K = np.exp(evidence_K - evidence_K.max())
    return VideoScore(probabilities_K=odds_K / odds_K.sum(), weights_N=weights_N / total)
