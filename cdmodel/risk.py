"""Certified thresholds: how boldly may the student decide if the dense teacher's right answers must survive?

Learn-then-Test (Angelopoulos et al. 2021) on the harm 1[cascade wrong and dense teacher right], averaged within each
group to a loss between 0 and 1. Groups must be independent and like those to come, and the thresholds chosen without
them. E[loss] <= epsilon bounds how far the cascade's accuracy can fall below the dense teacher's, groups counting alike.
NumPy only but for the binomial distribution. G groups; losses are given without their zeros, in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, assert_never

import numpy as np
from numpy.typing import ArrayLike

from cdmodel.setting_groups import FORBID_UNKNOWN

Bound = Literal["exact_binomial", "betting", "hoeffding_bentkus"]
_BETS = np.linspace(0.005, 0.995, 199)
_MOST_GROUPS = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskPoint:
    """What one threshold of the policy ``video_rank`` would have cost in harm."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    min_value: float
    escalated_share: float
    """Of the clips of all videos, 0 to 1."""
    harm_G: tuple[float, ...]
    """The losses of the groups that were harmed; those of all others are 0."""

    def __post_init__(self) -> None:
        if not all(0 < harm <= 1 for harm in self.harm_G):
            raise ValueError("the harm of a group that was harmed must be above 0 and at most 1")
        if not 0 <= self.escalated_share <= 1:
            raise ValueError(f"escalated_share must lie between 0 and 1, got {self.escalated_share}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RiskCurve:
    """The harm of every threshold on the groups of the role ``risk``, from cautious (most escalated) to bold."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    groups: int
    """Independent groups that were looked at."""
    videos: int
    """Videos in them; as many as groups means one video each, so that a group's loss can only be 0 or 1."""
    points: tuple[RiskPoint, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.groups <= self.videos:
            raise ValueError(f"{self.videos} videos cannot lie in {self.groups} groups")
        for cautious, bold in pairwise(self.points):
            if cautious.min_value >= bold.min_value or cautious.escalated_share < bold.escalated_share:
                raise ValueError("points must rise in min_value and not rise in escalated_share")
        if any(len(point.harm_G) > self.groups for point in self.points):
            raise ValueError(f"more groups harmed than the {self.groups} there are")
        if self.has_whole_losses and any(harm != 1 for point in self.points for harm in point.harm_G):
            raise ValueError("the harm of a group of one video is 0 or 1")

    @property
    def has_whole_losses(self) -> bool:
        """Whether a group's loss can only be 0 or 1, whatever was observed."""
        return self.videos == self.groups


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """With probability 1 - ``delta`` over the groups that were looked at, the expected harm is at most ``epsilon``."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    epsilon: float
    delta: float
    min_value: float
    """The boldest threshold that is certified."""
    escalated_share: float
    groups: int
    observed_harm: float
    """Mean loss of the groups at this threshold."""
    p_value: float
    """Of the hypothesis that the expected harm is above ``epsilon``, at this threshold."""
    bound: Bound
    kind: Literal["certified"] = "certified"


@dataclass(frozen=True, slots=True, kw_only=True)
class NotCertifiable:
    """No threshold can be promised; the dense teacher is what is left."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    epsilon: float
    delta: float
    groups: int
    groups_needed: int
    """The fewest groups that could certify anything: with not one of them harmed."""
    bound: Bound
    reason: str
    """One sentence."""
    kind: Literal["not_certifiable"] = "not_certifiable"


def harm_by_group(harmed_V: ArrayLike, group_V: ArrayLike) -> tuple[float, ...]:
    """Return the share of harmed videos of every group that has one, as ``RiskPoint`` keeps it.

    ``harmed`` is 1[cascade wrong and dense teacher right] of each video.
    """
    _, group_V, videos_G = np.unique(np.asarray(group_V), return_inverse=True, return_counts=True)
    share_G = np.bincount(group_V, weights=np.asarray(harmed_V, dtype=np.float64)) / videos_G
    return tuple(share_G[share_G > 0].tolist())


def certify(
    curve: RiskCurve, epsilon: float, delta: float, *, bound: Bound | None = None
) -> Certificate | NotCertifiable:
    """Return the boldest threshold whose expected harm is at most ``epsilon``, wrong with probability ``delta`` at most.

    Tests the thresholds from the cautious end, each at level ``delta``, and stops at the first that fails: in a fixed
    order all of them share one ``delta``, whether or not harm grows along it. The bound is the exact binomial one where
    a group's loss can only be 0 or 1, else betting: a choice made from the groups' sizes, never from their losses, for
    picking the smaller p-value would spend ``delta`` twice.
    Source: Angelopoulos et al. 2021, fixed sequence testing.

    Raises:
        ValueError: epsilon or delta is not strictly between 0 and 1, or the exact binomial bound is asked for groups of
            several videos.
    """
    _require_level(epsilon, delta)
    chosen = bound or ("exact_binomial" if curve.has_whole_losses else "betting")
    if chosen == "exact_binomial" and not curve.has_whole_losses:
        raise ValueError("the exact binomial bound needs groups of one video, whose loss is 0 or 1")
    certificate = None
    for point in curve.points:
        p_value = _p_value(chosen, point.harm_G, curve.groups, epsilon, delta)
        if p_value > delta:
            break
        certificate = Certificate(
            epsilon=epsilon,
            delta=delta,
            min_value=point.min_value,
            escalated_share=point.escalated_share,
            groups=curve.groups,
            observed_harm=math.fsum(point.harm_G) / curve.groups,
            p_value=p_value,
            bound=chosen,
        )
    return certificate or _explain(curve, epsilon, delta, chosen)


def binomial_p(harmed: int, groups: int, epsilon: float) -> float:
    """Return P(at most ``harmed`` of ``groups`` are harmed) if each is with probability ``epsilon``.

    A p-value of E[loss] > epsilon for losses that can only be 0 or 1. Source: Clopper and Pearson 1934.
    """
    return _binomial_cdf(harmed, groups, epsilon) if groups else 1.0


def hoeffding_bentkus_p(harm_G: tuple[float, ...], groups: int, epsilon: float) -> float:
    """Return the p-value of E[loss] > epsilon, for independent losses between 0 and 1 of which these are not 0.

    min(exp(-n h(min(r, epsilon), epsilon)), e P(Bin(n, epsilon) <= ceil(n r))), with the mean loss r of n groups and
    h(a, b) = a log(a / b) + (1 - a) log((1 - a) / (1 - b)). Looks at the mean alone, so it is weak where losses are small
    and even. Source: Angelopoulos et al. 2021 (from Bates et al. 2021); Hoeffding 1963; Bentkus 2004.
    """
    if not groups:
        return 1.0
    total = math.fsum(harm_G)
    risk = min(total / groups, epsilon)
    divergence = (1 - risk) * math.log((1 - risk) / (1 - epsilon))
    divergence += risk * math.log(risk / epsilon) if risk else 0.0
    bentkus = math.e * _binomial_cdf(math.ceil(total), groups, epsilon)
    return min(1.0, math.exp(-groups * divergence), bentkus)


def betting_p(harm_G: tuple[float, ...], groups: int, epsilon: float, *, delta: float) -> float:
    """Return the p-value of E[loss] > epsilon, for independent losses between 0 and 1 of which these are not 0.

    Bets against the hypothesis: the capital prod over groups of 1 + c (epsilon - loss) / (1 - epsilon), with c between
    0 and 1, starts at 1 and does not grow on average if E[loss] >= epsilon, so that 1 / capital is a p-value (Ville
    1939). It is exact for any losses, and strong where they are small. The capital is split over several c that stay the
    same for all groups: half on the one that stands the most losses of 1 and still rejects at ``delta``, half evenly over
    the larger ones. So the result depends on no order of the groups, which a bundle does not keep, and on no seed.
    Source: Waudby-Smith and Ramdas 2021, capital process and diversified bets.
    """
    if not groups:
        return 1.0
    steady = _steadiest_bet(groups, epsilon, delta)
    bets_B = np.append(steady, np.linspace(steady, 1, 33)[1:-1])
    share_B = np.append(0.5, np.full(len(bets_B) - 1, 0.5 / (len(bets_B) - 1)))
    payoff_BG = bets_B[:, None] * (epsilon - np.asarray(harm_G, dtype=np.float64)) / (1 - epsilon)
    unharmed_B = (groups - len(harm_G)) * np.log1p(bets_B * epsilon / (1 - epsilon))
    log_capital_B = np.log(share_B) + np.log1p(payoff_BG).sum(axis=1) + unharmed_B
    return math.exp(-max(0.0, float(np.logaddexp.reduce(log_capital_B))))


def largest_harmful(groups: int, epsilon: float, delta: float) -> int | None:
    """Return how many of ``groups`` may be harmed for a certificate by the exact binomial bound; None if not even 0."""
    _require_level(epsilon, delta)
    if binomial_p(0, groups, epsilon) > delta:
        return None
    return _first(lambda harmed: binomial_p(harmed, groups, epsilon) > delta, 0, groups) - 1


def groups_needed(epsilon: float, delta: float, *, bound: Bound = "exact_binomial") -> int:
    """Return the fewest groups with which a threshold that harms none of them is certified.

    For the exact binomial bound that is the least n with (1 - epsilon)^n <= delta.
    """
    _require_level(epsilon, delta)
    return _first(lambda groups: _p_value(bound, (), groups, epsilon, delta) <= delta, 1, _MOST_GROUPS)


def _p_value(bound: Bound, harm_G: tuple[float, ...], groups: int, epsilon: float, delta: float) -> float:
    match bound:
        case "exact_binomial":
            return binomial_p(len(harm_G), groups, epsilon)
        case "hoeffding_bentkus":
            return hoeffding_bentkus_p(harm_G, groups, epsilon)
        case "betting":
            return betting_p(harm_G, groups, epsilon, delta=delta)
        case _:
            assert_never(bound)


def _explain(curve: RiskCurve, epsilon: float, delta: float, bound: Bound) -> NotCertifiable:
    needed = groups_needed(epsilon, delta, bound=bound)
    claim = f"harm of at most {epsilon:g} at confidence {1 - delta:g}"
    if curve.groups < needed:
        reason = f"{claim} is not certifiable with {curve.groups} groups: even with none harmed it takes {needed}"
    elif not curve.points:
        reason = f"{claim} is not certifiable: no threshold was tried"
    else:
        harm = math.fsum(curve.points[0].harm_G) / curve.groups
        reason = f"{claim} is not certifiable with {curve.groups} groups: the most cautious threshold harmed {harm:.4f}"
    return NotCertifiable(
        epsilon=epsilon, delta=delta, groups=curve.groups, groups_needed=needed, bound=bound, reason=reason
    )


def _steadiest_bet(groups: int, epsilon: float, delta: float) -> float:
    """Return the bet c that still rejects at ``delta`` after the most losses of 1; it looks at no loss."""
    gain_B = np.log1p(_BETS * epsilon / (1 - epsilon))
    losses_B = (groups * gain_B + math.log(delta)) / (gain_B - np.log1p(-_BETS))
    return float(_BETS[np.argmax(losses_B)])


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
    """Return the first whole number in [low, high] from which on ``holds``; ``high`` where none does."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low


def _binomial_cdf(successes: int, trials: int, probability: float) -> float:
    # Here, not above: reading a bundle needs the types of this module and must not load scipy.
    from scipy.special import bdtr

    return float(bdtr(successes, trials, probability))


def _require_level(epsilon: float, delta: float) -> None:
    if not (0 < epsilon < 1 and 0 < delta < 1):
        raise ValueError(f"epsilon and delta must lie strictly between 0 and 1, got {epsilon} and {delta}")
