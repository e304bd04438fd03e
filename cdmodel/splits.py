"""Giving the videos of a data set their roles: each group wholly to one role, by a seed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from cdmodel.errors import SourceError
from cdmodel.types import LabeledVideo, Split

SPLIT_SHARES: tuple[tuple[Split, float], ...] = (
    ("train", 0.45),
    ("conf", 0.15),
    ("cal", 0.12),
    ("test", 0.15),
    ("risk", 0.13),
)
"""Share of the groups in each role. Where groups are few the first roles are served first: without ``risk`` nothing can
be certified, without the others nothing can be trained or measured."""

MUST_SHOW_ALL: tuple[Split, ...] = ("train",)
"""Roles that must show every class: one that is never shown cannot be learned; elsewhere it is only not measured."""


def assign_roles(videos: Sequence[LabeledVideo], seed: int) -> tuple[LabeledVideo, ...]:
    """Return the videos, in their order, each with a role; roles that the data set gives stay as they are.

    Groups without a role are divided among the roles that no video has yet, in proportion to ``SPLIT_SHARES``. A group
    of which some videos have a role takes it whole. Where every role is taken, the rest trains.
    """
    given = {video.group: video.split for video in videos if video.split is not None}
    taken = set(given.values())
    free = [role for role, _ in SPLIT_SHARES if role not in taken] or ["train"]
    drawn = split_groups((video.group for video in videos if video.group not in given), seed, free)
    return tuple(
        video if video.split is not None else replace(video, split=given.get(video.group) or drawn[video.group])
        for video in videos
    )


def split_groups(groups: Iterable[str], seed: int, roles: Collection[str] | None = None) -> dict[str, Split]:
    """Return the role of each group; the same groups and seed give the same roles, whatever their order.

    Each of ``roles`` (None: all) gets its share rounded, and at least one group while there are enough groups; the
    first of them, in the order of ``SPLIT_SHARES``, gets the rest.
    """
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    shares = [(role, share) for role, share in SPLIT_SHARES if roles is None or role in roles]
    total = sum(share for _, share in shares)
    rest: list[Split] = []
    for role, share in shares[1:]:
        rest += [role] * max(round(share / total * len(names)), 1)
    first = [shares[0][0]] * max(len(names) - len(rest), 1)
    return {names[place]: role for place, role in zip(order.tolist(), first + rest, strict=False)}


def check_classes(
    dataset: str, videos: Sequence[LabeledVideo], complete: Sequence[Split] = MUST_SHOW_ALL
) -> tuple[str, ...]:
    """Return the labels of the data set, ascending; every role of ``complete`` must show all of them.

    Raises:
        SourceError: there are fewer than two labels, or a role of ``complete`` lacks one.
    """
    labels = tuple(sorted({label for video in videos for label in video.labels}))
    if len(labels) < 2:
        raise SourceError(dataset, f"training needs at least two classes, found {_listed(labels) or 'none'}")
    for role in complete:
        absent = absent_classes(videos, role)
        if absent:
            raise SourceError(dataset, f"no video in {role} shows {_listed(absent)}")
    return labels


def absent_classes(videos: Sequence[LabeledVideo], role: Split) -> tuple[str, ...]:
    """Return the labels, ascending, of the data set that no video of a role shows."""
    everywhere = {label for video in videos for label in video.labels}
    return tuple(sorted(everywhere - {label for video in videos if video.split == role for label in video.labels}))


_LISTED_AT_MOST = 10


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED_AT_MOST
    return ", ".join(names[:_LISTED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
