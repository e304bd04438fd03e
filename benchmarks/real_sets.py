r"""Writes manifests of labeled real footage, from a folder of videos that has a table ``manifest.csv``.

Usage: python benchmarks/real_sets.py VIDEOS OUT

The table has the columns path, label and group; the sets are the folders below ``actions``. What is written into OUT:
``surv_fight.csv``, ``skyrim.csv``, ``karsl.csv`` (data sets: uri, label, group and, for karsl, split) and for each of
them ``backgrounds-SET.csv`` (the other sets). Their URIs are absolute, so every command that reads them needs
``--set 'corpus.roots=["VIDEOS"]'``:

    cdlabel compose OUT/skyrim.csv --backgrounds OUT/backgrounds-skyrim.csv --out composites --distractors 0.8 \
        --set 'corpus.roots=["VIDEOS"]'

What is known of the recordings, and what is not:

- surv_fight: the table names the recording of most clips, and most recordings hold both labels; a clip whose recording
  it does not name is a group of its own. Splits by group are as sound as that table.
- skyrim: neither names nor hashes tell the recording; the start times of most clips say that they were cut every five
  seconds from few recordings of each class. Clips of a class that share a scene (some of their frames nearly alike) are
  made one group here. Scenes of one recording that do not look alike stay apart, so that a split by these groups still
  leaks what a recording has in common (player, mods, colours, overlays), and a random split leaks far more. Some classes
  have two groups only: the largest group of every class has the role ``train``, the next ``test``, then ``conf`` and
  ``cal``, so that every class is learned and tested, but not every class is calibrated.
- karsl: one signer, each sign once to learn and once to test, recorded in the same sessions seconds or minutes apart.
  Every clip is a group. The official clip to learn from has the role ``train``. Of the official test clips, drawn by a
  fixed seed, half have the role ``test`` and the others are shared by ``conf`` and ``cal``: a trainer that judges its
  teacher on videos it never saw has no other clips of these signs. Accuracy on ``test`` is that of a known signer.
"""

from __future__ import annotations

import csv
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdmodel.compose import read_frames
from cdmodel.decode_limits import DecodeLimits

COLUMNS = ("uri", "label", "group", "split")
ROLES = ("train", "test", "conf", "cal")
BACKGROUNDS = {
    "skyrim": ("surv_fight", "karsl", "known"),
    "surv_fight": ("skyrim", "karsl"),
    "karsl": ("skyrim", "surv_fight"),
}
LOOK_HEIGHT, LOOK_WIDTH = 18, 32
SAME_SCENE_LEVELS = 22.0
"""Two frames are nearly alike if their tiny pictures differ by less than this on average, in grey levels of 255."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One labeled video."""

    path: Path
    label: str
    group: str
    split: str = ""


def main() -> None:
    videos, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    sets = read_sets(videos)
    sets["skyrim"] = give_roles_by_size(group_by_scene(sets["skyrim"]))
    sets["karsl"] = give_one_shot_roles(sets["karsl"], np.random.default_rng(0))
    for name, others in BACKGROUNDS.items():
        backgrounds = [replace(row, split="") for other in others for row in sets[other]]
        write_manifest(out / f"{name}.csv", sets[name])
        write_manifest(out / f"backgrounds-{name}.csv", backgrounds)
        labels, groups = ({getattr(row, fact) for row in sets[name]} for fact in ("label", "group"))
        print(
            f"{name}: {len(sets[name])} videos, {len(labels)} labels, {len(groups)} groups, {len(backgrounds)} others"
        )


def read_sets(videos: Path) -> dict[str, list[Row]]:
    sets: dict[str, list[Row]] = {}
    with (videos / "manifest.csv").open(newline="", encoding="utf-8") as file:
        for cells in csv.DictReader(file):
            place = Path(cells["path"])
            if place.parts[0] == "actions" and cells["label"]:
                row = Row(path=videos / place, label=cells["label"], group=cells["group"] or str(place))
                sets.setdefault(place.parts[1], []).append(row)
    return sets


def group_by_scene(rows: Sequence[Row]) -> list[Row]:
    """Give clips of one label whose frames are nearly alike, or that are linked by such clips, one group."""
    looks = [look_at(row.path) for row in rows]
    linked = list(range(len(rows)))
    for one, other in combinations(range(len(rows)), 2):
        if rows[one].label == rows[other].label and nearest_levels(looks[one], looks[other]) < SAME_SCENE_LEVELS:
            keep, drop = sorted((linked[one], linked[other]))
            linked = [keep if link == drop else link for link in linked]
    return [replace(row, group=f"scene-of-{rows[link].path.stem}") for row, link in zip(rows, linked, strict=True)]


def look_at(path: Path) -> NDArray[np.float32]:
    with path.open("rb") as file:
        frames = read_frames(
            file, str(path), height=LOOK_HEIGHT, width=LOOK_WIDTH, frames_per_second=1, limits=DecodeLimits()
        )
        return np.stack([frame.astype(np.float32) for frame in frames])


def nearest_levels(one_THWC: NDArray[np.float32], other_THWC: NDArray[np.float32]) -> float:
    """Return the mean difference of the two most alike frames."""
    return float(np.abs(one_THWC[:, None] - other_THWC[None]).mean(axis=(2, 3, 4)).min())


def give_roles_by_size(rows: Sequence[Row]) -> list[Row]:
    """Deal the groups of each label out to the roles, the largest first."""
    roles: dict[str, str] = {}
    for label in sorted({row.label for row in rows}):
        sizes = Counter(row.group for row in rows if row.label == label)
        largest_first = sorted(sizes, key=lambda group: (-sizes[group], group))
        roles |= zip(largest_first, cycle(ROLES), strict=False)
    return [replace(row, split=roles[row.group]) for row in rows]


def give_one_shot_roles(rows: Iterable[Row], random: np.random.Generator) -> list[Row]:
    learning = [replace(row, split="train") for row in rows if "train" in row.path.parts]
    testing = [row for row in rows if "test" in row.path.parts]
    order = random.permutation(len(testing)).tolist()
    half, quarter = len(testing) // 2, len(testing) // 4
    roles = ["test"] * half + ["conf"] * (len(testing) - half - quarter) + ["cal"] * quarter
    return learning + [replace(testing[place], split=role) for place, role in zip(order, roles, strict=True)]


def write_manifest(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(cells(rows))


def cells(rows: Iterable[Row]) -> Iterator[tuple[str, str, str, str]]:
    for row in rows:
        yield str(row.path), row.label, row.group, row.split


if __name__ == "__main__":
    main()
