"""Making scores mean what they say: temperatures for label probabilities, logistic maps for "is this answer right?".

NumPy only: fitted once when a bundle is trained (``calibration_fit``), applied in every run and every replay. The maps
see a clip in the context of its video: whether its answer agrees with what the student thinks of the whole.
N clips, M clips the teacher answered, K labels, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cdmodel.labels import LabelKind, probabilities_of
from cdmodel.scores import BoolArray, FloatArray, StudentLogits, StudentScores, TeacherScores
from cdmodel.setting_groups import FORBID_UNKNOWN

Float64Array = NDArray[np.float64]

SMALLEST = 1e-6
SUREST_LOGIT = 15.0
"""No confidence lies beyond, so that float32 keeps it off 0 and 1 and every gain is strictly above -1."""
CLIP_FEATURES = (
    "q_teacher_logit",
    "q_student_logit",
    "log_peak",
    "margin",
    "entropy",
    "support",
    "divergence",
    "video_peak",
    "q_teacher_above_video",
    "q_student_above_video",
)
"""What ``q_teacher`` and ``q_student`` are computed from; see ``describe_clips``."""
ANSWER_FEATURES = ("log_peak", "margin", "entropy", "q_teacher_logit", "support", "student_support")
"""What the confidence in a teacher's answer is computed from; see ``describe_answers``. The first three need no student."""
ALONE_FEATURES = ANSWER_FEATURES[:3]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceMap:
    """P(right) = sigmoid(bias + weights . features). With one weight on one logit it is Platt scaling (Platt 1999)."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    weights: tuple[float, ...]
    """One for each feature, in the order of the tuple of names it was fitted with."""
    bias: float = 0.0

    def __call__(self, features_NF: Float64Array) -> FloatArray:
        """Return P(right) per row, float32, never quite 0 or 1; the same bits whichever rows stand beside it."""
        # Not a matrix product: BLAS sums a row differently at the end of its blocks, so that a live run, which asks
        # about some clips, would differ from a replay of all of them in the last bit.
        logit_N = (features_NF * np.asarray(self.weights)).sum(axis=1) + self.bias
        return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logit_N, -SUREST_LOGIT, SUREST_LOGIT))), dtype=np.float32)


def _believe(features: tuple[str, ...], name: str) -> ConfidenceMap:
    """Return the map that takes one feature as it is."""
    return ConfidenceMap(weights=tuple(float(feature == name) for feature in features))


_Q_TEACHER = _believe(CLIP_FEATURES, "q_teacher_logit")
_Q_STUDENT = _believe(CLIP_FEATURES, "q_student_logit")
_TEACHER_ANSWER = _believe(ANSWER_FEATURES, "q_teacher_logit")
_TEACHER_ALONE = ConfidenceMap(weights=(2.0, 1.0, 0.0), bias=2.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Every calibration of a bundle. The defaults believe the networks."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0
    video_temperature: float = 1.0
    """Applied after aggregation, under the bundle's default policy and aggregation."""
    q_teacher: ConfidenceMap = _Q_TEACHER
    q_student: ConfidenceMap = _Q_STUDENT
    teacher_answer: ConfidenceMap = _TEACHER_ANSWER
    """P(teacher right) once it has answered a clip that the student has seen in its video."""
    teacher_alone: ConfidenceMap = _TEACHER_ALONE
    """The same where no student was run."""

    def __post_init__(self) -> None:
        if not all(value > 0 for value in (self.student_temperature, self.teacher_temperature, self.video_temperature)):
            raise ValueError(f"temperatures must be above 0, got {self}")
        for name, features in (
            ("q_teacher", CLIP_FEATURES),
            ("q_student", CLIP_FEATURES),
            ("teacher_answer", ANSWER_FEATURES),
            ("teacher_alone", ALONE_FEATURES),
        ):
            if len(getattr(self, name).weights) != len(features):
                raise ValueError(f"{name} needs {len(features)} weights, got {len(getattr(self, name).weights)}")


def calibrate_student(raw: StudentLogits, calibration: Calibration, kind: LabelKind) -> StudentScores:
    """Return the calibrated scores of all clips of one video."""
    features_NF = describe_clips(raw, calibration.student_temperature, kind)
    return StudentScores(
        probabilities_NK=probabilities_of(raw.logits_NK, kind, calibration.student_temperature).astype(np.float32),
        q_teacher_N=calibration.q_teacher(features_NF),
        q_student_N=calibration.q_student(features_NF),
        motion_N=raw.motion_N,
    )


def calibrate_teacher(
    logits_MK: FloatArray,
    asked_N: BoolArray,
    student: StudentScores | None,
    calibration: Calibration,
    kind: LabelKind,
) -> TeacherScores:
    """Return the calibrated answers to the M asked clips of one video; row i does not depend on the other rows."""
    probabilities_MK = probabilities_of(logits_MK, kind, calibration.teacher_temperature)
    if student is None:
        confidence_M = calibration.teacher_alone(_certainty(probabilities_MK, kind))
    else:
        confidence_M = calibration.teacher_answer(describe_answers(probabilities_MK, asked_N, student, kind))
    return TeacherScores(probabilities_NK=probabilities_MK.astype(np.float32), confidence_N=confidence_M)


def describe_clips(raw: StudentLogits, temperature: float, kind: LabelKind) -> Float64Array:
    """Return [N, F]: what the student's raw answers say of each clip, alone and within its video (``CLIP_FEATURES``).

    The video's view is the mean of its clips' probabilities, weighted by how far the student trusts each. ``support`` is
    the log of that view's probability of the clip's own answer, ``divergence`` the Kullback-Leibler divergence of the
    clip from it (with several labels, the sum of theirs), ``video_peak`` its largest log-probability; the last two say
    how a clip's confidence stands out.
    """
    probabilities_NK = probabilities_of(raw.logits_NK, kind, temperature)
    q_teacher_N = np.clip(raw.q_teacher_logit_N.astype(np.float64), -12.0, 12.0)
    q_student_N = np.clip(raw.q_student_logit_N.astype(np.float64), -12.0, 12.0)
    view_K = _weighted_view(probabilities_NK, 1.0 / (1.0 + np.exp(-q_student_N)))
    answer_N = probabilities_NK.argmax(axis=1)
    return np.column_stack(
        [
            q_teacher_N,
            q_student_N,
            _certainty(probabilities_NK, kind),
            np.log(np.maximum(view_K[answer_N], SMALLEST)),
            _divergence(probabilities_NK, view_K, kind),
            np.full(len(answer_N), np.log(max(float(view_K.max()), SMALLEST))),
            q_teacher_N - q_teacher_N.mean(),
            q_student_N - q_student_N.mean(),
        ]
    )


def describe_answers(
    probabilities_MK: Float64Array, asked_N: BoolArray, student: StudentScores, kind: LabelKind
) -> Float64Array:
    """Return [M, F]: what is known of each answer of the teacher (``ANSWER_FEATURES``).

    ``support`` is the log-probability that the student's view of the whole video gives the teacher's answer,
    ``student_support`` that of the student on the same clip.
    """
    view_K = _weighted_view(student.probabilities_NK.astype(np.float64), student.q_student_N.astype(np.float64))
    answer_M = probabilities_MK.argmax(axis=1)
    q_teacher_M = np.clip(student.q_teacher_N[asked_N].astype(np.float64), SMALLEST, 1 - SMALLEST)
    same_clip_M = student.probabilities_NK[asked_N].astype(np.float64)[np.arange(len(answer_M)), answer_M]
    return np.column_stack(
        [
            _certainty(probabilities_MK, kind),
            np.log(q_teacher_M / (1 - q_teacher_M)),
            np.log(np.maximum(view_K[answer_M], SMALLEST)),
            np.log(np.maximum(same_clip_M, SMALLEST)),
        ]
    )


def describe_alone(probabilities_MK: Float64Array, kind: LabelKind) -> Float64Array:
    """Return [M, F]: what the teacher's probabilities say of themselves (``ALONE_FEATURES``)."""
    return _certainty(probabilities_MK, kind)


def temper(probabilities: Float64Array, temperature: float, kind: LabelKind) -> Float64Array:
    """Return the probabilities at another temperature, over the last axis; 1 leaves them as they are."""
    floor = np.clip(probabilities, 1e-12, 1.0)
    if kind == "multi":
        floor = np.minimum(floor, 1 - 1e-12)
        return probabilities_of(np.log(floor / (1 - floor)), kind, temperature)
    return probabilities_of(np.log(floor), kind, temperature)


def normalised_entropy(probabilities_NK: NDArray[np.floating], kind: LabelKind) -> Float64Array:
    """Return the entropy of each row as a share of its maximum, 0 to 1; with several labels, the mean over the labels."""
    p_NK = np.clip(probabilities_NK.astype(np.float64), 1e-12, 1.0)
    if kind == "single":
        share_N = -(p_NK * np.log(p_NK)).sum(axis=-1) / np.log(p_NK.shape[-1])
    else:
        against_NK = np.maximum(1.0 - p_NK, 1e-12)
        share_N = -(p_NK * np.log(p_NK) + against_NK * np.log(against_NK)).mean(axis=-1) / np.log(2.0)
    return np.asarray(np.clip(share_N, 0.0, 1.0))


def top_margin(probabilities_NK: NDArray[np.floating]) -> Float64Array:
    """Return how far the two largest entries of each row lie apart."""
    top_N2 = np.partition(probabilities_NK.astype(np.float64), -2, axis=-1)[..., -2:]
    return np.asarray(top_N2[..., 1] - top_N2[..., 0])


def _certainty(probabilities_NK: Float64Array, kind: LabelKind) -> Float64Array:
    log_peak_N = np.log(np.maximum(probabilities_NK.max(axis=1), SMALLEST))
    return np.column_stack([log_peak_N, top_margin(probabilities_NK), normalised_entropy(probabilities_NK, kind)])


def _weighted_view(probabilities_NK: Float64Array, trust_N: Float64Array) -> Float64Array:
    weights_N = np.maximum(trust_N, SMALLEST)
    return np.asarray((weights_N / weights_N.sum()) @ probabilities_NK)


def _divergence(probabilities_NK: Float64Array, view_K: Float64Array, kind: LabelKind) -> Float64Array:
    divergence_N = _relative_entropy(probabilities_NK, view_K)
    # With several labels each is a distribution of its own, over true and false.
    return divergence_N if kind == "single" else divergence_N + _relative_entropy(1 - probabilities_NK, 1 - view_K)


def _relative_entropy(p_NK: Float64Array, q_K: Float64Array) -> Float64Array:
    p_NK, q_K = np.maximum(p_NK, SMALLEST), np.maximum(q_K, SMALLEST)
    return np.asarray((p_NK * np.log(p_NK / q_K)).sum(axis=1))
