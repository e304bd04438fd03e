"""Which clips are worth the teacher: policies as values, the decision as a pure function.

A policy sees only what is known before the teacher has run. Adding a policy means adding a class here and a ``case``;
forgetting the case fails the type check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from cdmodel.scores import StudentScores
from cdmodel.setting_groups import FORBID_UNKNOWN

BoolArray = NDArray[np.bool_]


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
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must lie between 0 and 1, got {self.threshold}")


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
        if not -1 <= self.min_gain <= 1:
            raise ValueError(f"min_gain must lie between -1 and 1, got {self.min_gain}")


EscalationPolicy = DenseTeacher | DenseStudent | MaxProbability | Gain


def select_for_escalation(policy: EscalationPolicy, scores: StudentScores) -> BoolArray:
    """Return for each clip whether the teacher is asked, bool [N], in the order of ``scores``."""
    match policy:
        case DenseTeacher():
            return np.ones(len(scores.q_teacher_N), dtype=np.bool_)
        case DenseStudent():
            return np.zeros(len(scores.q_teacher_N), dtype=np.bool_)
        case MaxProbability(threshold=threshold):
            return np.asarray(scores.probabilities_NK.max(axis=1) < threshold)
        case Gain(min_gain=min_gain):
            return np.asarray(scores.q_teacher_N - scores.q_student_N > min_gain)
        case _:
            assert_never(policy)
