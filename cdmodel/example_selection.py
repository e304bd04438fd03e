"""Which labeled videos become examples, in which role, and how much each counts. Pure: rows in, examples out.

Escalated videos are the hard ones, so whoever learns from them alone learns a harder world than there is. An audited video was
drawn at random, and stands for 1 / share others unless it was escalated too and would have come in anyway (the estimator of
Horvitz and Thompson 1952, its weights cut off). What measures and calibrates (``cal``, ``risk``, ``test``) takes audited
videos alone, which are a fair sample.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cdmodel.example_settings import CollectSettings
from cdmodel.splits import SPLIT_SHARES
from cdmodel.types import Split

Source = Literal["audit", "escalated", "correction", "base"]
LEARNED: tuple[Split, ...] = ("train", "conf")
CONFIDENCE_EDGES = (0.5, 0.7, 0.9)
"""Where the cells of confidence part."""
SALT = "cdlabel-role-1"
"""Decides for ever which group has which role; another one would let videos of the gate be learned from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledRow:
    """A row of the table of predictions that might become an example."""

    video_id: str
    uri: str
    video_version: str
    size_bytes: int | None
    group: str
    """Source recording; the video itself where nobody said."""
    label: str
    """What the cascade said."""
    confidence: float
    escalated: bool
    teacher_label: str | None
    """The dense teacher's answer; None unless the video was audited."""
    audit_share: float
    """Of the run that wrote the row."""
    run_id: str
    model_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Correction:
    """What a person says of a video."""

    uri: str
    label: str
    by: str | None
    at: str | None
    note: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One video to learn from or to measure on, and where that comes from."""

    uri: str
    label: str
    group: str
    split: Split
    weight: float
    """How often it counts against others of its role."""
    source: Source
    video_id: str | None = None
    video_version: str | None = None
    run_id: str | None = None
    model_version: str | None = None
    confidence: float | None = None
    by: str | None = None
    at: str | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """How many rows became no example, by reason."""

    role: int = 0
    """Not audited, in a role that measures."""
    unsure: int = 0
    """Escalated, below the least confidence."""
    unknown_label: int = 0
    """Their label is none of the bundle's in production."""
    duplicate: int = 0
    """The same bytes, as far as size and version tell, as another one's."""
    too_many: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What is learned from and measured on."""

    examples: tuple[Example, ...]
    """Ascending by uri."""
    left_out: LeftOut


def role_of(group: str) -> Split:
    """Return the role of a group, now and in every cycle to come: by a hash of its name, in the shares of training."""
    digest = hashlib.sha256(f"{SALT}\0{group}".encode()).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for role, share in SPLIT_SHARES:
        if place < share:
            return role
        place -= share
    return SPLIT_SHARES[0][0]


def select_examples(
    rows: Iterable[LabeledRow],
    corrections: Mapping[str, Correction],
    labels: Sequence[str],
    settings: CollectSettings,
) -> Selection:
    """Turn rows into examples, each with role and weight. The same rows in any order give the same examples.

    ``corrections`` go by uri and beat what models said; ``labels`` are those that the next bundle may answer with.
    """
    left: Counter[str] = Counter()
    known = frozenset(labels)
    drawn: list[Example] = []
    seen: set[tuple[int | None, str]] = set()
    # Of two names for the same bytes the one that a person has looked at stays.
    for row in sorted(rows, key=lambda row: (row.uri not in corrections, row.uri)):
        found = _to_example(row, corrections.get(row.uri), known, settings)
        if isinstance(found, str):
            left[found] += 1
        elif row.size_bytes is not None and (row.size_bytes, row.video_version) in seen:
            left["duplicate"] += 1
        else:
            seen.add((row.size_bytes, row.video_version))
            drawn.append(found)
    drawn.sort(key=lambda example: example.uri)
    kept = _thin(drawn, settings)
    left["too_many"] = len(drawn) - len(kept)
    return Selection(examples=tuple(_balance(kept, settings.class_balance)), left_out=LeftOut(**left))


def _to_example(
    row: LabeledRow, correction: Correction | None, known: frozenset[str], settings: CollectSettings
) -> Example | str:
    """Return the example, or why there is none."""
    role = role_of(row.group)
    audited = row.teacher_label is not None
    if not audited and role not in LEARNED:
        return "role"
    if correction is not None:
        label, source = correction.label, "correction"
    elif row.teacher_label is not None:
        label, source = row.teacher_label, "audit"
    elif not row.escalated:
        return "unknown_label"  # audited, by a bundle that is gone and whose labels nobody wrote down
    else:
        label, source = row.label, "escalated"
        if not settings.escalated or row.confidence < settings.min_confidence:
            return "unsure"
    if label not in known:
        return "unknown_label"
    return Example(
        uri=row.uri,
        label=label,
        group=row.group,
        split=role,
        weight=_weight(row, settings) if role in LEARNED else 1.0,
        source=source,  # type: ignore[arg-type] # one of three literals
        video_id=row.video_id,
        video_version=row.video_version,
        run_id=row.run_id,
        model_version=row.model_version,
        confidence=row.confidence,
        by=correction.by if correction else None,
        at=correction.at if correction else None,
        note=correction.note if correction else None,
    )


def _weight(row: LabeledRow, settings: CollectSettings) -> float:
    """Return 1 / P(the video became an example), cut off."""
    comes_in_anyway = row.escalated and settings.escalated and row.confidence >= settings.min_confidence
    if comes_in_anyway or row.teacher_label is None or row.audit_share <= 0:
        return 1.0
    return min(1.0 / row.audit_share, settings.max_weight)


def _thin(examples: Sequence[Example], settings: CollectSettings) -> list[Example]:
    """Keep at most ``max_videos``, as many of each cell of role, class and confidence; who stays weighs more.

    Corrections always stay.
    """
    if len(examples) <= settings.max_videos:
        return list(examples)
    cells: dict[tuple[str, str, int], list[Example]] = defaultdict(list)
    kept = [example for example in examples if example.source == "correction"]
    for example in examples:
        if example.source != "correction":
            cells[_cell(example)].append(example)
    room = _room([len(cell) for cell in cells.values()], max(settings.max_videos - len(kept), 0))
    for cell in cells.values():
        stay = sorted(cell, key=lambda example: _draw(example, settings.seed))[:room]
        factor = len(cell) / len(stay) if stay else 1.0
        kept += [replace(example, weight=min(example.weight * factor, settings.max_weight)) for example in stay]
    return sorted(kept, key=lambda example: example.uri)


def _cell(example: Example) -> tuple[str, str, int]:
    confidence = example.confidence or 0.0
    return example.split, example.label, sum(confidence >= edge for edge in CONFIDENCE_EDGES)


def _room(sizes: Sequence[int], places: int) -> int:
    """Return the most that every cell may keep so that all together are at most ``places``."""
    low, high = 0, max(sizes, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if sum(min(size, middle) for size in sizes) <= places else (low, middle - 1)
    return low


def _draw(example: Example, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{example.uri}".encode()).digest()


def _balance(examples: Sequence[Example], strength: float) -> list[Example]:
    """Multiply the weights of what is learned by (mean mass of a class / mass of this one) to the power of ``strength``."""
    mass: Counter[str] = Counter()
    for example in examples:
        if example.split in LEARNED:
            mass[example.label] += example.weight  # type: ignore[assignment] # a Counter also adds floats
    if not mass:
        return list(examples)
    mean = sum(mass.values()) / len(mass)
    return [
        replace(example, weight=example.weight * (mean / mass[example.label]) ** strength)
        if example.split in LEARNED
        else example
        for example in examples
    ]
