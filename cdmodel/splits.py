"""Giving the groups of a data set their roles: each group wholly to one role, by a seed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from cdmodel.types import Split

SPLIT_SHARES: tuple[tuple[Split, float], ...] = (("train", 0.5), ("conf", 0.2), ("cal", 0.15), ("test", 0.15))
"""Share of the groups in each role. ``risk`` gets none: only who certifies a threshold needs it."""


def split_groups(groups: Iterable[str], seed: int) -> dict[str, Split]:
    """Return the role of each group; the same groups and seed give the same roles, whatever their order.

    Each role gets its share rounded, and at least one group while there are enough groups; ``train`` gets the rest.
    """
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    roles: list[Split] = []
    for role, share in SPLIT_SHARES[1:]:
        roles += [role] * max(round(share * len(names)), 1)
    training: list[Split] = ["train"] * max(len(names) - len(roles), 1)
    return {names[place]: role for place, role in zip(order.tolist(), training + roles, strict=False)}
