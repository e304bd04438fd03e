"""The escalation policies, as values: which clips the teacher is asked about, which count at all.

Only what a policy can be told; ``escalation`` decides by them. Thresholds are in the units of the calibrated scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cdmodel.setting_groups import FORBID_UNKNOWN


def _require_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must lie between {low:g} and {high:g}, got {value}")


def _require_clips(clips: int) -> None:
    if clips < 1:
        raise ValueError(f"clips must be at least 1, got {clips}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseTeacher:
    """The teacher on every clip; the student is not run. The reference for accuracy and cost."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    kind: Literal["dense_teacher"] = "dense_teacher"


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseStudent:
    """The student on every clip, the teacher never."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    kind: Literal["dense_student"] = "dense_student"


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxProbability:
    """Ask the teacher where the student's largest calibrated class probability is below ``threshold``.

    Source: Chow 1970; the usual cascade rule, optimal only where the teacher is equally good on every clip.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    threshold: float
    kind: Literal["max_prob"] = "max_prob"

    def __post_init__(self) -> None:
        _require_range("threshold", self.threshold, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entropy:
    """Ask the teacher where the entropy of the student's probabilities, as a share of its maximum, exceeds ``threshold``."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    threshold: float
    kind: Literal["entropy"] = "entropy"

    def __post_init__(self) -> None:
        _require_range("threshold", self.threshold, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Margin:
    """Ask the teacher where the student's two largest probabilities differ by less than ``threshold``."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    threshold: float
    kind: Literal["margin"] = "margin"

    def __post_init__(self) -> None:
        _require_range("threshold", self.threshold, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfConfidence:
    """Ask the teacher where P(student right) is below ``threshold``. Source: ConfidNet, Corbiere et al. 2019."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    threshold: float
    kind: Literal["self_confidence"] = "self_confidence"

    def __post_init__(self) -> None:
        _require_range("threshold", self.threshold, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherConfidence:
    """Ask the teacher where P(teacher right) exceeds ``min_confidence``, however good the student is."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    min_confidence: float
    kind: Literal["teacher_confidence"] = "teacher_confidence"

    def __post_init__(self) -> None:
        _require_range("min_confidence", self.min_confidence, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """Ask the teacher where P(teacher right) - P(student right) exceeds ``min_gain``.

    ``min_gain`` is the price of one teacher clip in units of accuracy (lambda times cost).
    Source: Jitkrittum et al. 2023, the Bayes-optimal deferral rule.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    min_gain: float
    kind: Literal["gain"] = "gain"

    def __post_init__(self) -> None:
        _require_range("min_gain", self.min_gain, -1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoGain:
    """Ask the teacher where a clip's gain, times P(the student's answer for the video is wrong), exceeds ``min_value``.

    A clip's gain is worth nothing where the video is settled already.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    min_value: float
    kind: Literal["video_gain"] = "video_gain"

    def __post_init__(self) -> None:
        _require_range("min_value", self.min_value, -1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoRank:
    """Ask the teacher about the clips of a video that it is likeliest right on: more of them, the less it is settled.

    A clip's value is the share of its video's clips that it is at least as promising as, by P(teacher right), times
    P(the student's answer for the video is wrong); asked are those above ``min_value``.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    min_value: float
    kind: Literal["video_rank"] = "video_rank"

    def __post_init__(self) -> None:
        _require_range("min_value", self.min_value, -1, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreeWay:
    """Teacher where the gain exceeds ``min_gain``; of the rest, drop clips on which neither model is likely right."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    min_gain: float
    drop_below: float
    """A clip whose P(teacher right) and P(student right) are both below this does not count."""
    kind: Literal["three_way"] = "three_way"

    def __post_init__(self) -> None:
        _require_range("min_gain", self.min_gain, -1, 1)
        _require_range("drop_below", self.drop_below, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disagreement:
    """Ask the teacher about clips whose student's answer differs from the student's answer for the video."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    kind: Literal["disagreement"] = "disagreement"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """All clips of a video to the teacher, or none: all where the student's confidence in the video is below."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    threshold: float
    kind: Literal["gate"] = "gate"

    def __post_init__(self) -> None:
        _require_range("threshold", self.threshold, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """All clips of a video to the teacher where fewer than this share of them agree on the student's answer.

    Source: agreement-based cascading, Kolawole et al. 2024, with a video's clips for the ensemble.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    threshold: float
    kind: Literal["agreement"] = "agreement"

    def __post_init__(self) -> None:
        _require_range("threshold", self.threshold, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopGain:
    """The ``clips`` clips of largest gain of each video to the teacher; the others keep the student's answer."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    clips: int
    kind: Literal["top_gain"] = "top_gain"

    def __post_init__(self) -> None:
        _require_clips(self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopSaliency:
    """The ``clips`` clips of largest P(teacher right) to the teacher; the others do not count.

    Source: SCSampler, Korbar et al. 2019, whose saliency ranks clips by the teacher's score of the true class.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    clips: int
    kind: Literal["top_saliency"] = "top_saliency"

    def __post_init__(self) -> None:
        _require_clips(self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class UniformClips:
    """The teacher on ``clips`` clips spread evenly over the video; no student, the others do not count."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    clips: int
    kind: Literal["uniform"] = "uniform"

    def __post_init__(self) -> None:
        _require_clips(self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomClips:
    """The teacher on ``clips`` random clips; no student, the others do not count."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    clips: int
    seed: int = 0
    """With the video's id, decides which; not negative."""
    kind: Literal["random"] = "random"

    def __post_init__(self) -> None:
        _require_clips(self.clips)
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CentreClips:
    """The teacher on the ``clips`` clips in the middle of the video; no student, the others do not count."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    clips: int
    kind: Literal["centre"] = "centre"

    def __post_init__(self) -> None:
        _require_clips(self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class MotionClips:
    """The teacher on the clips at ``clips`` equal steps of the cumulative motion; the others do not count.

    Fewer clips where one clip holds several steps. The student is run for its frames alone. Source: MGSampler, Zhi et
    al. 2021, with whole clips for frames.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    clips: int
    kind: Literal["motion"] = "motion"

    def __post_init__(self) -> None:
        _require_clips(self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyExit:
    """The teacher on one clip after another, coarse to fine, until the video's confidence reaches ``threshold``.

    No student; clips not reached do not count. Source: the order and the exit of FrameExit, Ghodrati et al. 2021, with
    calibrated confidence for its gates.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    threshold: float
    kind: Literal["early_exit"] = "early_exit"

    def __post_init__(self) -> None:
        _require_range("threshold", self.threshold, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequential:
    """Ask the teacher about the most valuable clip, look at the video again, and so on.

    Stops where the video's confidence reaches ``stop_confidence`` or no clip's gain, times P(video's answer wrong),
    exceeds ``min_value``.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    min_value: float
    stop_confidence: float = 1.0
    clips_per_round: int = 1
    """More ask sooner and decide less finely; every round is a pass of the decoder."""
    kind: Literal["sequential"] = "sequential"

    def __post_init__(self) -> None:
        _require_range("min_value", self.min_value, -1, 1)
        _require_range("stop_confidence", self.stop_confidence, 0, 1)
        _require_clips(self.clips_per_round)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budgeted:
    """``video_rank`` with the threshold at which the bundle's ``cal`` videos gave the teacher this share of their clips.

    What is spent on another archive differs as far as its clips do.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    teacher_share: float
    """Of the clips, 0 to 1."""
    kind: Literal["budgeted"] = "budgeted"

    def __post_init__(self) -> None:
        _require_range("teacher_share", self.teacher_share, 0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """``video_rank`` with the cheapest threshold that is certified: P(harm) <= ``epsilon`` with probability 1 - ``delta``.

    Harm: the cascade is wrong where the dense teacher is right. Certified on the bundle's ``risk`` videos, for archives
    like them; where they are too few, the dense teacher labels, and says so. Source: Learn then Test, see ``risk``.
    """

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    epsilon: float
    delta: float = 0.1
    kind: Literal["certified"] = "certified"

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1 or not 0 < self.delta < 1:
            raise ValueError(f"epsilon and delta must lie between 0 and 1, got {self.epsilon} and {self.delta}")


EscalationPolicy = (
    DenseTeacher
    | DenseStudent
    | MaxProbability
    | Entropy
    | Margin
    | SelfConfidence
    | TeacherConfidence
    | Gain
    | VideoGain
    | VideoRank
    | ThreeWay
    | Disagreement
    | Gate
    | Agreement
    | TopGain
    | TopSaliency
    | UniformClips
    | RandomClips
    | CentreClips
    | MotionClips
    | EarlyExit
    | Sequential
)
"""Decides by itself, from what is known of one video."""

PolicyChoice = EscalationPolicy | Budgeted | Certified
"""What a user may ask for: the last two become one of the others when a run is planned, see ``policy_choice.resolve_policy``."""
