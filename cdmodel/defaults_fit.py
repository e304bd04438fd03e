"""Choosing the aggregation, the policy and the video temperature a bundle ships with, on its ``cal`` videos.

Nothing here sees a test video. A user overrides all of it in the configuration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cdmodel.aggregation import Aggregation, Judge, LogPool, WeightedMean
from cdmodel.calibration_fit import fit_temperature, video_logits
from cdmodel.labels import LabelKind, log_loss
from cdmodel.policies import DenseStudent, EscalationPolicy, Gain
from cdmodel.replay import ClipFlops, ScoredVideo, replay, truth_of
from cdmodel.sweeps import score_at_shares

PRICE_OF_DENSE_TEACHER = 0.05
"""Video accuracy that the teacher on every clip has to bring to be worth it, in choosing the default threshold."""
SHARES = tuple(round(0.02 * step, 2) for step in range(31))
"""Of the clips: where the default threshold is looked for."""
POOL_SHARES = (0.1, 0.25, 0.5)
"""At which an aggregation is judged: it must serve whatever is escalated."""
AGGREGATIONS: tuple[Aggregation, ...] = (
    *(WeightedMean(confidence_power=power) for power in (1.0, 2.0, 3.0)),
    *(
        LogPool(confidence_power=power, independence=independence)
        for power in (0.5, 1.0, 2.0, 3.0)
        for independence in (0.0, 0.5)
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Defaults:
    """What a bundle does unless it is told otherwise."""

    policy: Gain
    aggregation: Aggregation
    video_temperature: float


def fit_defaults(videos: Sequence[ScoredVideo], kind: LabelKind, flops: ClipFlops) -> Defaults:
    """Pick the pool with the best likelihood, then the threshold with the best trade, then the video temperature.

    The trade is accuracy minus ``PRICE_OF_DENSE_TEACHER`` times the escalated share. "The cheapest one within half a
    point of the dense teacher" was tried first: on a few hundred videos half a point is less than the noise, and the
    choice jumped between a fifth and all of the clips.
    """
    ladder = gain_thresholds(videos, SHARES)
    judges = [Judge(aggregation=aggregation, label_kind=kind) for aggregation in AGGREGATIONS]
    judge = min(judges, key=lambda judge: _loss(judge, videos, flops))
    runs = [(Gain(min_gain=gain), replay(Gain(min_gain=gain), judge, videos, flops)) for gain in ladder]
    policy, chosen = max(runs, key=lambda run: run[1].accuracy - PRICE_OF_DENSE_TEACHER * run[1].escalated_share)
    temperature = fit_temperature(video_logits(chosen.probabilities_VK, kind), truth_of(videos), kind)
    return Defaults(policy=policy, aggregation=judge.aggregation, video_temperature=temperature)


def gain_thresholds(videos: Sequence[ScoredVideo], shares: Sequence[float]) -> tuple[float, ...]:
    """Return the gains above which about these shares of the videos' clips lie, cautious ones last where shares rise."""
    judge = Judge(aggregation=WeightedMean())  # a gain does not depend on it
    gains = score_at_shares(Gain(min_gain=0.0), videos, judge, shares)
    return tuple(min(max(gain, -1.0), 1.0) for gain in gains)


def _loss(judge: Judge, videos: Sequence[ScoredVideo], flops: ClipFlops) -> float:
    """Return the mean log-loss over some escalated shares, each at its own best temperature."""
    truth_VK, kind = truth_of(videos), judge.label_kind
    policies: list[EscalationPolicy] = [DenseStudent()]
    policies += [Gain(min_gain=gain) for gain in gain_thresholds(videos, POOL_SHARES)]
    losses = []
    for policy in policies:
        logits_VK = video_logits(replay(policy, judge, videos, flops).probabilities_VK, kind)
        losses.append(log_loss(logits_VK / fit_temperature(logits_VK, truth_VK, kind), truth_VK, kind))
    return float(np.mean(losses))
