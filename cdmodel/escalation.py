"""Which clips the teacher is asked about next, and which count: pure functions of what is known at that moment.

A live run and a replay call the same functions with the same ``VideoState``, which holds no answer of the teacher to a
clip it was not asked about. Adding a policy means a class in ``policies`` and a ``case`` here; forgetting the case fails
the type check. N clips, K labels.
"""

from __future__ import annotations

import zlib

import numpy as np
from numpy.typing import NDArray

from cdmodel.aggregation import Judge, merge_answers
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
)
from cdmodel.scores import BoolArray, StudentScores, VideoState

Float64Array = NDArray[np.float64]


def needs_student(policy: EscalationPolicy) -> bool:
    """Tell whether the student has to look at a video before this policy can decide."""
    return not isinstance(policy, DenseTeacher | UniformClips | RandomClips | CentreClips | EarlyExit)


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
            return _choose_at_once(policy, state, judge)


def counted_clips(policy: EscalationPolicy, state: VideoState) -> BoolArray:
    """Return which clips count in the aggregate, bool [N]; clips nobody looked at are left out elsewhere."""
    match policy:
        case TopSaliency() | MotionClips():
            return state.asked_N
        case ThreeWay(drop_below=floor):
            student = _student(state)
            hopeless_N = (student.q_teacher_N < floor) & (student.q_student_N < floor)
            return np.asarray(state.asked_N | ~hopeless_N)
        case _:
            return np.ones(state.clips, dtype=np.bool_)


def clip_score(policy: EscalationPolicy, student: StudentScores, judge: Judge) -> Float64Array | None:
    """Return the score [N] whose large values are escalated, for policies that are a threshold on one; else None."""
    rule = _threshold_rule(policy, student, judge)
    return None if rule is None else rule[0]


def _threshold_rule(  # noqa: PLR0911 - one case a policy
    policy: EscalationPolicy, student: StudentScores, judge: Judge
) -> tuple[Float64Array, float] | None:
    """Return the score [N] and what it must exceed; None for policies that are no threshold on a score.

    Both are float64, so that a threshold taken from a score escalates exactly the clips above it.
    """
    match policy:
        case MaxProbability(threshold=threshold):
            return -_double(student.probabilities_NK.max(axis=1)), -threshold
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
            return _gain(student) * (1.0 - _student_confidence(student, judge)), threshold
        case _:
            return None


def _choose_at_once(policy: EscalationPolicy, state: VideoState, judge: Judge) -> BoolArray:
    """Decide the whole video before the teacher has said anything."""
    match policy:
        case DenseTeacher():
            return np.ones(state.clips, dtype=np.bool_)
        case DenseStudent():
            return np.zeros(state.clips, dtype=np.bool_)
        case UniformClips(clips=clips):
            return _mask(state.clips, _spread(clips, state.clips))
        case CentreClips(clips=clips):
            first = max((state.clips - clips) // 2, 0)
            return _mask(state.clips, np.arange(first, min(first + clips, state.clips)))
        case RandomClips(clips=clips, seed=seed):
            # The video's id, not its place in the corpus, so that a shard or a replay draws the same.
            random = np.random.default_rng((seed, zlib.crc32(state.video_id.encode())))
            return _mask(state.clips, random.permutation(state.clips)[:clips])
        case _:
            return _choose_by_student(policy, state, _student(state), judge)


def _choose_by_student(  # noqa: PLR0911 - one case a policy
    policy: EscalationPolicy, state: VideoState, student: StudentScores, judge: Judge
) -> BoolArray:
    rule = _threshold_rule(policy, student, judge)
    if rule is not None:
        score_N, threshold = rule
        return np.asarray(score_N > threshold)
    match policy:
        case Disagreement():
            answer = int(judge.score(merge_answers(state, _all(state))).probabilities_K.argmax())
            return np.asarray(student.probabilities_NK.argmax(axis=1) != answer)
        case Gate(threshold=threshold):
            return np.full(state.clips, _student_confidence(student, judge) < threshold)
        case Agreement(threshold=threshold):
            votes = np.bincount(student.probabilities_NK.argmax(axis=1))
            return np.full(state.clips, votes.max() / state.clips < threshold)
        case TopGain(clips=clips):
            return _largest(_gain(student), clips)
        case TopSaliency(clips=clips):
            return _largest(_double(student.q_teacher_N), clips)
        case MotionClips(clips=clips):
            return _mask(state.clips, _motion_steps(student, clips))
        case _:
            raise AssertionError(f"{policy.kind} does not decide at once by the student")


def _exit_early(policy: EarlyExit, state: VideoState, judge: Judge) -> BoolArray:
    asked = int(state.asked_N.sum())
    if asked == state.clips or (asked and _confidence(state, judge) >= policy.threshold):
        return np.zeros(state.clips, dtype=np.bool_)
    return _mask(state.clips, coarse_to_fine(state.clips)[asked : asked + 1])


def _most_valuable(policy: Sequential, state: VideoState, judge: Judge) -> BoolArray:
    confidence = _confidence(state, judge)
    if confidence >= policy.stop_confidence:
        return np.zeros(state.clips, dtype=np.bool_)
    value_N = np.where(state.asked_N, -np.inf, _gain(_student(state)) * (1.0 - confidence))
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


def _motion_steps(student: StudentScores, wanted: int) -> NDArray[np.int64]:
    """Return the clips in which the middles of ``wanted`` equal parts of the cumulative motion lie."""
    # A still video has its motion everywhere alike.
    motion_N = _double(student.motion_N) + 1e-9
    reached_N = np.cumsum(motion_N) / motion_N.sum()
    wanted = min(wanted, len(motion_N))
    return np.unique(np.searchsorted(reached_N, (np.arange(wanted) + 0.5) / wanted))


def _gain(student: StudentScores) -> Float64Array:
    return _double(student.q_teacher_N) - _double(student.q_student_N)


def _student_confidence(student: StudentScores, judge: Judge) -> float:
    """Return the largest probability of the student's own answer for the video."""
    return _confidence(VideoState.before_the_teacher("", len(student.q_student_N), student), judge)


def _confidence(state: VideoState, judge: Judge) -> float:
    return float(judge.score(merge_answers(state, _all(state))).probabilities_K.max())


def _largest(value_N: Float64Array, wanted: int) -> BoolArray:
    # Stable: of equal values the earlier clip.
    return _mask(len(value_N), np.argsort(-value_N, kind="stable")[:wanted])


def _mask(clips: int, chosen: NDArray[np.integer]) -> BoolArray:
    mask_N = np.zeros(clips, dtype=np.bool_)
    mask_N[chosen] = True
    return mask_N


def _all(state: VideoState) -> BoolArray:
    return np.ones(state.clips, dtype=np.bool_)


def _student(state: VideoState) -> StudentScores:
    if state.student is None:
        raise ValueError("this policy decides by the student's scores, and there are none")
    return state.student


def _double(values: NDArray[np.floating]) -> Float64Array:
    return values.astype(np.float64)
