"""From clip probabilities to one answer per video. Separate from routing, so that neither takes credit for the other.

Every clip counts at most once: the teacher's answer where it was asked, else the student's. N clips, K labels.

Arrays may have leading axes: several videos of N clips, or one video after several sets of questions. Each is worked out
by itself, so that a replay, which scores many at once, has the bits of a live run, which scores one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from cdmodel.calibration import temper
from cdmodel.labels import LabelKind
from cdmodel.scores import BoolArray, FloatArray, StudentScores, TeacherScores, VideoState
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

    def view(self, state: VideoState) -> Float64Array:
        """Return what is thought of a video while it is labeled: the aggregate [K] in which every clip seen counts."""
        return self.score(merge_answers(state, np.ones(state.clips, dtype=np.bool_))).probabilities_K

    def view_before(self, student: StudentScores) -> Float64Array:
        """Return what is thought of videos before the teacher has said anything, [K] each."""
        asked_N = np.zeros(student.q_student_N.shape, dtype=np.bool_)
        return self.score(combine_answers(student, None, asked_N, ~asked_N)).probabilities_K


def merge_answers(state: VideoState, counted_N: BoolArray) -> ClipAnswers:
    """Take the teacher's answer where it was asked and the student's elsewhere, of the clips that count.

    Clips that nobody looked at never count. Where nothing is left, every clip that somebody looked at counts after all.
    """
    if state.student is None and state.teacher is None:
        raise ValueError("without a student the teacher must answer at least one clip")
    if state.teacher is None:
        return combine_answers(state.student, None, state.asked_N, counted_N)
    probabilities_NK = np.zeros((state.clips, state.teacher.probabilities_NK.shape[1]), dtype=np.float32)
    confidence_N = np.zeros(state.clips, dtype=np.float32)
    probabilities_NK[state.asked_N] = state.teacher.probabilities_NK
    confidence_N[state.asked_N] = state.teacher.confidence_N
    spread = TeacherScores(probabilities_NK=probabilities_NK, confidence_N=confidence_N)
    return combine_answers(state.student, spread, state.asked_N, counted_N)


def combine_answers(
    student: StudentScores | None, teacher: TeacherScores | None, asked_N: BoolArray, counted_N: BoolArray
) -> ClipAnswers:
    """Do the same with a row of the teacher's for every clip; those of clips it was not asked about change nothing.

    Without a student, at least one clip of each video must be asked; without a teacher, none is.
    """
    seen_N = asked_N if student is None else np.ones_like(asked_N)
    kept_N = counted_N & seen_N
    probabilities_NK, confidence_N = _pick(student, teacher, asked_N)
    return ClipAnswers(
        probabilities_NK=probabilities_NK,
        confidence_N=confidence_N,
        by_teacher_N=asked_N,
        counted_N=np.where(kept_N.any(axis=-1, keepdims=True), kept_N, seen_N),
    )


def _pick(
    student: StudentScores | None, teacher: TeacherScores | None, asked_N: BoolArray
) -> tuple[FloatArray, FloatArray]:
    if teacher is None:
        assert student is not None
        return student.probabilities_NK, student.q_student_N
    nothing = np.float32(0)
    return (
        np.where(
            asked_N[..., None], teacher.probabilities_NK, nothing if student is None else student.probabilities_NK
        ),
        np.where(asked_N, teacher.confidence_N, nothing if student is None else student.q_student_N),
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
    shares_N = weights_N / weights_N.sum(axis=-1, keepdims=True)
    return VideoScore(probabilities_K=_weigh(shares_N, answers.probabilities_NK), weights_N=shares_N)


def _confidence_weights(answers: ClipAnswers, power: float) -> Float64Array:
    confidence_N = np.maximum(answers.confidence_N.astype(np.float64), SMALLEST_PROBABILITY)
    return np.where(answers.counted_N, confidence_N**power, 0.0)


def _top_mean(answers: ClipAnswers, clips: int, kind: LabelKind) -> VideoScore:
    probabilities_NK = answers.probabilities_NK.astype(np.float64)
    # What does not count sorts last and adds nothing.
    falling_NK = -np.sort(np.where(answers.counted_N[..., None], -probabilities_NK, np.inf), axis=-2)
    taken_1 = np.minimum(answers.counted_N.sum(axis=-1, keepdims=True), clips)
    place_N = np.arange(answers.counted_N.shape[-1])
    best_NK = np.where((place_N < taken_1)[..., None], falling_NK, 0.0)
    probabilities_K = best_NK[..., :clips, :].sum(axis=-2) / taken_1
    if kind == "single":
        probabilities_K = probabilities_K / probabilities_K.sum(axis=-1, keepdims=True)
    # Which clip counts differs from label to label: shown are those behind the winning one.
    winner_1 = probabilities_K.argmax(axis=-1, keepdims=True)
    winner_N = np.take_along_axis(probabilities_NK, winner_1[..., None], axis=-1)[..., 0]
    order_N = np.argsort(-np.where(answers.counted_N, winner_N, -1.0), axis=-1, kind="stable")
    weights_N = np.zeros(winner_N.shape)
    np.put_along_axis(weights_N, order_N, np.where(place_N < taken_1, 1.0 / taken_1, 0.0), axis=-1)
    return VideoScore(probabilities_K=probabilities_K, weights_N=weights_N)


def _log_pool(pool: LogPool, answers: ClipAnswers, kind: LabelKind) -> VideoScore:
    weights_N = _confidence_weights(answers, pool.confidence_power)
    weights_N = np.where(answers.by_teacher_N, pool.teacher_factor * weights_N, weights_N)
    total_1 = weights_N.sum(axis=-1, keepdims=True)
    power_1 = total_1 ** (1.0 - pool.independence)
    probabilities_NK = np.clip(answers.probabilities_NK.astype(np.float64), SMALLEST_PROBABILITY, 1.0)
    match kind:
        case "single":
            evidence_K = _weigh(weights_N, np.log(probabilities_NK)) / power_1
            odds_K = np.exp(evidence_K - evidence_K.max(axis=-1, keepdims=True))
            probabilities_K = odds_K / odds_K.sum(axis=-1, keepdims=True)
        case "multi":
            against_NK = np.maximum(1.0 - probabilities_NK, SMALLEST_PROBABILITY)
            evidence_K = _weigh(weights_N, np.log(probabilities_NK / against_NK)) / power_1
            probabilities_K = 1.0 / (1.0 + np.exp(-np.clip(evidence_K, -60.0, 60.0)))
        case _:
            assert_never(kind)
    return VideoScore(probabilities_K=probabilities_K, weights_N=weights_N / total_1)


def _weigh(weights_N: Float64Array, values_NK: NDArray[np.floating]) -> Float64Array:
    """Return the weighted sum [K] over the clips."""
    return np.asarray((weights_N[..., None, :] @ values_NK)[..., 0, :])


def _require_power(power: float) -> None:
    # Beyond these the weights of unsure clips vanish in the arithmetic, and their share is no number.
    if not 0 <= power <= 20:
        raise ValueError(f"confidence_power must lie between 0 and 20, got {power}")
