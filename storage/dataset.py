"""Reads a labeled data set: a manifest with ``uri`` and ``label``, or a folder with one sub-folder per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from cdmodel.errors import LabelingError, SourceError
from cdmodel.types import LabeledVideo, Split
from storage.corpus import CorpusRules, list_videos
from storage.corpus_manifest import look_up_videos
from storage.manifest import is_manifest, read_manifest_rows
from storage.uri import absolute_uri, local_path, storable_uri, video_id_of

SPLITS: tuple[Split, ...] = get_args(Split)


def read_dataset(source: str, rules: CorpusRules | None = None) -> tuple[LabeledVideo, ...]:
    """Return the labeled videos of a manifest (in its order) or of a folder (by ``video_id``).

    A video whose group nobody told is a group of its own.

    Raises:
        SourceError: the data set cannot be read or is empty, a label is missing, a split is unknown, or a group lies on
            both sides of a split.
    """
    try:
        uri = absolute_uri(source)
        videos = _from_manifest(uri, rules or CorpusRules()) if is_manifest(uri) else _from_folders(uri)
    except SourceError:
        raise
    except LabelingError as error:
        raise SourceError(error.subject, error.reason) from error
    _refuse_divided_groups(uri, videos)
    return videos


def _from_manifest(manifest: str, rules: CorpusRules) -> tuple[LabeledVideo, ...]:
    rows = read_manifest_rows(manifest, ("label", "group", "split"), rules.roots)
    if "label" not in rows.columns:
        raise SourceError(manifest, "has no column label; a data set needs the columns uri and label")
    labels = _required(manifest, rows.columns["label"], "label")
    splits = [_to_split(manifest, row, cell) for row, cell in enumerate(rows.cells("split"), start=1)]
    if len({split is None for split in splits}) > 1:
        raise SourceError(manifest, "column split is filled in some rows only; fill it in all, or leave it out")
    uris = [storable_uri(uri) for uri in rows.uris]
    videos = look_up_videos(uris, [video_id_of(uri) for uri in uris])
    return tuple(
        LabeledVideo(video=video, labels=(label,), group=group or video.uri, split=split)
        for video, label, group, split in zip(videos, labels, rows.cells("group"), splits, strict=True)
    )


def _from_folders(folder: str) -> tuple[LabeledVideo, ...]:
    labeled: list[LabeledVideo] = []
    for video in list_videos(folder, CorpusRules()).videos:
        label, separator, _ = local_path(video.uri)[len(folder) :].lstrip("/").partition("/")
        if not separator:
            raise SourceError(
                folder, f"{video.uri} lies in no class folder; use one folder per class, or a manifest with uri,label"
            )
        labeled.append(LabeledVideo(video=video, labels=(label,), group=video.uri, split=None))
    return tuple(labeled)


def _required(manifest: str, cells: Sequence[str | None], column: str) -> list[str]:
    filled = [cell for cell in cells if cell is not None]
    if len(filled) < len(cells):
        raise SourceError(manifest, f"row {cells.index(None) + 1} has no {column}")
    return filled


def _to_split(manifest: str, row: int, cell: str | None) -> Split | None:
    if cell is None:
        return None
    for split in SPLITS:
        if cell == split:
            return split
    raise SourceError(manifest, f"row {row}: split {cell!r} is unknown; use {', '.join(SPLITS)}")


def _refuse_divided_groups(source: str, videos: Sequence[LabeledVideo]) -> None:
    sides: dict[str, Split | None] = {}
    for labeled in videos:
        side = sides.setdefault(labeled.group, labeled.split)
        if side != labeled.split:
            raise SourceError(
                source, f"group {labeled.group!r} lies both in {side} and in {labeled.split}; a group has one split"
            )
