"""How a composite of one labeled passage and background passages is laid out, and who may supply the background.

Pure arithmetic and chance. A composite's lengths are counted in clips.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from cdmodel.types import Split

LONGEST_BACKGROUND_CLIPS = 4
"""No single piece of background is longer, so that a composite shows several sources."""


def class_clips_range(shortest_clips: float, longest_clips: float, distractors: float) -> tuple[int, int]:
    """Return the fewest and most clips of the class for which a composite of this share has a length in between.

    The most may be 0: then not even one clip of the class leaves room for its share of background.
    """
    share = 1 - distractors
    most = math.floor(longest_clips * share + 1e-9)
    fewest = math.ceil(shortest_clips * share - 1e-9)
    return min(max(fewest, 1), most), most


def draw_background_clips(class_clips: int, distractors: float, random: np.random.Generator) -> int:
    """Return how many clips of background go with ``class_clips`` so that they are this share of the whole.

    What is no whole number is rounded up or down by chance, so that the share holds over many composites.
    """
    exact = class_clips * distractors / (1 - distractors)
    whole = math.floor(exact + 1e-9)
    return whole + int(random.random() < exact - whole - 1e-9)


def draw_piece_clips(clips_left: int, random: np.random.Generator) -> int:
    """Return the length of the next piece of background."""
    return int(random.integers(1, min(clips_left, LONGEST_BACKGROUND_CLIPS) + 1))


def divide_groups(
    groups: Iterable[str], demand: Mapping[Split, int], settled: Mapping[str, Split], seed: int
) -> dict[str, Split]:
    """Give every group of backgrounds wholly to one role, in proportion to the ``demand`` of the roles.

    A group that is ``settled`` (videos of the same recording have a role already) keeps that role. The same arguments
    give the same roles, whatever the order of the groups. Each role gets at least one group while there are enough.
    """
    names = sorted(set(groups))
    roles = {name: settled[name] for name in names if name in settled}
    given = {role: sum(other == role for other in roles.values()) for role in sorted(demand)}
    free = [name for name in names if name not in roles]
    for place in np.random.default_rng((seed, 1)).permutation(len(free)).tolist():
        # The role with the most demand for each group that it would then have; one without any comes first.
        role = max(given, key=lambda role: (given[role] == 0, demand[role] / (given[role] + 1)))
        given[role] += 1
        roles[free[place]] = role
    return roles
