"""The policies and baselines that an evaluation compares, each with a ladder of settings from cheap to dear.

Settings come from the scores of ``cal`` videos, without their labels; what they cost and bring is measured elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cdmodel.aggregation import Judge
from cdmodel.escalation import clip_score
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
from cdmodel.replay import ScoredVideo

SHARES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the clips: where ladders of clip thresholds have their rungs."""
CLIP_COUNTS = (1, 2, 3, 4, 6, 8)
CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)
HOPELESS = 0.2
SEQUENTIAL_CLIPS = 1

Side = Literal["policies", "baselines"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ladder:
    """One policy at several settings."""

    name: str
    side: Side
    rungs: tuple[tuple[float | None, EscalationPolicy], ...]
    """The setting, and the policy at it; a policy without a setting has one rung and no number."""


def build_ladders(videos: Sequence[ScoredVideo], judge: Judge) -> tuple[Ladder, ...]:
    """Return every ladder; ``videos`` are those of ``cal``."""
    return (*_our_ladders(videos, judge), *_rival_ladders(videos, judge))


def _our_ladders(videos: Sequence[ScoredVideo], judge: Judge) -> Iterator[Ladder]:
    def scores(policy: EscalationPolicy) -> list[float]:
        return score_at_shares(policy, videos, judge, SHARES)

    gains, values = scores(Gain(min_gain=0.0)), scores(VideoGain(min_value=0.0))
    yield _ladder("gain", "policies", gains, lambda v: Gain(min_gain=v))
    yield _ladder("video_gain", "policies", values, lambda v: VideoGain(min_value=v))
    ranks = scores(VideoRank(min_value=0.0))
    yield _ladder("video_rank", "policies", ranks, lambda v: VideoRank(min_value=v))
    yield _ladder("three_way", "policies", gains, lambda v: ThreeWay(min_gain=v, drop_below=HOPELESS))
    yield _ladder("sequential", "policies", values, lambda v: Sequential(min_value=v, clips_per_round=SEQUENTIAL_CLIPS))
    yield _ladder("top_gain", "policies", CLIP_COUNTS, lambda v: TopGain(clips=int(v)))
    yield _ladder("gate", "policies", CONFIDENCES, lambda v: Gate(threshold=v))
    yield Ladder(name="disagreement", side="policies", rungs=((None, Disagreement()),))


def _rival_ladders(videos: Sequence[ScoredVideo], judge: Judge) -> Iterator[Ladder]:
    def scores(policy: EscalationPolicy) -> list[float]:
        return score_at_shares(policy, videos, judge, SHARES)

    yield Ladder(name="dense_teacher", side="baselines", rungs=((None, DenseTeacher()),))
    yield Ladder(name="dense_student", side="baselines", rungs=((None, DenseStudent()),))
    # What is escalated below a threshold has the threshold's negative for a score.
    peaks = [_unit(-score) for score in scores(MaxProbability(threshold=0.5))]
    margins = [_unit(-score) for score in scores(Margin(threshold=0.5))]
    entropies = [_unit(score) for score in scores(Entropy(threshold=0.5))]
    own = [_unit(-score) for score in scores(SelfConfidence(threshold=0.5))]
    teachers = [_unit(score) for score in scores(TeacherConfidence(min_confidence=0.5))]
    yield _ladder("max_prob", "baselines", peaks, lambda v: MaxProbability(threshold=v))
    yield _ladder("margin", "baselines", margins, lambda v: Margin(threshold=v))
    yield _ladder("entropy", "baselines", entropies, lambda v: Entropy(threshold=v))
    yield _ladder("self_confidence", "baselines", own, lambda v: SelfConfidence(threshold=v))
    yield _ladder("teacher_confidence", "baselines", teachers, lambda v: TeacherConfidence(min_confidence=v))
    yield _ladder("agreement", "baselines", CONFIDENCES, lambda v: Agreement(threshold=v))
    yield _ladder("early_exit", "baselines", CONFIDENCES, lambda v: EarlyExit(threshold=v))
    yield _ladder("top_saliency", "baselines", CLIP_COUNTS, lambda v: TopSaliency(clips=int(v)))
    yield _ladder("uniform", "baselines", CLIP_COUNTS, lambda v: UniformClips(clips=int(v)))
    yield _ladder("random", "baselines", CLIP_COUNTS, lambda v: RandomClips(clips=int(v)))
    yield _ladder("centre", "baselines", CLIP_COUNTS, lambda v: CentreClips(clips=int(v)))
    yield _ladder("motion", "baselines", CLIP_COUNTS, lambda v: MotionClips(clips=int(v)))


def score_at_shares(
    policy: EscalationPolicy, videos: Sequence[ScoredVideo], judge: Judge, shares: Sequence[float]
) -> list[float]:
    """Return the values of a threshold policy's score above which these shares of all clips lie, in order of ``shares``.

    Of N clips, round(share N) lie above, ties apart: the threshold is the score of the next clip, or for all of them
    the largest number below every score.
    """
    scores = [clip_score(policy, video.student, judge) for video in videos]
    falling_N = -np.sort(-np.concatenate([score_N for score_N in scores if score_N is not None]))
    rungs_N = np.append(falling_N, np.nextafter(falling_N[-1], -np.inf))
    return [float(rungs_N[round(share * len(falling_N))]) for share in shares]


def _ladder(name: str, side: Side, values: Sequence[float], make: Callable[[float], EscalationPolicy]) -> Ladder:
    rungs = tuple((float(value), make(value)) for value in dict.fromkeys(values))
    return Ladder(name=name, side=side, rungs=rungs)


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
