"""What a whole run will cost, from what a few of its videos did: which videos to measure, and how to add up.

Videos differ in size by orders of magnitude, so each has an expected share of the cost (``cdmodel.expected_cost``); videos
are sorted by it and cut into strata that hold equal shares; every stratum gives about two videos, drawn at random; and what
they cost is scaled by the expected shares. An archive where only bytes, or only files, cost something is met with a larger
interval, not with a bias. Knows nothing of what the figures mean.
N videos, n of them sampled, H strata.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t as student_t

from cdmodel.expected_cost import Floats

LEVEL = 0.95
"""Of the intervals, nominally. ``docs/plan.md`` says how often they hold on skewed archives."""
VIDEOS_PER_STRATUM = 2
"""The least that shows how much videos of one size differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A total between the ends of its confidence interval."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float, plus: float = 0.0) -> Estimate:
        """Return the estimate of ``factor`` times this, and something known on top."""
        return Estimate(value=self.value * factor + plus, low=self.low * factor + plus, high=self.high * factor + plus)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleDesign:
    """Which videos to measure, and what each of them stands for."""

    videos: int
    """N."""
    chosen_n: tuple[int, ...]
    """Positions among the N videos, stratum by stratum."""
    stratum_n: tuple[int, ...]
    """Which stratum each was drawn from."""
    stratum_videos_H: tuple[int, ...]
    """How many videos each stratum holds."""
    share_n: tuple[float, ...]
    """Expected share of the whole cost, of each that was chosen; all N shares add up to 1."""


def design_sample(shares_N: Floats, sample: int, seed: int) -> SampleDesign:
    """Draw ``sample`` of the videos, from strata of equal shares that follow one another in size; the same for a seed.

    Equal numbers from strata of equal expected totals come near the best allocation where the spread of the cost goes
    with its size. Source: Cochran, Sampling Techniques, 3rd ed. 1977, 5A.7.

    Raises:
        ValueError: fewer than two videos are to be sampled of more than one.
    """
    videos = len(shares_N)
    sample = min(sample, videos)
    if sample < min(2, videos):
        raise ValueError(f"a sample of at least 2 videos shows how much they differ, got {sample}")
    strata = _cut(shares_N, max(sample // VIDEOS_PER_STRATUM, 1))
    random = np.random.default_rng(seed)
    drawn = [
        np.sort(random.choice(stratum, taken, replace=False))
        for stratum, taken in zip(strata, _allocate([len(stratum) for stratum in strata], sample), strict=True)
    ]
    chosen_n = np.concatenate(drawn)
    return SampleDesign(
        videos=videos,
        chosen_n=tuple(chosen_n.tolist()),
        stratum_n=tuple(stratum for stratum, part in enumerate(drawn) for _ in part),
        stratum_videos_H=tuple(len(stratum) for stratum in strata),
        share_n=tuple(shares_N[chosen_n].tolist()),
    )


def estimate_total(design: SampleDesign, measured_n: ArrayLike) -> Estimate:
    """Return the total over all N videos of a figure that was measured on the sampled ones, with its interval.

    The combined ratio estimator: (sum_h N_h mean(y_h)) / (sum_h N_h mean(x_h)), x being the expected shares, whose total
    is 1. Its variance by linearisation, with the correction for a finite population, so that a sample of all videos has
    an interval of no width; Student's t with n - H degrees of freedom. Its bias is of the order 1/n.
    Source: Cochran 1977, 6.11; residuals divided by sum_h N_h mean(x_h): Sarndal, Swensson and Wretman 1992, 6.6.
    """
    measured_n = np.asarray(measured_n, dtype=np.float64)
    shares_n, stratum_n = np.asarray(design.share_n), np.asarray(design.stratum_n)
    stratum_videos_H = np.asarray(design.stratum_videos_H, dtype=np.float64)
    taken_H = np.bincount(stratum_n, minlength=len(stratum_videos_H))
    weight_n = (stratum_videos_H / taken_H)[stratum_n]
    share_seen = float(weight_n @ shares_n)
    total = float(weight_n @ measured_n) / share_seen
    residual_n = (measured_n - total * shares_n) / share_seen
    variance = sum(
        videos**2 * (1 - taken / videos) * float(residual_n[stratum_n == stratum].var(ddof=1)) / taken
        for stratum, (videos, taken) in enumerate(zip(stratum_videos_H, taken_H, strict=True))
        if taken > 1
    )
    freedom = max(int(taken_H.sum() - len(taken_H)), 1)
    half_width = float(student_t.ppf((1 + LEVEL) / 2, freedom)) * variance**0.5
    # What was measured is the least that the whole can come to.
    low = max(total - half_width, min(float(measured_n.sum()), total))
    return Estimate(value=total, low=low, high=total + half_width)


def makespan(parts: Iterable[float], workers: int) -> float:
    """Return when the last of the parts is done, if each in turn goes to the worker that is free first."""
    free_at = [0.0] * workers
    for part in parts:
        heapq.heapreplace(free_at, free_at[0] + part)
    return max(free_at)


def _cut(shares_N: Floats, strata: int) -> list[NDArray[np.int64]]:
    """Cut the videos, sorted by share, where the running total passes a multiple of 1/strata; empty strata fall out."""
    order_N = np.argsort(shares_N, kind="stable")
    middle_N = np.cumsum(shares_N[order_N]) - shares_N[order_N] / 2
    stratum_N = np.minimum((middle_N * strata).astype(np.int64), strata - 1)
    return np.split(order_N, np.flatnonzero(np.diff(stratum_N)) + 1)


def _allocate(videos_H: Sequence[int], sample: int) -> list[int]:
    """Spread the sample evenly, the strata of the largest videos first; none gives more than it has."""
    taken_H = [0] * len(videos_H)
    left = sample
    while left:
        for stratum in reversed(range(len(videos_H))):
            if left and taken_H[stratum] < videos_H[stratum]:
                taken_H[stratum] += 1
                left -= 1
    return taken_H
