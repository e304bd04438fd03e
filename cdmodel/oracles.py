"""Escalation that knows the answers, and escalation that knows nothing: the ends between which every policy lies.

Oracles need labels and are bounds under their aggregation, not methods. N clips, V videos,
T trials.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cdmodel.aggregation import Judge, combine_answers
from cdmodel.replay import ClipFlops, Replay, ReplayBench, ScoredVideo
from cdmodel.scores import BoolArray

SHARES = (0.05, 0.1, 0.2, 0.3, 0.5, 0.7)


def replay_oracles(
    videos: Sequence[ScoredVideo], judge: Judge, flops: ClipFlops, *, seed: int = 0
) -> Iterator[tuple[str, float | None, Replay]]:
    """Yield name, setting and replay: the clip oracle, the subset oracle, and random clips at several shares."""
    bench = ReplayBench(videos, judge, flops)
    yield "oracle_clip", None, bench.replay_chosen([_needed_clips(video) for video in videos])
    yield "oracle_subset", None, bench.replay_chosen([_needed_subset(video, judge) for video in videos])
    random = np.random.default_rng(seed)
    for share in SHARES:
        drawn = [random.random(len(video.student.q_student_N)) < share for video in videos]
        yield "random_mix", share, bench.replay_chosen(drawn)


def _needed_clips(video: ScoredVideo) -> BoolArray:
    """Return the clips on which the teacher is right and the student wrong."""
    teacher_right_N = video.truth_K[video.teacher.probabilities_NK.argmax(axis=1)]
    student_right_N = video.truth_K[video.student.probabilities_NK.argmax(axis=1)]
    return np.asarray(teacher_right_N & ~student_right_N)


def _needed_subset(video: ScoredVideo, judge: Judge) -> BoolArray:
    """Return clips that make the video's answer right, greedily: each time the one that raises P(truth) most."""
    asked_N = np.zeros(len(video.student.q_student_N), dtype=np.bool_)
    (best,) = _truth_probabilities(video, asked_N[None], judge)
    while not best[0]:
        clips = np.flatnonzero(~asked_N)
        trials = _truth_probabilities(video, asked_N | (clips[:, None] == np.arange(len(asked_N))), judge)
        if not trials or max(trials) <= best:
            return np.zeros_like(asked_N)  # the teacher cannot save this video: it is not asked
        best, clip = max(zip(trials, clips.tolist(), strict=True))
        asked_N[clip] = True
    return asked_N


def _truth_probabilities(video: ScoredVideo, asked_TN: BoolArray, judge: Judge) -> list[tuple[bool, float]]:
    """Return for each of T trials whether the answer would be right, and the probability of the likeliest true label."""
    answers = combine_answers(video.student, video.teacher, asked_TN, np.ones_like(asked_TN))
    probabilities_TK = judge.score(answers).probabilities_K
    right_T = video.truth_K[probabilities_TK.argmax(axis=1)]
    return list(
        zip(right_T.tolist(), probabilities_TK[:, video.truth_K].max(axis=1, initial=0.0).tolist(), strict=True)
    )
