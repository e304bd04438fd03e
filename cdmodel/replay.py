"""What a policy would have answered, and spent, on videos whose scores of both models are cached.

The same decisions as a live run, on the same numbers, without a network or a frame: ``escalation`` and ``aggregation``
decide here as there. NumPy only. N clips, K labels, V videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
from numpy.typing import NDArray

from cdmodel.aggregation import Judge, combine_answers
from cdmodel.calibration import Calibration, calibrate_student, calibrate_teacher
from cdmodel.errors import TrainingError
from cdmodel.escalation import asks_once, counted_of, first_clips, needs_student, next_clips
from cdmodel.labels import LabelKind, Truth, is_right
from cdmodel.policies import DenseStudent, DenseTeacher, EscalationPolicy
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


class ReplayBench:
    """Videos that policies are replayed on under one judge, again and again.

    Videos of equally many clips are scored at once, and where a policy asks once, decided at once. Other policies look
    at one video after the other; what its judge thought of it on the way is remembered for the next policy.
    """

    def __init__(self, videos: Sequence[ScoredVideo], judge: Judge, flops: ClipFlops) -> None:
        if not videos:
            raise TrainingError("replay", "there is no video to replay")
        self._videos = videos
        self._judge = judge
        self._judges = [RememberingJudge.of(judge) for _ in videos]
        self._flops = flops
        self._tables = _tables_by_length(videos)

    def replay(self, policy: EscalationPolicy) -> Replay:
        """Return what the policy would have done on every video, in order."""
        if asks_once(policy):
            asked = [
                first_clips(policy, table.video_ids, table.clips, table.student, self._judge) for table in self._tables
            ]
            return self._tally(policy, asked, [_reached(asked_VN) for asked_VN in asked])
        ends = [replay_video(policy, judge, video) for judge, video in zip(self._judges, self._videos, strict=True)]
        return self._tally(
            policy,
            [np.array([ends[place].state.asked_N for place in table.places]) for table in self._tables],
            [np.array([ends[place].teacher_passes for place in table.places]) for table in self._tables],
        )

    def replay_chosen(self, chosen: Sequence[BoolArray]) -> Replay:
        """Return what comes of asking the teacher about these clips of each video [N], all at once, after the student."""
        asked = [np.array([chosen[place] for place in table.places]) for table in self._tables]
        return self._tally(DenseStudent(), asked, [_reached(asked_VN) for asked_VN in asked])

    def _tally(self, policy: EscalationPolicy, asked: Sequence[BoolArray], passes: Sequence[Float64Array]) -> Replay:
        """Score the videos of each table after its questions [V, N], and add up what they cost."""
        probabilities_VK = np.empty((len(self._videos), len(self._videos[0].truth_K)))
        asked_V, passes_V = np.empty(len(self._videos), dtype=np.int64), np.empty(len(self._videos))
        for table, asked_VN, table_passes_V in zip(self._tables, asked, passes, strict=True):
            student = table.student if needs_student(policy) else None
            teacher = table.teacher_alone if student is None else table.teacher
            answers = combine_answers(student, teacher, asked_VN, counted_of(policy, asked_VN, student))
            probabilities_VK[table.places] = self._judge.score(answers).probabilities_K
            asked_V[table.places] = asked_VN.sum(axis=1)
            passes_V[table.places] = table_passes_V
        return _add_costs(self._videos, asked_V, passes_V, probabilities_VK, needs_student(policy), self._flops)


@dataclass(frozen=True, slots=True, kw_only=True)
class RememberingJudge(Judge):
    """The judge of one single video: what it thought of it once, it does not work out again."""

    views: dict[tuple[bool, bytes], Float64Array] = field(default_factory=dict, compare=False, repr=False)
    """By whether a student was there and which clips the teacher had answered: of one video, all that a state holds."""

    @classmethod
    def of(cls, judge: Judge) -> RememberingJudge:
        """Return one that thinks as ``judge`` does and remembers nothing yet."""
        return cls(**{f.name: getattr(judge, f.name) for f in fields(Judge)})

    def view(self, state: VideoState) -> Float64Array:
        """Return what is thought of the video."""
        key = (state.student is None, state.asked_N.tobytes())
        if key not in self.views:
            self.views[key] = Judge.view(self, state)
        return self.views[key]


def replay(policy: EscalationPolicy, judge: Judge, videos: Sequence[ScoredVideo], flops: ClipFlops) -> Replay:
    """Return what the policy would have done on every video, in order; for many policies, keep the ``ReplayBench``."""
    return ReplayBench(videos, judge, flops).replay(policy)


def replay_video(policy: EscalationPolicy, judge: Judge, video: ScoredVideo) -> ReplayedVideo:
    """Return where the policy stops. The teacher's answers are shown to it only once it has asked."""
    student = video.student if needs_student(policy) else None
    answers = video.teacher_alone if student is None else video.teacher
    state = VideoState.before_the_teacher(video.video_id, len(video.student.q_student_N), student)
    passes = 0.0
    while (wanted_N := next_clips(policy, state, judge)).any():
        asked_N = state.asked_N | wanted_N
        passes += float(_reached(wanted_N))
        state = state.after(asked_N, answers.rows(asked_N))
    return ReplayedVideo(state=state, teacher_passes=passes)


def _reached(wanted_N: BoolArray) -> Float64Array:
    """Return how much of each video lies before the end of its last wanted clip; 0 where none is wanted."""
    clips = wanted_N.shape[-1]
    return np.asarray(np.where(wanted_N.any(axis=-1), clips - wanted_N[..., ::-1].argmax(axis=-1), 0) / clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """Videos of equally many clips, stacked: [V, N, K] and [V, N]."""

    places: list[int]
    """Among all videos."""
    video_ids: list[str]
    clips: int
    student: StudentScores
    teacher: TeacherScores
    teacher_alone: TeacherScores


def _tables_by_length(videos: Sequence[ScoredVideo]) -> list[_Table]:
    by_length: dict[int, list[int]] = {}
    for place, video in enumerate(videos):
        by_length.setdefault(len(video.student.q_student_N), []).append(place)
    return [
        _Table(
            places=places,
            video_ids=[videos[place].video_id for place in places],
            clips=clips,
            student=StudentScores.stack([videos[place].student for place in places]),
            teacher=TeacherScores.stack([videos[place].teacher for place in places]),
            teacher_alone=TeacherScores.stack([videos[place].teacher_alone for place in places]),
        )
        for clips, places in by_length.items()
    ]


def _add_costs(
    videos: Sequence[ScoredVideo],
    asked_V: NDArray[np.int64],
    passes_V: Float64Array,
    probabilities_VK: Float64Array,
    student_ran: bool,  # noqa: FBT001 - a fact, not a mode
    flops: ClipFlops,
) -> Replay:
    """Return answers with their cost.

    Seconds: the student's pass and its network, if it ran; then the teacher's share of its clips, and for each question
    as much of a decoding pass as lies before its last clip, since the reader decodes from the start.
    """
    clips_V = np.array([len(video.student.q_student_N) for video in videos])
    decode_teacher_V = np.array([video.seconds.decode_teacher for video in videos])
    seconds_V = passes_V * decode_teacher_V + asked_V / clips_V * np.array([video.seconds.teacher for video in videos])
    flops_V = asked_V.astype(np.float64) * flops.teacher
    if student_ran:
        seconds_V = seconds_V + np.array([video.seconds.decode_student + video.seconds.student for video in videos])
        flops_V = flops_V + clips_V.astype(np.float64) * flops.student
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
