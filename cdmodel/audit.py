"""What an audit says: how often the cascade agrees with the dense teacher, how sure that is, and what confidence is worth.

Pure. Loads scipy, so nothing on the way to a label may import this module. V audited videos, G groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from cdmodel.intervals import Interval, score_interval
from cdmodel.metrics import EQUAL_MASS_BINS, expected_calibration_error
from cdmodel.scores import BoolArray

Float64Array = NDArray[np.float64]

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
    if not videos:
        raise ValueError("an audit of no videos says nothing")
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
    # An effective number never above the true one: of the same share, the fewer the trials the wider the interval.
    return score_interval(float(np.mean(agreed_V)), effective_videos(agreed_V, groups, level=level), level=level)


def effective_videos(agreed_V: BoolArray, groups: Sequence[str | None], *, level: float = 0.95) -> float:
    """Return how many independent videos these are worth: V over the design effect, at most V.

    n_eff = V / [1 + (m - 1) rho] (z / t)^2, with m = sum_g n_g^2 / V the size of the group that a video finds itself in,
    and rho how alike the videos of a group are (``likeness``). z and t are the quantiles of the normal and of Student's
    distribution with G - 1 degrees of freedom, as rho is known badly from few groups. One group alone is worth one video.
    Source: Kish 1965 (design effect); Korn and Graubard 1998 (effective size, with the correction by t).
    """
    videos_G, agreed_G = _by_group(agreed_V, groups)
    videos = float(videos_G.sum())
    if len(videos_G) == videos:
        return videos
    if len(videos_G) == 1:
        return 1.0
    size = float((videos_G**2).sum()) / videos
    tail = (1 + level) / 2
    correction = float(ndtri(tail) / stdtrit(len(videos_G) - 1, tail)) ** 2
    return videos / (1 + (size - 1) * likeness(videos_G, agreed_G)) * correction


def likeness(videos_G: Float64Array, agreed_G: Float64Array) -> float:
    """Return the correlation of agreement within groups, 0 to 1, of which some hold more than one video.

    The estimate from the analysis of variance, rho = (B - W) / (B + (n_0 - 1) W), not below 0 (Ridout, Demetrio and
    Firth 1999), drawn towards 1 as if one more group with a disagreement had been seen, all of one mind: rho becomes
    (D rho + 1) / (D + 1), with D the groups that hold the rarer answer. Where agreement is high, D is small, and rho
    alone makes the interval too narrow: with D = 0 the data say nothing of rho at all. The drawing is our own; its
    coverage is asserted by its tests, see docs/audit.md.
    """
    videos, groups, share_G = videos_G.sum(), len(videos_G), agreed_G / videos_G
    share = agreed_G.sum() / videos
    divided = int(np.count_nonzero(agreed_G < videos_G if share >= 0.5 else agreed_G > 0))
    if not divided:
        return 1.0
    between = (videos_G * (share_G - share) ** 2).sum() / (groups - 1)
    within = (agreed_G * (1 - share_G)).sum() / (videos - groups)
    size = (videos - (videos_G**2).sum() / videos) / (groups - 1)
    estimate = max(float((between - within) / (between + (size - 1) * within)), 0.0)
    return (divided * estimate + 1) / (divided + 1)


def _by_group(agreed_V: BoolArray, groups: Sequence[str | None]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the videos of each group, and how many of them agree, [G] each."""
    numbers: dict[str | int, int] = {}
    group_V = [
        numbers.setdefault(place if group is None else group, len(numbers)) for place, group in enumerate(groups)
    ]
    videos_G = np.bincount(group_V).astype(np.float64)
    return videos_G, np.asarray(np.bincount(group_V, weights=agreed_V), dtype=np.float64)
