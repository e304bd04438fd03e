"""What the models said of the clips of one video, as NumPy arrays: first raw, then calibrated.

Policies and aggregation see the calibrated scores alone. Torch-free, so that a live run and a replay from a cache
decide with the same code on the same numbers. N clips, K labels; calibrated scores of several videos of N clips may be
stacked along leading axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLogits:
    """The student's raw answers: what a cache keeps, since every calibration follows from it."""

    logits_NK: FloatArray
    q_teacher_logit_N: FloatArray
    q_student_logit_N: FloatArray
    motion_N: FloatArray
    """Mean absolute grey difference between neighbouring frames of the clip, 0 to 1."""

    def __post_init__(self) -> None:
        clips = self.logits_NK.shape[0]
        for name in ("q_teacher_logit_N", "q_student_logit_N", "motion_N"):
            if getattr(self, name).shape != (clips,):
                raise ValueError(f"{clips} clips, but {name} {getattr(self, name).shape}")

    @classmethod
    def concatenate(cls, parts: Sequence[StudentLogits]) -> StudentLogits:
        """Join the answers to consecutive batches; ``parts`` must not be empty."""
        return cls(**{f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def rows(self, span: slice) -> StudentLogits:
        """Return the answers to some of the clips."""
        return StudentLogits(**{f.name: getattr(self, f.name)[span] for f in fields(StudentLogits)})


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentScores:
    """The student's calibrated answers per clip of one whole video."""

    probabilities_NK: FloatArray
    """P(label); rows sum to 1 where a video has one label."""
    q_teacher_N: FloatArray
    """P(teacher right), 0 to 1: the distilled confidence."""
    q_student_N: FloatArray
    """P(student right), 0 to 1."""
    motion_N: FloatArray
    """Mean absolute grey difference between neighbouring frames of the clip, 0 to 1."""

    def __post_init__(self) -> None:
        shape = self.probabilities_NK.shape[:-1]
        for name in ("q_teacher_N", "q_student_N", "motion_N"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{shape[-1]} clips, but {name} {getattr(self, name).shape}")

    @classmethod
    def stack(cls, parts: Sequence[StudentScores]) -> StudentScores:
        """Put videos of equally many clips beside each other; ``parts`` must not be empty."""
        return cls(**{f.name: np.stack([getattr(part, f.name) for part in parts]) for f in fields(cls)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherScores:
    """The teacher's calibrated answers to the clips it was asked about, in order of time."""

    probabilities_NK: FloatArray
    """P(label); rows sum to 1 where a video has one label."""
    confidence_N: FloatArray
    """P(teacher right), 0 to 1, now that its answer is known."""

    def __post_init__(self) -> None:
        if self.confidence_N.shape != self.probabilities_NK.shape[:-1]:
            raise ValueError(f"{self.probabilities_NK.shape[-2]} clips, but confidence {self.confidence_N.shape}")

    @classmethod
    def stack(cls, parts: Sequence[TeacherScores]) -> TeacherScores:
        """Put videos of equally many clips beside each other; ``parts`` must not be empty."""
        return cls(**{f.name: np.stack([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def rows(self, chosen_N: BoolArray) -> TeacherScores:
        """Return the answers to some of the clips."""
        return TeacherScores(probabilities_NK=self.probabilities_NK[chosen_N], confidence_N=self.confidence_N[chosen_N])


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoState:
    """What is known of one video at one moment of its labeling. Unasked clips have no teacher's answer anywhere in it."""

    video_id: str
    clips: int
    """N, at least 1."""
    student: StudentScores | None
    """None where the policy does without the student."""
    asked_N: BoolArray
    """Which clips the teacher has answered."""
    teacher: TeacherScores | None
    """One row per true entry of ``asked_N``, in order; None while there is none."""

    def __post_init__(self) -> None:
        answered = 0 if self.teacher is None else len(self.teacher.confidence_N)
        if self.asked_N.shape != (self.clips,) or int(self.asked_N.sum()) != answered:
            raise ValueError(
                f"{self.clips} clips, asked {self.asked_N.shape} {self.asked_N.sum()}, answered {answered}"
            )

    @classmethod
    def before_the_teacher(cls, video_id: str, clips: int, student: StudentScores | None) -> VideoState:
        """Return the state in which the first decision is taken."""
        return cls(
            video_id=video_id, clips=clips, student=student, asked_N=np.zeros(clips, dtype=np.bool_), teacher=None
        )

    def after(self, asked_N: BoolArray, teacher: TeacherScores) -> VideoState:
        """Return the state once the teacher has answered ``asked_N`` in all; ``teacher`` holds all of its answers."""
        return VideoState(
            video_id=self.video_id, clips=self.clips, student=self.student, asked_N=asked_N, teacher=teacher
        )
