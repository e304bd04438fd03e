"""Choosing the aggregation, the policy and the video temperature a bundle ships with, on its ``cal`` videos.

Nothing here sees a test video. A user overrides all of it in the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cdmodel.aggregation import Aggregation, Judge, LogPool
from cdmodel.calibration_fit import COLDEST, fit_temperature, video_logits
from cdmodel.labels import LabelKind, log_loss
from cdmodel.policies import DenseStudent, EscalationPolicy, Gain, VideoRank
from cdmodel.replay import ClipFlops, Replay, ScoredVideo, replay, truth_of
from cdmodel.sweeps import score_at_shares

PRICE_OF_DENSE_TEACHER = 0.05
"""Video accuracy that the teacher on every clip has to bring to be worth it, in choosing the default threshold."""
SHARES = tuple(round(0.02 * step, 2) for step in range(41))
"""Of the clips: where the default threshold is looked for."""
POOL_SHARES = (0.1, 0.25, 0.5)
"""At which an aggregation is judged: it must serve whatever is escalated."""
AGGREGATIONS: tuple[Aggregation, ...] = tuple(
    LogPool(confidence_power=power, independence=independence)
    for power in (0.25, 0.5, 1.0, 2.0)
    for independence in (0.0, 0.5)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a bundle does unless it is told otherwise."""

    policy: VideoRank
    aggregation: Aggregation
    video_temperature: float

    def judge(self, kind: LabelKind) -> Judge:
        """Return how clips become a video's answer."""
        return Judge(aggregation=self.aggregation, label_kind=kind, video_temperature=self.video_temperature)


def fit_defaults(
    videos: Sequence[ScoredVideo], kind: LabelKind, flops: ClipFlops, max_escalated_share: float = 1.0
) -> Defaults:
    """Pick the pool with the best likelihood, then temperature and threshold in turn, each by the other's last value.

    Of the thresholds that escalate no more than ``max_escalated_share`` of the clips, the one with the best trade: mean
    P(truth) minus ``PRICE_OF_DENSE_TEACHER`` times the escalated share. Accuracy itself in place of P(truth) picks about the
    same place with more noise; "the cheapest threshold within half a point of the dense teacher" jumped between a fifth
    and all of the clips, since on a few hundred videos half a point is noise.
    """
    aggregation = min(AGGREGATIONS, key=lambda pool: _loss(Judge(aggregation=pool, label_kind=kind), videos, flops))
    policy: EscalationPolicy = DenseStudent()
    defaults = Defaults(policy=VideoRank(min_value=0.0), aggregation=aggregation, video_temperature=1.0)
    for _ in range(2):
        run = replay(policy, defaults.judge(kind), videos, flops)
        colder = _fit_video_temperature(run, videos, kind) * defaults.video_temperature
        defaults = replace(defaults, video_temperature=max(colder, COLDEST))
        judge = defaults.judge(kind)
        policy = _best_trade(judge, videos, flops, max_escalated_share)
        defaults = replace(defaults, policy=policy)
    return defaults


def values_at_shares(videos: Sequence[ScoredVideo], judge: Judge, shares: Sequence[float]) -> tuple[float, ...]:
    """Return the smallest values at which about these shares of the videos' clips are escalated, falling."""
    values = score_at_shares(VideoRank(min_value=0.0), videos, judge, shares)
    return tuple(min(max(value, -1.0), 1.0) for value in values)


def _best_trade(judge: Judge, videos: Sequence[ScoredVideo], flops: ClipFlops, max_escalated_share: float) -> VideoRank:
    truth_VK = truth_of(videos)
    shares = [share for share in SHARES if share < max_escalated_share]
    if max_escalated_share < SHARES[-1]:
        shares.append(max_escalated_share)

    def worth(policy: VideoRank) -> float:
        run = replay(policy, judge, videos, flops)
        truth_V = np.where(truth_VK, run.probabilities_VK, 0.0).sum(axis=1) / truth_VK.sum(axis=1)
        return float(truth_V.mean()) - PRICE_OF_DENSE_TEACHER * run.escalated_share

    ladder = dict.fromkeys(values_at_shares(videos, judge, shares))
    return max((VideoRank(min_value=value) for value in ladder), key=worth)


def _fit_video_temperature(run: Replay, videos: Sequence[ScoredVideo], kind: LabelKind) -> float:
    return fit_temperature(video_logits(run.probabilities_VK, kind), truth_of(videos), kind)


def _loss(judge: Judge, videos: Sequence[ScoredVideo], flops: ClipFlops) -> float:
    """Return the mean log-loss over some escalated shares, each at its own best temperature."""
    truth_VK, kind = truth_of(videos), judge.label_kind
    gains = score_at_shares(Gain(min_gain=0.0), videos, judge, POOL_SHARES)
    policies: list[EscalationPolicy] = [DenseStudent(), *(Gain(min_gain=min(max(g, -1.0), 1.0)) for g in gains)]
    losses = []
    for policy in policies:
        run = replay(policy, judge, videos, flops)
        logits_VK = video_logits(run.probabilities_VK, kind) / _fit_video_temperature(run, videos, kind)
        losses.append(log_loss(logits_VK, truth_VK, kind))
    return float(np.mean(losses))
