"""How sure a measurement is: bootstrap over groups, intervals for shares, and the test for paired answers.

S seeds, V videos, G groups. A group is one source recording: its videos are not independent, so it is drawn as a whole.
scipy is imported here, so nothing on the way to a label may import this module.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import binomtest

_DRAWS_AT_ONCE = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate between the ends of its confidence interval."""

    low: float
    estimate: float
    high: float


def bootstrap_mean(
    values_SV: ArrayLike, group_V: ArrayLike, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Return the mean over seeds and videos with the percentile interval of a bootstrap over groups.

    ``values`` [S, V] or [V]: right or wrong, areas, or paired differences of two methods on the same videos. Each draw
    takes G of the G groups with replacement, with all of their videos under all seeds, and takes the mean over those
    videos. Seeds are averaged, not drawn: the interval is about other videos, for these trainings.
    Source: Efron 1979; groups as units: Davison and Hinkley 1997.

    Raises:
        ValueError: shapes disagree, a value is not finite, or there are fewer than two groups to draw from.
    """
    values_SV = np.atleast_2d(np.asarray(values_SV, dtype=np.float64))
    _, group_V, videos_G = np.unique(np.asarray(group_V), return_inverse=True, return_counts=True)
    if values_SV.ndim != 2 or values_SV.shape[1] != len(group_V):
        raise ValueError(f"values {values_SV.shape} must be [S, V] for the {len(group_V)} videos with a group")
    if not np.isfinite(values_SV).all():
        raise ValueError("a bootstrap needs finite values")
    if len(videos_G) < 2:
        raise ValueError(f"a bootstrap over groups needs at least two, got {len(videos_G)}")
    sum_G = np.asarray(np.bincount(group_V, weights=values_SV.mean(axis=0)), dtype=np.float64)
    mean_D = _draw_means(sum_G, videos_G.astype(np.float64), draws, np.random.default_rng(seed))
    low, high = np.quantile(mean_D, [(1 - level) / 2, (1 + level) / 2])
    return Interval(low=float(low), estimate=float(values_SV.mean()), high=float(high))


def wilson(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Return the score interval of a share of independent trials. Source: Wilson 1927. Zero trials: ``ValueError``."""
    if trials < 1:
        raise ValueError("a share of no trials has no interval")
    interval = binomtest(successes, trials).proportion_ci(confidence_level=level, method="wilson")
    return Interval(low=float(interval.low), estimate=successes / trials, high=float(interval.high))


def score_interval(share: float, trials: float, *, level: float = 0.95) -> Interval:
    """Return the score interval of a share of trials that need not be a whole number, such as an effective sample size.

    Of whole numbers it is ``wilson``'s. Source: Wilson 1927.
    """
    z = float(ndtri((1 + level) / 2))
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    # At shares of 0 and 1 the near end is the share itself, but for rounding.
    return Interval(low=min(max(centre - half, 0.0), share), estimate=share, high=max(min(centre + half, 1.0), share))


def mcnemar_p(helpful: int, harmful: int) -> float:
    """Return the exact two-sided p-value that flips to right and flips to wrong are equally likely; 1 without flips.

    Takes the flips as independent, so give it one video per group, or read it beside a bootstrap over groups.
    Source: McNemar 1947, with the binomial distribution in place of chi-squared.
    """
    flips = helpful + harmful
    return float(binomtest(helpful, flips, 0.5).pvalue) if flips else 1.0


def _draw_means(
    sum_G: NDArray[np.float64], videos_G: NDArray[np.float64], draws: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Return the mean of each draw [D]. Some draws at a time, so that memory stays flat for any number of groups."""
    groups = len(sum_G)
    means: list[NDArray[np.float64]] = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        drawn_DG = random.integers(groups, size=(min(_DRAWS_AT_ONCE, draws - start), groups))
        means.append(sum_G[drawn_DG].sum(axis=1) / videos_G[drawn_DG].sum(axis=1))
    return np.concatenate(means)
