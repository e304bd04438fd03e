"""Which clips the teacher is asked about next, and which count: pure functions of what is known at that moment.

A live run and a replay call the same functions with the same ``VideoState``, which holds no answer of the teacher to a
clip it was not asked about. Adding a policy means a class in ``policies`` and a ``case`` here; forgetting the case fails
the type check. N clips, K labels, V videos. What is decided before the teacher has said anything is decided for
several videos of N clips at once: scores may have a leading axis over them.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cdmodel.aggregation import Judge
from cdmodel.calibration import normalised_entropy, top_margin
from cdmodel.policies import (
    Agreement,
    CentreClips,
    DenseStudent,
    DenseTeacher,
    Disagreement,
    EarlyExit,
    Entropy,
    EscalationPolicy,
    Gain,
    Gate,
    Margin,
    MaxProbability,
    MotionClips,
    RandomClips,
    SelfConfidence,
    Sequential,
    TeacherConfidence,
    ThreeWay,
    TopGain,
    TopSaliency,
    UniformClips,
    VideoGain,
    VideoRank,
)
from cdmodel.scores import BoolArray, StudentScores, VideoState

Float64Array = NDArray[np.float64]


def needs_student(policy: EscalationPolicy) -> bool:
    """Tell whether the student has to look at a video before this policy can decide."""
    return not isinstance(policy, DenseTeacher | UniformClips | RandomClips | CentreClips | EarlyExit)


def asks_once(policy: EscalationPolicy) -> bool:
    """Tell whether the first question is the only one, so that the teacher's answers need not be waited for."""
    return not isinstance(policy, EarlyExit | Sequential)


def next_clips(policy: EscalationPolicy, state: VideoState, judge: Judge) -> BoolArray:
    """Return which clips the teacher is asked about now, bool [N]; none means that the video is decided.

    Called again after each answer. Never returns a clip that was asked before.
    """
    match policy:
        case EarlyExit():
            return _exit_early(policy, state, judge)
        case Sequential():
            return _most_valuable(policy, state, judge)
        case _:
            if state.asked_N.any():
                return np.zeros(state.clips, dtype=np.bool_)
            student = None if state.student is None else StudentScores.stack([state.student])
            return np.asarray(first_clips(policy, [state.video_id], state.clips, student, judge)[0])


def counted_clips(policy: EscalationPolicy, state: VideoState) -> BoolArray:
    """Return which clips count in the aggregate, bool [N]; clips nobody looked at are left out elsewhere."""
    return counted_of(policy, state.asked_N, state.student)


def counted_of(policy: EscalationPolicy, asked_N: BoolArray, student: StudentScores | None) -> BoolArray:
    """Return the same from what it depends on; arrays may have leading axes, over videos."""
    match policy:
        case TopSaliency() | MotionClips():
            return asked_N
        case ThreeWay(drop_below=floor):
            student = _present(student)
            hopeless_N = (student.q_teacher_N < floor) & (student.q_student_N < floor)
            return np.asarray(asked_N | ~hopeless_N)
        case _:
            return np.ones_like(asked_N)


def clip_score(policy: EscalationPolicy, student: StudentScores, judge: Judge) -> Float64Array | None:
    """Return the score [N] whose large values are escalated, for policies that are a threshold on one; else None."""
    rule = _threshold_rule(policy, student, judge)
    return None if rule is None else rule[0]


def asking_value(policy: EscalationPolicy, student: StudentScores, judge: Judge) -> Float64Array:
    """Return what asking the teacher is worth for each clip [N], above 0 where the policy wants to: clips of all videos compare.

    By how much the policy's score exceeds what it must, over the clip's place among those of its video: the k-th answer
    moves the video's by about one k-th of what the first one does. For policies that are no threshold on a score, the gain
    times P(the video's answer is wrong), moved above 0, stands for the excess.
    """
    rule = _threshold_rule(policy, student, judge)
    if rule is not None:
        score_N, threshold = rule
        excess_N = np.asarray(score_N - threshold)
    else:
        excess_N = 1.0 + _gain(student) * doubt_of(judge.view_before(student), judge)[..., None]
    place_N = np.argsort(np.argsort(-excess_N, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.asarray(excess_N / (1.0 + place_N))


def _threshold_rule(  # noqa: PLR0911 - one case a policy
    policy: EscalationPolicy, student: StudentScores, judge: Judge
) -> tuple[Float64Array, float] | None:
    """Return the score [N] and what it must exceed; None for policies that are no threshold on a score.

    Both are float64, so that a threshold taken from a score escalates exactly the clips above it.
    """
    match policy:
        case MaxProbability(threshold=threshold):
            return -_double(student.probabilities_NK.max(axis=-1)), -threshold
        case Entropy(threshold=threshold):
            return normalised_entropy(student.probabilities_NK, judge.label_kind), threshold
        case Margin(threshold=threshold):
            return -top_margin(student.probabilities_NK), -threshold
        case SelfConfidence(threshold=threshold):
            return -_double(student.q_student_N), -threshold
        case TeacherConfidence(min_confidence=threshold):
            return _double(student.q_teacher_N), threshold
        case Gain(min_gain=threshold) | ThreeWay(min_gain=threshold):
            return _gain(student), threshold
        case VideoGain(min_value=threshold):
            return _gain(student) * doubt_of(judge.view_before(student), judge)[..., None], threshold
        case VideoRank(min_value=threshold):
            promise_N = share_below(_double(student.q_teacher_N))
            return promise_N * doubt_of(judge.view_before(student), judge)[..., None], threshold
        case _:
            return None


def first_clips(
    policy: EscalationPolicy, video_ids: Sequence[str], clips: int, student: StudentScores | None, judge: Judge
) -> BoolArray:
    """Return bool [V, N]: what a policy that asks once asks about, before the teacher has said anything.

    Of V videos of N = ``clips`` clips each; ``student`` holds the scores of all, [V, N, K], and may be None where the
    policy does without.
    """
    videos = len(video_ids)
    match policy:
        case DenseTeacher():
            return np.ones((videos, clips), dtype=np.bool_)
        case DenseStudent():
            return np.zeros((videos, clips), dtype=np.bool_)
        case UniformClips(clips=wanted):
            return np.tile(_mask(clips, _spread(wanted, clips)), (videos, 1))
        case CentreClips(clips=wanted):
            first = max((clips - wanted) // 2, 0)
            return np.tile(_mask(clips, np.arange(first, min(first + wanted, clips))), (videos, 1))
        case RandomClips(clips=wanted, seed=seed):
            return np.array([_mask(clips, _draw(seed, video_id, clips)[:wanted]) for video_id in video_ids])
        case _:
            if student is None:
                raise ValueError("this policy decides by the student's scores, and there are none")
            return _choose_by_student(policy, student, judge)


def _draw(seed: int, video_id: str, clips: int) -> NDArray[np.int64]:
    # The video's id, not its place in the corpus, so that a shard or a replay draws the same.
    return np.random.default_rng((seed, zlib.crc32(video_id.encode()))).permutation(clips)


def _choose_by_student(  # noqa: PLR0911 - one case a policy
    policy: EscalationPolicy, student: StudentScores, judge: Judge
) -> BoolArray:
    rule = _threshold_rule(policy, student, judge)
    if rule is not None:
        score_N, threshold = rule
        return np.asarray(score_N > threshold)
    label_N = student.probabilities_NK.argmax(axis=-1)
    match policy:
        case Disagreement():
            return np.asarray(label_N != judge.view_before(student).argmax(axis=-1)[..., None])
        case Gate(threshold=threshold):
            return _whole_video(judge.view_before(student).max(axis=-1) < threshold, label_N.shape)
        case Agreement(threshold=threshold):
            votes_K = (label_N[..., None] == np.arange(student.probabilities_NK.shape[-1])).sum(axis=-2)
            return _whole_video(votes_K.max(axis=-1) / label_N.shape[-1] < threshold, label_N.shape)
        case TopGain(clips=clips):
            return _largest(_gain(student), clips)
        case TopSaliency(clips=clips):
            return _largest(_double(student.q_teacher_N), clips)
        case MotionClips(clips=clips):
            return _motion_steps(student, clips)
        case _:
            raise AssertionError(f"{policy.kind} does not decide at once by the student")


def _exit_early(policy: EarlyExit, state: VideoState, judge: Judge) -> BoolArray:
    asked = int(state.asked_N.sum())
    if asked == state.clips or (asked and _confidence(state, judge) >= policy.threshold):
        return np.zeros(state.clips, dtype=np.bool_)
    return _mask(state.clips, coarse_to_fine(state.clips)[asked : asked + 1])


def _most_valuable(policy: Sequential, state: VideoState, judge: Judge) -> BoolArray:
    if _confidence(state, judge) >= policy.stop_confidence:
        return np.zeros(state.clips, dtype=np.bool_)
    value_N = np.where(state.asked_N, -np.inf, _gain(_student(state)) * doubt_of(judge.view(state), judge))
    return _largest(value_N, policy.clips_per_round) & (value_N > policy.min_value)


def coarse_to_fine(clips: int) -> NDArray[np.int64]:
    """Return the order in which FrameExit-like policies look: middle, ends, then the middles of what lies between."""
    order = [(clips - 1) // 2, 0, clips - 1]
    gaps = [(0, (clips - 1) // 2), ((clips - 1) // 2, clips - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return np.asarray(list(dict.fromkeys(order)), dtype=np.int64)


def _spread(wanted: int, clips: int) -> NDArray[np.int64]:
    """Return the middles of ``wanted`` equal parts of the video."""
    wanted = min(wanted, clips)
    return np.asarray((np.arange(wanted) + 0.5) * clips / wanted, dtype=np.int64)


def _motion_steps(student: StudentScores, wanted: int) -> BoolArray:
    """Return the clips in which the middles of ``wanted`` equal parts of the cumulative motion lie."""
    # A still video has its motion everywhere alike.
    motion_N = _double(student.motion_N) + 1e-9
    reached_N = np.cumsum(motion_N, axis=-1) / motion_N.sum(axis=-1, keepdims=True)
    wanted = min(wanted, motion_N.shape[-1])
    middle_T1 = ((np.arange(wanted) + 0.5) / wanted)[:, None]
    mask_N = np.zeros(motion_N.shape, dtype=np.bool_)
    np.put_along_axis(mask_N, (reached_N[..., None, :] < middle_T1).sum(axis=-1), values=True, axis=-1)
    return mask_N


def share_below(value_N: Float64Array) -> Float64Array:
    """Return the share of the clips that each one's value is at least as large as: 1 for the largest, 1/N for the least.

    Of equal values the earlier clip counts as larger.
    """
    place_N = np.argsort(np.argsort(-value_N, axis=-1, kind="stable"), axis=-1, kind="stable")
    return np.asarray(1.0 - place_N / value_N.shape[-1])


def _gain(student: StudentScores) -> Float64Array:
    return _double(student.q_teacher_N) - _double(student.q_student_N)


def _confidence(state: VideoState, judge: Judge) -> float:
    return float(judge.view(state).max())


def doubt_of(probabilities_K: Float64Array, judge: Judge) -> Float64Array:
    """Return P(the video's best label is wrong)."""
    if judge.label_kind == "multi":
        return np.asarray(1.0 - probabilities_K.max(axis=-1))
    # The sum of the others, not 1 minus the best: where that is 1 to the last bit, clips still differ in value.
    other_K = np.arange(probabilities_K.shape[-1]) != probabilities_K.argmax(axis=-1)[..., None]
    return np.asarray(probabilities_K[other_K].reshape(*probabilities_K.shape[:-1], -1).sum(axis=-1))


def _whole_video(asked: NDArray[np.bool_], shape: tuple[int, ...]) -> BoolArray:
    return np.broadcast_to(asked[..., None], shape).copy()


def _largest(value_N: Float64Array, wanted: int) -> BoolArray:
    # Stable: of equal values the earlier clip.
    mask_N = np.zeros(value_N.shape, dtype=np.bool_)
    np.put_along_axis(mask_N, np.argsort(-value_N, axis=-1, kind="stable")[..., :wanted], values=True, axis=-1)
    return mask_N


def _mask(clips: int, chosen: NDArray[np.integer]) -> BoolArray:
    mask_N = np.zeros(clips, dtype=np.bool_)
    mask_N[chosen] = True
    return mask_N


def _student(state: VideoState) -> StudentScores:
    return _present(state.student)


def _present(student: StudentScores | None) -> StudentScores:
    if student is None:
        raise ValueError("this policy decides by the student's scores, and there are none")
    return student


def _double(values: NDArray[np.floating]) -> Float64Array:
    return values.astype(np.float64)
