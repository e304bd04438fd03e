"""Tiny videos of coloured squares: in each second one colour, in a video one label or several. Same seed, same bytes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from cdmodel.encode import encode_mp4

FRAMES_PER_SECOND = 8
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
ROLES = ("train", "train", "conf", "cal", "test", "test", "risk")
"""Of seven groups, one after another."""


@cache
def encode_colours(labels: tuple[str, ...], *, seed: int) -> bytes:
    """Return a video of a second for each label, in random order."""
    random = np.random.default_rng(seed)
    frames = []
    for label in random.permutation(list(labels)).tolist():
        for _ in range(FRAMES_PER_SECOND):
            pixels_HWC = random.integers(90, 130, size=(32, 32, 3)).astype(np.uint8)
            top, left = random.integers(0, 12, size=2)
            pixels_HWC[top : top + 18, left : left + 18] = COLOURS[label]
            frames.append(pixels_HWC)
    return encode_mp4(frames, FRAMES_PER_SECOND)


def write_coloured_set(
    folder: Path, shown: Sequence[Sequence[str]], *, groups: int = 7, roles: Sequence[str | None] = ROLES
) -> Path:
    """Write a video for each group and each entry of ``shown``, the labels of one video, and return the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for group in range(groups):
        for place, labels in enumerate(shown):
            name = f"{group:02d}-{place}.mp4"
            (folder / name).write_bytes(encode_colours(tuple(labels), seed=100 * group + place))
            role = roles[group % len(roles)]
            row = {"uri": name, "label": "|".join(labels), "group": f"g{group}"}
            rows.append(row if role is None else {**row, "split": role})
    return write_manifest_rows(folder, rows)


def write_manifest_rows(folder: Path, rows: Sequence[dict[str, str]], name: str = "labels.csv") -> Path:
    """Write the manifest of a data set and return its place."""
    with (folder / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder / name
