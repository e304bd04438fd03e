"""What a policy would have answered, and spent, on videos whose scores of both models are cached.

The same decisions as a live run, on the same numbers, without a network or a frame: ``escalation`` and ``aggregation``
decide here as there. NumPy only. N clips, K labels, V videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdmodel.aggregation import Judge, merge_answers
from cdmodel.calibration import Calibration, calibrate_student, calibrate_teacher
from cdmodel.errors import TrainingError
from cdmodel.escalation import counted_clips, needs_student, next_clips
from cdmodel.labels import LabelKind, Truth, is_right
from cdmodel.policies import DenseTeacher, EscalationPolicy
from cdmodel.scores import BoolArray, FloatArray, StudentLogits, StudentScores, TeacherScores, VideoState

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSeconds:
    """What one video took in each stage, all of its clips, in CPU seconds."""

    decode_student: float
    """One pass in the student's size."""
    decode_teacher: float
    """One pass in the teacher's size, to the end."""
    student: float
    teacher: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedVideo:
    """The raw answers of both models to every clip of one labeled video, and what they took."""

    video_id: str
    group: str
    truth_K: NDArray[np.bool_]
    student: StudentLogits
    teacher_logits_NK: FloatArray
    seconds: VideoSeconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredVideo:
    """The same, calibrated. ``teacher_alone`` is what the teacher's answers are worth where no student has looked."""

    video_id: str
    group: str
    truth_K: NDArray[np.bool_]
    student: StudentScores
    teacher: TeacherScores
    teacher_alone: TeacherScores
    seconds: VideoSeconds


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipFlops:
    """FLOPs of one clip in each model."""

    student: int
    teacher: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayedVideo:
    """Where one video's labeling ended."""

    state: VideoState
    teacher_passes: float
    """How often the decoder ran through the video for the teacher: it starts anew for every question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """What one policy under one aggregation did on V videos."""

    probabilities_VK: Float64Array
    """Calibrated, as a live run reports them."""
    right_V: BoolArray
    """Whether the best label is a true one."""
    clips_V: NDArray[np.int64]
    asked_V: NDArray[np.int64]
    """Clips the teacher answered."""
    flops_V: Float64Array
    seconds_V: Float64Array
    """Decoding included."""

    @property
    def accuracy(self) -> float:
        """Share of videos whose best label is a true one."""
        return float(self.right_V.mean())

    @property
    def escalated_share(self) -> float:
        """Clips the teacher answered, of all clips."""
        return float(self.asked_V.sum() / self.clips_V.sum())


def calibrate(video: CachedVideo, calibration: Calibration, kind: LabelKind) -> ScoredVideo:
    """Return the video's scores under a calibration."""
    student = calibrate_student(video.student, calibration, kind)
    asked_N = np.ones(len(video.teacher_logits_NK), dtype=np.bool_)
    return ScoredVideo(
        video_id=video.video_id,
        group=video.group,
        truth_K=video.truth_K,
        student=student,
        teacher=calibrate_teacher(video.teacher_logits_NK, asked_N, student, calibration, kind),
        teacher_alone=calibrate_teacher(video.teacher_logits_NK, asked_N, None, calibration, kind),
        seconds=video.seconds,
    )


def replay(policy: EscalationPolicy, judge: Judge, videos: Sequence[ScoredVideo], flops: ClipFlops) -> Replay:
    """Return what the policy would have done on every video, in order."""
    if not videos:
        raise TrainingError("replay", "there is no video to replay")
    ends = [replay_video(policy, judge, video) for video in videos]
    scores = [judge.score(merge_answers(end.state, counted_clips(policy, end.state))) for end in ends]
    return tally(videos, ends, np.stack([score.probabilities_K for score in scores]), needs_student(policy), flops)


def replay_video(policy: EscalationPolicy, judge: Judge, video: ScoredVideo) -> ReplayedVideo:
    """Return where the policy stops. The teacher's answers are shown to it only once it has asked."""
    student = video.student if needs_student(policy) else None
    answers = video.teacher_alone if student is None else video.teacher
    state = VideoState.before_the_teacher(video.video_id, len(video.student.q_student_N), student)
    passes = 0.0
    while (wanted_N := next_clips(policy, state, judge)).any():
        asked_N = state.asked_N | wanted_N
        state = state.after(asked_N, answers.rows(asked_N))
        passes += float(np.flatnonzero(wanted_N)[-1] + 1) / state.clips
    return ReplayedVideo(state=state, teacher_passes=passes)


def tally(
    videos: Sequence[ScoredVideo],
    ends: Sequence[ReplayedVideo],
    probabilities_VK: Float64Array,
    student_ran: bool,  # noqa: FBT001 - a fact, not a mode
    flops: ClipFlops,
) -> Replay:
    """Return answers with their cost.

    Seconds: the student's pass and its network, if it ran; then the teacher's share of its clips, and for each question
    as much of a decoding pass as lies before its last clip, since the reader decodes from the start.
    """
    clips_V = np.array([end.state.clips for end in ends])
    asked_V = np.array([int(end.state.asked_N.sum()) for end in ends])
    passes_V = np.array([end.teacher_passes for end in ends])
    decode_teacher_V = np.array([video.seconds.decode_teacher for video in videos])
    seconds_V = passes_V * decode_teacher_V + asked_V / clips_V * np.array([video.seconds.teacher for video in videos])
    flops_V = asked_V * float(flops.teacher)
    if student_ran:
        seconds_V = seconds_V + np.array([video.seconds.decode_student + video.seconds.student for video in videos])
        flops_V = flops_V + clips_V * float(flops.student)
    return Replay(
        probabilities_VK=probabilities_VK,
        right_V=is_right(probabilities_VK, truth_of(videos)),
        clips_V=clips_V,
        asked_V=asked_V,
        flops_V=flops_V,
        seconds_V=seconds_V,
    )


def truth_of(videos: Sequence[ScoredVideo] | Sequence[CachedVideo]) -> Truth:
    """Return bool [V, K]."""
    return np.stack([video.truth_K for video in videos])


def harm(cascade: Replay, dense: Replay) -> BoolArray:
    """Return bool [V]: the cascade is wrong where the dense teacher is right."""
    return np.asarray(~cascade.right_V & dense.right_V)


def dense_teacher(judge: Judge, videos: Sequence[ScoredVideo], flops: ClipFlops) -> Replay:
    """Return the reference: the teacher on every clip, without a student."""
    return replay(DenseTeacher(), judge, videos, flops)
