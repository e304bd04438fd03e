"""Which videos to label next, densely or by hand: what an answer is worth, among videos that are not all alike.

Greedy, by maximal marginal relevance (Carbonell and Goldstein 1998): the next video is the one of the most worth, less what
those chosen before would tell already. Pure. V videos, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

REDUNDANCY = 0.7
"""Share of its worth that a video loses where one just like it was chosen. 0 is a plain ranking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A labeled video that nobody has looked at whole."""

    video_id: str
    group: str
    worth: float
    """Of an answer, per what it costs; above 0."""
    probabilities: dict[str, float]
    """By label, as far as known."""


def choose_next(contenders: Sequence[Contender], count: int) -> list[int]:
    """Return the positions of ``count`` contenders (or all), the best first; of equal ones that of the lower id.

    Two videos are as alike as their label probabilities overlap: sum over labels of the smaller one; of one group, wholly.
    """
    order = sorted(range(len(contenders)), key=lambda place: contenders[place].video_id)
    worth_V = np.array([contenders[place].worth for place in order])
    overlap_VK = _matrix([contenders[place].probabilities for place in order])
    groups = np.array([contenders[place].group for place in order])
    likeness_V = np.zeros(len(order))
    is_open_V = np.ones(len(order), dtype=np.bool_)
    chosen: list[int] = []
    for _ in range(min(count, len(order))):
        left_V = np.where(is_open_V, worth_V * (1.0 - REDUNDANCY * likeness_V), -np.inf)
        best = int(left_V.argmax())
        chosen.append(order[best])
        is_open_V[best] = False
        alike_V = np.minimum(overlap_VK, overlap_VK[best]).sum(axis=1)
        likeness_V = np.maximum(likeness_V, np.where(groups == groups[best], 1.0, np.minimum(alike_V, 1.0)))
    return chosen


def _matrix(probabilities: Sequence[dict[str, float]]) -> NDArray[np.float64]:
    labels = sorted({label for known in probabilities for label in known})
    number_of = {label: number for number, label in enumerate(labels)}
    overlap_VK = np.zeros((len(probabilities), len(labels)))
    for row, known in enumerate(probabilities):
        for label, probability in known.items():
            overlap_VK[row, number_of[label]] = probability
    return overlap_VK
