"""From clip probabilities to one answer per video. Separate from routing, so that neither takes credit for the other.

Every clip counts at most once: the teacher's answer where it was asked, else the student's. N clips, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from cdmodel.calibration import temper
from cdmodel.labels import LabelKind
from cdmodel.scores import BoolArray, FloatArray, VideoState
from cdmodel.setting_groups import FORBID_UNKNOWN

Float64Array = NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-7
"""Floor before logarithms: one clip must not veto a class for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeanProbability:
    """The plain mean of the clips' probabilities: the usual dense baseline."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    kind: Literal["mean"] = "mean"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightedMean:
    """The mean of the clips' probabilities, clip i weighing ``c_i ** confidence_power``, c_i being P(its answer right)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    confidence_power: float = 2.0
    """0 weighs all clips alike; larger trusts confident clips more."""
    kind: Literal["weighted_mean"] = "weighted_mean"

    def __post_init__(self) -> None:
        _require_power(self.confidence_power)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopMean:
    """For each label the mean over the ``clips`` clips that hold it likeliest; 1 is the maximum over the clips."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    clips: int = 1
    kind: Literal["top_mean"] = "top_mean"

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise ValueError(f"clips must be at least 1, got {self.clips}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPool:
    """A weighted logarithmic pool. Source: Genest and Zidek 1986.

    Clip i weighs ``c_i ** confidence_power``, times ``teacher_factor`` where the teacher was asked; c_i is P(its answer
    right). With W the sum of weights, the pool is softmax(sum_i w_i log p_i / W ** (1 - independence)); where a video may
    have several labels, the same of each label's log-odds. ``confidence_power`` 0 is the plain mean of the logits.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    confidence_power: float = 2.0
    """0 weighs all clips alike; larger trusts confident clips more."""
    independence: float = 0.0
    """0 averages the evidence of the clips, 1 treats them as independent."""
    teacher_factor: float = 1.0
    """How much more a clip counts for having been seen by the teacher."""
    kind: Literal["log_pool"] = "log_pool"

    def __post_init__(self) -> None:
        _require_power(self.confidence_power)
        if not 0 <= self.independence <= 1:
            raise ValueError(f"independence must lie between 0 and 1, got {self.independence}")
        if not 1e-6 <= self.teacher_factor <= 1e6:
            raise ValueError(f"teacher_factor must lie between 1e-6 and 1e6, got {self.teacher_factor}")


Aggregation = MeanProbability | WeightedMean | TopMean | LogPool


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAnswers:
    """The answer that counts for each clip, or that none does."""

    probabilities_NK: FloatArray
    confidence_N: FloatArray
    """P(this answer right)."""
    by_teacher_N: BoolArray
    counted_N: BoolArray
    """False: the clip was dropped, or nobody looked at it; its other columns mean nothing. At least one is True."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoScore:
    """The aggregate of one video."""

    probabilities_K: Float64Array
    """Uncalibrated across clips; ``Judge`` applies the video temperature."""
    weights_N: Float64Array
    """Share of each clip; sums to 1, dropped clips have 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """How a video's clips become its answer: everything of a run that is the same for all videos."""

    aggregation: Aggregation
    label_kind: LabelKind = "single"
    video_temperature: float = 1.0
    """Makes the aggregate's probabilities mean what they say."""

    def score(self, answers: ClipAnswers) -> VideoScore:
        """Return the calibrated aggregate."""
        raw = aggregate(self.aggregation, answers, self.label_kind)
        calibrated_K = temper(raw.probabilities_K, self.video_temperature, self.label_kind)
        return VideoScore(probabilities_K=calibrated_K, weights_N=raw.weights_N)


def merge_answers(state: VideoState, counted_N: BoolArray) -> ClipAnswers:
    """Take the teacher's answer where it was asked and the student's elsewhere, of the clips that count.

    Clips that nobody looked at never count. Where nothing is left, every clip that somebody looked at counts after all.
    """
    seen_N = state.asked_N if state.student is None else np.ones(state.clips, dtype=np.bool_)
    if not seen_N.any():
        raise ValueError("without a student the teacher must answer at least one clip")
    kept_N = counted_N & seen_N
    if state.student is None:
        assert state.teacher is not None
        probabilities_NK = np.zeros((state.clips, state.teacher.probabilities_NK.shape[1]), dtype=np.float32)
        confidence_N = np.zeros(state.clips, dtype=np.float32)
    else:
        probabilities_NK = state.student.probabilities_NK.copy()
        confidence_N = state.student.q_student_N.copy()
    if state.teacher is not None:
        probabilities_NK[state.asked_N] = state.teacher.probabilities_NK
        confidence_N[state.asked_N] = state.teacher.confidence_N
    return ClipAnswers(
        probabilities_NK=probabilities_NK,
        confidence_N=confidence_N,
        by_teacher_N=state.asked_N,
        counted_N=kept_N if kept_N.any() else seen_N,
    )


def aggregate(aggregation: Aggregation, answers: ClipAnswers, kind: LabelKind) -> VideoScore:
    """Return the video's label probabilities and each clip's share in them."""
    match aggregation:
        case MeanProbability():
            return _mean(answers, answers.counted_N.astype(np.float64))
        case WeightedMean(confidence_power=power):
            return _mean(answers, _confidence_weights(answers, power))
        case TopMean(clips=clips):
            return _top_mean(answers, clips, kind)
        case LogPool():
            return _log_pool(aggregation, answers, kind)
        case _:
            assert_never(aggregation)


def _mean(answers: ClipAnswers, weights_N: Float64Array) -> VideoScore:
    shares_N = weights_N / weights_N.sum()
    return VideoScore(probabilities_K=shares_N @ answers.probabilities_NK, weights_N=shares_N)


def _confidence_weights(answers: ClipAnswers, power: float) -> Float64Array:
    confidence_N = np.maximum(answers.confidence_N.astype(np.float64), SMALLEST_PROBABILITY)
    return np.where(answers.counted_N, confidence_N**power, 0.0)


def _top_mean(answers: ClipAnswers, clips: int, kind: LabelKind) -> VideoScore:
    counted_MK = answers.probabilities_NK[answers.counted_N].astype(np.float64)
    best_MK = -np.sort(-counted_MK, axis=0)[:clips]
    probabilities_K = best_MK.mean(axis=0)
    if kind == "single":
        probabilities_K = probabilities_K / probabilities_K.sum()
    # Which clip counts differs from label to label: shown are those behind the winning one.
    winner_N = np.where(answers.counted_N, answers.probabilities_NK[:, probabilities_K.argmax()], -1.0)
    top_N = np.argsort(-winner_N, kind="stable")[: len(best_MK)]
    weights_N = np.zeros(len(winner_N))
    weights_N[top_N] = 1.0 / len(top_N)
    return VideoScore(probabilities_K=probabilities_K, weights_N=weights_N)


def _log_pool(pool: LogPool, answers: ClipAnswers, kind: LabelKind) -> VideoScore:
    weights_N = _confidence_weights(answers, pool.confidence_power)
    weights_N = np.where(answers.by_teacher_N, pool.teacher_factor * weights_N, weights_N)
    total = weights_N.sum()
    probabilities_NK = np.clip(answers.probabilities_NK.astype(np.float64), SMALLEST_PROBABILITY, 1.0)
    match kind:
        case "single":
            evidence_K = (weights_N @ np.log(probabilities_NK)) / total ** (1.0 - pool.independence)
            odds_K = np.exp(evidence_K - evidence_K.max())
            probabilities_K = odds_K / odds_K.sum()
        case "multi":
            against_NK = np.maximum(1.0 - probabilities_NK, SMALLEST_PROBABILITY)
            evidence_K = (weights_N @ np.log(probabilities_NK / against_NK)) / total ** (1.0 - pool.independence)
            probabilities_K = 1.0 / (1.0 + np.exp(-np.clip(evidence_K, -60.0, 60.0)))
        case _:
            assert_never(kind)
    return VideoScore(probabilities_K=probabilities_K, weights_N=weights_N / total)


def _require_power(power: float) -> None:
    # Beyond these the weights of unsure clips vanish in the arithmetic, and their share is no number.
    if not 0 <= power <= 20:
        raise ValueError(f"confidence_power must lie between 0 and 20, got {power}")
