"""What the models said of the clips of one video, as calibrated NumPy arrays: all that policies and aggregation see.

N clips, K classes. Torch-free, so that a live run and a replay from a cache decide with the same code on the same
numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentScores:
    """The student's three answers per clip."""

    probabilities_NK: FloatArray
    """Calibrated class probabilities; rows sum to 1."""
    q_teacher_N: FloatArray
    """P(teacher right), 0 to 1: the distilled confidence."""
    q_student_N: FloatArray
    """P(student right), 0 to 1."""

    def __post_init__(self) -> None:
        clips = self.probabilities_NK.shape[0]
        if self.q_teacher_N.shape != (clips,) or self.q_student_N.shape != (clips,):
            raise ValueError(
                f"{clips} clips, but q_teacher {self.q_teacher_N.shape} and q_student {self.q_student_N.shape}"
            )

    @classmethod
    def concatenate(cls, parts: Sequence[StudentScores]) -> StudentScores:
        """Join the scores of consecutive batches; ``parts`` must not be empty."""
        return cls(
            probabilities_NK=np.concatenate([part.probabilities_NK for part in parts]),
            q_teacher_N=np.concatenate([part.q_teacher_N for part in parts]),
            q_student_N=np.concatenate([part.q_student_N for part in parts]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScores:
    """The teacher's answer per clip it was asked about."""

    probabilities_NK: FloatArray
    """Calibrated class probabilities; rows sum to 1."""

    @classmethod
    def concatenate(cls, parts: Sequence[TeacherScores]) -> TeacherScores:
        """Join the scores of consecutive batches; ``parts`` must not be empty."""
        return cls(probabilities_NK=np.concatenate([part.probabilities_NK for part in parts]))
