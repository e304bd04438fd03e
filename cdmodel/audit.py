"""What an audit says: how often the cascade agrees with the dense teacher, how sure that is, and what confidence is worth.

Pure. Loads scipy, so nothing on the way to a label may import this module. V audited videos, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from cdmodel.intervals import Interval, wilson
from cdmodel.metrics import EQUAL_MASS_BINS, expected_calibration_error
from cdmodel.scores import BoolArray

VIDEOS_PER_BIN = 30
"""The calibration error of fewer videos a bin is chance more than anything: with fewer videos, fewer bins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedVideos:
    """The videos that the cascade and the dense teacher have both labeled."""

    agreed_V: BoolArray
    """Whether both gave the same label."""
    confidence_V: NDArray[np.floating]
    """The cascade's P(label right), 0 to 1."""
    groups: Sequence[str | None]
    """Source recording of each (V); a video without one is a recording of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFindings:
    """What follows from the audited videos of a run; there is at least one."""

    videos: int
    groups: int | None
    """Source recordings among them; None where none is known."""
    agreement: Interval
    """Between the ends of the 95 % interval."""
    confidence: float
    """Mean of the cascade's confidence: what it thinks its agreement with the truth is."""
    calibration_error: float
    """ECE of the confidence against agreement."""


def assess_audit(audited: AuditedVideos) -> AuditFindings:
    """Return what the audited videos say; none at all is a ``ValueError``."""
    videos = len(audited.agreed_V)
    known = {group for group in audited.groups if group is not None}
    return AuditFindings(
        videos=videos,
        groups=len(known) or None,
        agreement=agreement_interval(audited.agreed_V, audited.groups),
        confidence=float(np.mean(audited.confidence_V, dtype=np.float64)),
        calibration_error=expected_calibration_error(
            audited.confidence_V, audited.agreed_V, bins=min(EQUAL_MASS_BINS, max(videos // VIDEOS_PER_BIN, 1))
        ),
    )


def agreement_interval(agreed_V: BoolArray, groups: Sequence[str | None], *, level: float = 0.95) -> Interval:
    """Return the share of agreement with its score interval, aware of groups; never narrower than plain Wilson's.

    Videos are drawn one by one, so that plain Wilson covers the agreement on tonight's videos however they are grouped.
    Other nights show other recordings, and videos of one recording agree or disagree together: to cover that agreement
    too, the V videos count as ``effective_videos`` in Wilson's formula. Source: Wilson 1927; with an effective sample
    size: Dean and Pagano 2015, Franco et al. 2019.
    """
    agreed, videos = int(np.count_nonzero(agreed_V)), len(agreed_V)
    plain = wilson(agreed, videos, level=level)
    if all(group is None for group in groups):
        return plain
    low, high = _score_ends(plain.estimate, effective_videos(agreed_V, groups, level=level), level)
    return Interval(low=min(low, plain.low), estimate=plain.estimate, high=max(high, plain.high))


def effective_videos(agreed_V: BoolArray, groups: Sequence[str | None], *, level: float = 0.95) -> float:
    """Return how many independent videos these are worth: V over the design effect, at most V.

    n_eff = [p (1 - p) / v] (z / t)^2 with p the share of agreement and v its variance between groups, linearised as a
    ratio: v = G / (G - 1) sum_g (a_g - p n_g)^2 / V^2, for a_g agreements on the n_g videos of group g. z and t are the
    quantiles of the normal and of Student's distribution with G - 1 degrees of freedom: few groups know v badly.
    Where all agree, or none, the data do not tell how alike the videos of a group are; they count as wholly alike,
    n_eff = V^2 / sum_g n_g^2 (z / t)^2, and one group alone as one video.
    Source: Kish 1965 (design effect); Korn and Graubard 1998 (n_eff with the correction by t).
    """
    videos = len(agreed_V)
    videos_G, agreed_G = _by_group(agreed_V, groups)
    if len(videos_G) == videos:
        return float(videos)
    if len(videos_G) < 2:
        return 1.0
    share = float(np.mean(agreed_V))
    if share in (0.0, 1.0):
        effective = videos**2 / float((videos_G**2).sum())
    else:
        residual_G = agreed_G - share * videos_G
        variance = len(videos_G) / (len(videos_G) - 1) * float((residual_G**2).sum()) / videos**2
        # No spread at all between the groups: better than independent, which is not to be believed.
        effective = share * (1 - share) / variance if variance > 0 else float(videos)
    tail = (1 + level) / 2
    shrinkage = float(norm.ppf(tail) / t.ppf(tail, len(videos_G) - 1)) ** 2
    return min(effective * shrinkage, float(videos))


def _by_group(agreed_V: BoolArray, groups: Sequence[str | None]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the videos of each group, and how many of them agree, [G] each."""
    numbers: dict[str | int, int] = {}
    group_V = [
        numbers.setdefault(place if group is None else group, len(numbers)) for place, group in enumerate(groups)
    ]
    videos_G = np.bincount(group_V).astype(np.float64)
    return videos_G, np.asarray(np.bincount(group_V, weights=agreed_V), dtype=np.float64)


def _score_ends(share: float, trials: float, level: float) -> tuple[float, float]:
    """Return the ends of the score interval for any number of trials above 0, whole or not. Source: Wilson 1927."""
    z = float(norm.ppf((1 + level) / 2))
    centre = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)
