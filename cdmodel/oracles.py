"""Escalation that knows the answers, and escalation that knows nothing: the ends between which every policy lies.

Oracles need labels and are bounds under their aggregation, not methods. N clips, V videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from cdmodel.aggregation import Judge, merge_answers
from cdmodel.replay import ClipFlops, Replay, ReplayedVideo, ScoredVideo, tally
from cdmodel.scores import BoolArray, VideoState

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def replay_oracles(
    videos: Sequence[ScoredVideo], judge: Judge, flops: ClipFlops, *, seed: int = 0
) -> Iterator[tuple[str, float | None, Replay]]:
    """Yield name, setting and replay: the clip oracle, the subset oracle, and random clips at several shares."""
    yield "oracle_clip", None, _replay_chosen(videos, judge, flops, _needed_clips)
    yield "oracle_subset", None, _replay_chosen(videos, judge, flops, lambda video: _needed_subset(video, judge))
    random = np.random.default_rng(seed)
    for share in SHARES:
        drawn = partial(_drawn_clips, share=share, random=random)
        yield "random_mix", share, _replay_chosen(videos, judge, flops, drawn)


def _replay_chosen(
    videos: Sequence[ScoredVideo], judge: Judge, flops: ClipFlops, choose: Callable[[ScoredVideo], BoolArray]
) -> Replay:
    ends = [_end(video, choose(video)) for video in videos]
    scores = [judge.score(merge_answers(end.state, np.ones(end.state.clips, dtype=np.bool_))) for end in ends]
    return tally(videos, ends, np.stack([score.probabilities_K for score in scores]), True, flops)  # noqa: FBT003


def _end(video: ScoredVideo, asked_N: BoolArray) -> ReplayedVideo:
    state = VideoState.before_the_teacher(video.video_id, len(asked_N), video.student)
    if not asked_N.any():
        return ReplayedVideo(state=state, teacher_passes=0.0)
    passes = float(np.flatnonzero(asked_N)[-1] + 1) / len(asked_N)
    return ReplayedVideo(state=state.after(asked_N, video.teacher.rows(asked_N)), teacher_passes=passes)


def _drawn_clips(video: ScoredVideo, share: float, random: np.random.Generator) -> BoolArray:
    return random.random(len(video.student.q_student_N)) < share


def _needed_clips(video: ScoredVideo) -> BoolArray:
    """Return the clips on which the teacher is right and the student wrong."""
    teacher_right_N = video.truth_K[video.teacher.probabilities_NK.argmax(axis=1)]
    student_right_N = video.truth_K[video.student.probabilities_NK.argmax(axis=1)]
    return np.asarray(teacher_right_N & ~student_right_N)


def _needed_subset(video: ScoredVideo, judge: Judge) -> BoolArray:
    """Return clips that make the video's answer right, greedily: each time the one that raises P(truth) most."""
    asked_N = np.zeros(len(video.student.q_student_N), dtype=np.bool_)
    best = _truth_probability(video, asked_N, judge)
    while not best[0]:
        trials = [
            (_truth_probability(video, _with(asked_N, clip), judge), clip) for clip in np.flatnonzero(~asked_N).tolist()
        ]
        if not trials or max(trials)[0] <= best:
            return np.zeros_like(asked_N)  # the teacher cannot save this video: it is not asked
        best, clip = max(trials)
        asked_N = _with(asked_N, clip)
    return asked_N


def _with(asked_N: BoolArray, clip: int) -> BoolArray:
    more_N = asked_N.copy()
    more_N[clip] = True
    return more_N


def _truth_probability(video: ScoredVideo, asked_N: BoolArray, judge: Judge) -> tuple[bool, float]:
    """Return whether the answer would be right, and the probability of the likeliest true label."""
    state = _end(video, asked_N).state
    probabilities_K = judge.score(merge_answers(state, np.ones(state.clips, dtype=np.bool_))).probabilities_K
    right = bool(video.truth_K[probabilities_K.argmax()])
    return right, float(probabilities_K[video.truth_K].max())
