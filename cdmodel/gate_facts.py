"""What the gate looks at and what it says: answers of both bundles to the same videos in, checks and a decision out.

V videos of one set, in one order for everything. NumPy only; nothing here computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdmodel.labels import LabelKind
from cdmodel.scores import BoolArray

SetName = Literal["benchmark", "audits"]
Verdict = Literal["promote", "keep", "refuse"]
"""``keep``: the candidate was judged, and production stays. ``refuse``: it cannot be judged."""
Route = Literal["cheaper", "better", "worth", "first"]
"""Why a candidate is promoted: for its cost, for its accuracy, for an accuracy that is worth its cost, or since nothing is in
production."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SideAnswers:
    """What one bundle answered and spent at its default setting, V videos."""

    right_V: BoolArray
    """Whether the answer is a true label, by name; a label that the bundle does not know it never gets right."""
    confidence_V: NDArray[np.float64]
    """Calibrated P(answer right)."""
    flops_V: NDArray[np.float64]
    """Student and teacher."""
    student_right_V: BoolArray
    """The same of its student alone."""
    dense_right_V: BoolArray
    """The same of its teacher on every clip, plain mean."""
    dense_confidence_V: NDArray[np.float64]
    dense_flops_V: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAnswers:
    """One set, answered by both sides. Videos that one of them cannot read are left out of it."""

    name: SetName
    groups: tuple[str, ...]
    """V source recordings."""
    labels: tuple[tuple[str, ...], ...]
    """V true labels, by name."""
    candidate: SideAnswers
    production: SideAnswers | None
    """None where nothing is in production."""
    videos_unreadable: int
    """That one of the sides could not read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleFacts:
    """What of a bundle matters before any video is looked at."""

    model_version: str
    labels: tuple[str, ...]
    label_kind: LabelKind
    untaught: tuple[str, ...] = ()
    """Labels of which its student saw no video in training, as far as the bundle tells."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateCheck:
    """One question that was asked, and its answer."""

    name: str
    on: str
    """Which set: benchmark, audits, or both."""
    value: float | None
    """None where it could not be computed."""
    limit: float | None
    passed: bool
    decides: bool
    """Whether it stops a candidate by itself; the others are the two ways of being better, and what is only told."""
    words: str
    """One sentence with the figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSummary:
    """Of how many videos a decision was made."""

    name: SetName
    videos: int
    groups: int
    videos_unreadable: int
    videos_dropped: int
    """Left out since they show only labels that the candidate may lack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateDecision:
    """Whether the candidate takes production's place, and everything that was asked on the way."""

    verdict: Verdict
    route: Route | None
    """None unless it is promoted."""
    reason: str
    """One sentence, for whoever asks why."""
    candidate: str
    """Model version."""
    production: str | None
    checks: tuple[GateCheck, ...] = ()
    sets: tuple[SetSummary, ...] = ()
    new_labels: tuple[str, ...] = ()
    """That the candidate knows and production does not."""
    dropped_labels: tuple[str, ...] = ()
    """That production knows and the candidate does not."""

    @property
    def promoted(self) -> bool:
        """Whether the candidate takes production's place."""
        return self.verdict == "promote"
