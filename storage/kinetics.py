"""Reads the annotation of Kinetics (Kay et al. 2017 and later editions): one csv for each part, or all in one.

    label,youtube_id,time_start,time_end,split
    testifying,---QUuC4vJs,84,94,validate

``train`` is the training part. Test is ``test`` where its rows have labels, and ``validate`` joins the training part;
most editions publish no labels of ``test``, and then test is ``validate``. The group is the YouTube video.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from cdmodel.errors import LabelingError, SourceError
from storage.annotation import AnnotatedVideo, Annotation, read_text
from storage.filesystem import open_store
from storage.uri import base_name, join_uri

PART_NAMES = ("train.csv", "validate.csv", "val.csv", "test.csv")
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm")
Part = Literal["train", "validate", "test"]
_PARTS: Mapping[str, Part] = {"train": "train", "validate": "validate", "val": "validate", "test": "test"}
_COLUMNS = ("youtube_id", "time_start", "time_end", "split")


@dataclass(frozen=True, slots=True, kw_only=True)
class KineticsRow:
    """A row of the annotation that has a label."""

    place: str
    label: str
    youtube_id: str
    start_seconds: int
    end_seconds: int
    part: Part


def read_kinetics(source: str) -> Annotation:
    """Read one csv, or those of a folder, given by its absolute name.

    Raises:
        SourceError: a file cannot be read or none is there, a column is missing, or a row is not of the format.
    """
    files = [source] if source.lower().endswith(".csv") else _parts_in(source)
    rows = [row for file in files for row in parse_rows(base_name(file), read_text(file))]
    return Annotation(source=source, videos=to_videos(rows))


def parse_rows(name: str, text: str) -> tuple[KineticsRow, ...]:
    """Return the rows of the file ``name`` that have a label.

    Raises:
        SourceError: a column is missing, or a row is not of the format.
    """
    return tuple(_rows(name, text))


def to_videos(rows: Sequence[KineticsRow]) -> tuple[AnnotatedVideo, ...]:
    """Return the videos of all rows, test as the module says."""
    parts = {row.part for row in rows}
    test_part: Part = "test" if "test" in parts else "validate"
    return tuple(
        AnnotatedVideo(
            place=row.place,
            folders=_folders(row.label, row.part),
            file=f"{row.youtube_id}_{row.start_seconds:06d}_{row.end_seconds:06d}",
            suffixes=VIDEO_SUFFIXES,
            labels=(row.label,),
            group=row.youtube_id,
            split="test" if row.part == test_part else None,
        )
        for row in rows
    )


def _parts_in(folder: str) -> list[str]:
    try:
        found = open_store(folder).children()
    except LabelingError as error:
        raise SourceError(error.subject, f"the annotation cannot be read: {error.reason}") from error
    files = [join_uri(folder, name) for name in PART_NAMES if name in found]
    if not files:
        raise SourceError(folder, f"holds no annotation of Kinetics; expected {', '.join(PART_NAMES)}, or name one csv")
    return files


def _rows(name: str, text: str) -> Iterator[KineticsRow]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    lacking = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if lacking:
        raise SourceError(name, f"has no column {', '.join(lacking)}; expected label,{','.join(_COLUMNS)}")
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise SourceError(f"{name}, line {reader.line_num}", f"is no csv: {error}") from error
        if cells is None:
            return
        row = _to_row(f"{name}, line {reader.line_num}", cells)
        if row is not None:
            yield row


def _to_row(place: str, cells: Mapping[str, str | None]) -> KineticsRow | None:
    youtube_id, start, end, split = (cells[column] or "" for column in _COLUMNS)
    if split not in _PARTS:
        raise SourceError(place, f"split {split!r} is unknown; expected {', '.join(_PARTS)}")
    label = cells.get("label")
    if not label:
        if split == "test":
            return None
        raise SourceError(place, "has no label")
    try:
        start_seconds, end_seconds = round(float(start)), round(float(end))
    except (ValueError, OverflowError) as error:
        raise SourceError(place, f"time_start and time_end must be seconds, got {start!r} and {end!r}") from error
    if not youtube_id:
        raise SourceError(place, "has no youtube_id")
    return KineticsRow(
        place=place,
        label=label,
        youtube_id=youtube_id,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        part=_PARTS[split],
    )


@cache
def _folders(label: str, part: Part) -> tuple[str, ...]:
    """Return where downloaders put clips: by class, flat, or by part. Shared by the rows, which are many."""
    by_class = tuple(dict.fromkeys((label, label.replace(" ", "_"))))
    parts = ("val", "validate") if part == "validate" else (part,)
    return (*by_class, "", *(f"{name}/{folder}" for name in parts for folder in by_class), *parts)
