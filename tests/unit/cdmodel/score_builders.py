"""Scores, states and cached videos for tests: by hand, or drawn from a world whose truth is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cdmodel.labels import LabelKind, probabilities_of, to_truth
from cdmodel.replay import CachedVideo, ClipFlops, VideoSeconds
from cdmodel.scores import FloatArray, StudentLogits, StudentScores, TeacherScores, VideoState

FLOPS = ClipFlops(student=1, teacher=100)
SECONDS = VideoSeconds(decode_student=1.0, decode_teacher=2.0, student=3.0, teacher=40.0)
DEAF = -3.0
"""Logit of a clip on which a model knows that it does not know; +3 where it does."""


def floats(values: ArrayLike) -> FloatArray:
    return np.asarray(values, dtype=np.float32)


def student_scores(
    probabilities_NK: ArrayLike,
    *,
    q_teacher: ArrayLike | None = None,
    q_student: ArrayLike | None = None,
    motion: ArrayLike | None = None,
) -> StudentScores:
    table_NK = floats(probabilities_NK)
    half_N = np.full(len(table_NK), 0.5)
    return StudentScores(
        probabilities_NK=table_NK,
        q_teacher_N=floats(half_N if q_teacher is None else q_teacher),
        q_student_N=floats(half_N if q_student is None else q_student),
        motion_N=floats(np.zeros(len(table_NK)) if motion is None else motion),
    )


def teacher_scores(probabilities_MK: ArrayLike, confidence: ArrayLike | None = None) -> TeacherScores:
    table_MK = floats(probabilities_MK)
    return TeacherScores(
        probabilities_NK=table_MK,
        confidence_N=floats(np.full(len(table_MK), 0.9) if confidence is None else confidence),
    )


def unasked(student: StudentScores | None, clips: int | None = None, video_id: str = "v") -> VideoState:
    count = clips if clips is not None else len(student.q_student_N) if student is not None else 0
    return VideoState.before_the_teacher(video_id, count, student)


def asked(student: StudentScores | None, which: Sequence[bool], teacher: TeacherScores) -> VideoState:
    return unasked(student, len(which)).after(np.array(which), teacher)


def random_scores(random: np.random.Generator, clips: int, labels: int, kind: LabelKind = "single") -> StudentScores:
    return student_scores(
        probabilities_of(random.normal(scale=2, size=(clips, labels)), kind),
        q_teacher=random.random(clips),
        q_student=random.random(clips),
        motion=random.random(clips),
    )


def random_teacher(random: np.random.Generator, clips: int, labels: int, kind: LabelKind = "single") -> TeacherScores:
    return teacher_scores(
        probabilities_of(random.normal(scale=2, size=(clips, labels)), kind), confidence=random.random(clips)
    )


def cached_video(
    student_NK: ArrayLike,
    teacher_NK: ArrayLike,
    true: Sequence[int],
    *,
    q_teacher: ArrayLike | None = None,
    q_student: ArrayLike | None = None,
    video_id: str = "v",
    group: str = "g",
    seconds: VideoSeconds = SECONDS,
) -> CachedVideo:
    """Return a video of raw logits."""
    logits_NK = floats(student_NK)
    zeros_N = np.zeros(len(logits_NK))
    return CachedVideo(
        video_id=video_id,
        group=group,
        truth_K=to_truth([list(true)], logits_NK.shape[1])[0],
        student=StudentLogits(
            logits_NK=logits_NK,
            q_teacher_logit_N=floats(zeros_N if q_teacher is None else q_teacher),
            q_student_logit_N=floats(zeros_N if q_student is None else q_student),
            motion_N=floats(zeros_N),
        ),
        teacher_logits_NK=floats(teacher_NK),
        seconds=seconds,
    )


def specialist_videos(
    seed: int, videos: int = 120, clips: int = 5, labels: int = 4, *, kind: LabelKind = "single", head: str = "knows"
) -> list[CachedVideo]:
    """Return videos of a world with a specialist teacher (the stress set (d) of the plan of ablations).

    Four of five clips are hard for the student. On half of those the teacher is sure to be right, on the others it is as
    lost as the student, which nothing but the teacher's confidence tells: the student's own is low on both.
    ``head`` says what the student's opinion of the teacher is: ``knows``, or ``noise``.
    """
    random = np.random.default_rng(seed)
    made = []
    for number in range(videos):
        true = [int(random.integers(labels))]
        if kind == "multi" and random.random() < 0.5:
            true = sorted({*true, int(random.integers(labels))})
        hard_N = random.random(clips) < 0.8
        skilled_N = ~hard_N | (random.random(clips) < 0.5)
        made.append(
            cached_video(
                _logits(random, true, ~hard_N, labels, kind),
                _logits(random, true, skilled_N, labels, kind),
                true,
                q_teacher=np.where(skilled_N, -DEAF, DEAF) if head == "knows" else random.normal(size=clips),
                q_student=np.where(hard_N, DEAF, -DEAF) + random.normal(scale=0.1, size=clips),
                video_id=f"v{number}",
                group=f"g{number // 2}",
            )
        )
    return made


def _logits(
    random: np.random.Generator, true: Sequence[int], sees_N: np.ndarray, labels: int, kind: LabelKind
) -> np.ndarray:
    logits_NK = random.normal(size=(len(sees_N), labels)) - (2.0 if kind == "multi" else 0.0)
    for label in true:
        logits_NK[sees_N, label] += 5.0
    return logits_NK
