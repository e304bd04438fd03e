"""Whether the models meet other videos than they were fitted on: their confidence now against that on held-out data.

Histograms of fixed length, which add up from shard to run, and one figure for how far two of them lie apart. Torch-free,
and plain Python: there are a few dozen numbers. B bins.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from cdmodel.setting_groups import FORBID_UNKNOWN

EDGES = (
    *(0.001, 0.01, 0.02),
    *(0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95),
    *(0.97, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999),
)
"""Where the bins of confidence part: dense near 1, where good models are. A bin holds its lower edge, not its upper."""
BINS = len(EDGES) + 1
MOST_GROUPS = 10
"""Bins are joined to about so many groups of equal mass before they are compared, as is usual for this index."""
VIDEOS_PER_GROUP = 20
"""With fewer videos, fewer groups. Chance alone makes an index of about (groups - 1) / videos even where the clips of a
video are all alike, so that it stays below 0.05 (Yurdakul 2018: about (groups - 1)(1/n + 1/m) for independent draws)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceCounts:
    """How many clips had which confidence. They add up with ``+``; the empty one is zero."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    videos: int = 0
    """Videos that the clips are of."""
    clips_B: tuple[int, ...] = (0,) * BINS
    """By bin of ``EDGES``."""

    def __post_init__(self) -> None:
        if len(self.clips_B) != BINS or min(self.clips_B) < 0 or self.videos < 0:
            raise ValueError(f"{BINS} counts at or above 0 are needed, got {self.clips_B} of {self.videos} videos")

    def __add__(self, other: ConfidenceCounts) -> ConfidenceCounts:
        return ConfidenceCounts(
            videos=self.videos + other.videos,
            clips_B=tuple(ours + theirs for ours, theirs in zip(self.clips_B, other.clips_B, strict=True)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceReference:
    """What the calibrated confidence of both models looked like on held-out data, every clip scored by both."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    edges: tuple[float, ...]
    """Those the clips were counted by; a later version of this project may count by others."""
    student: ConfidenceCounts
    teacher: ConfidenceCounts


def count_confidences(videos: Iterable[Sequence[float]]) -> ConfidenceCounts:
    """Count the confidences, 0 to 1, of the clips of each video; videos without a clip are left out."""
    clips_B, found = [0] * BINS, 0
    for confidences in videos:
        found += bool(confidences)
        for confidence in confidences:
            clips_B[bisect_right(EDGES, confidence)] += 1
    return ConfidenceCounts(videos=found, clips_B=tuple(clips_B))


def confidence_drift(now: ConfidenceCounts, reference: ConfidenceCounts) -> float | None:
    """Return the population stability index: sum over groups of (a - e) ln(a / e), at or above 0.

    a and e are a group's share of the clips now and in the reference; groups are neighbouring bins, joined until each
    holds about the same share of the reference. Half a clip is added to each count, so that an empty group stays finite.
    The usual reading: below 0.1 nothing, from 0.25 on another population. None where either has fewer than
    2 x ``VIDEOS_PER_GROUP`` videos: too few to tell.
    Source: Siddiqi 2006, Credit Risk Scorecards, chapter 9; it is the divergence J of Jeffreys 1946.
    """
    groups = min(MOST_GROUPS, min(now.videos, reference.videos) // VIDEOS_PER_GROUP)
    if groups < 2:
        return None
    joined = _join(reference.clips_B, now.clips_B, groups)
    total_expected = sum(expected for expected, _ in joined) + 0.5 * len(joined)
    total_actual = sum(actual for _, actual in joined) + 0.5 * len(joined)
    index = 0.0
    for expected, actual in joined:
        e, a = (expected + 0.5) / total_expected, (actual + 0.5) / total_actual
        index += (a - e) * math.log(a / e)
    return index


def _join(reference_B: Sequence[int], now_B: Sequence[int], groups: int) -> list[tuple[int, int]]:
    """Return the counts of at most ``groups`` groups of neighbouring bins, about equal in the reference."""
    total = sum(reference_B)
    joined: list[tuple[int, int]] = []
    seen = expected = actual = 0
    for in_reference, in_run in zip(reference_B, now_B, strict=True):
        expected, actual, seen = expected + in_reference, actual + in_run, seen + in_reference
        # The last group of all is closed below, with whatever lies behind the reference's largest.
        if expected and seen < total and seen * groups >= (len(joined) + 1) * total:
            joined.append((expected, actual))
            expected = actual = 0
    return [*joined, (expected, actual)]
