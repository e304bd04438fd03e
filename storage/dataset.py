"""Reads a labeled data set: a manifest, a folder with one sub-folder per class, or one annotated as published."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never, get_args

from cdmodel.errors import LabelingError, SourceError
from cdmodel.labels import LabelKind
from cdmodel.types import Dataset, LabeledVideo, Split
from storage.corpus import CorpusRules, list_videos
from storage.corpus_manifest import look_up_videos
from storage.manifest import ManifestRows, is_manifest, read_manifest_rows
from storage.published_datasets import PublishedSource, published_source, read_published
from storage.uri import absolute_uri, name_below, storable_uri, video_id_of

SPLITS: tuple[Split, ...] = get_args(Split)
LABEL_SEPARATOR = "|"
"""Between the labels of a multi-label row of a CSV manifest."""


def read_dataset(
    source: str, rules: CorpusRules | None = None, *, videos: str | None = None, label_kind: LabelKind = "single"
) -> Dataset:
    """Return the labeled videos of a manifest or an annotation (in its order) or of a folder (by ``video_id``).

    A video whose group nobody told is a group of its own.

    Args:
        source: a manifest, a folder with one sub-folder per class, or ``KIND:ANNOTATIONS`` (``published_datasets``).
        rules: where else than in its own folder a manifest may name videos.
        videos: the folder or URL of the videos of a published data set; nothing else takes it.
        label_kind: with ``multi`` a video may have several labels, as a list (Parquet), separated by ``|`` (CSV), or
            as the published annotation says.

    Raises:
        SourceError: the data set cannot be read or is empty, a label is missing or one too many, a split is unknown, or
            a group lies on both sides of a split.
    """
    try:
        published = published_source(source)
        dataset = (
            _from_place(source, rules, videos, label_kind) if published is None else _as_published(published, videos)
        )
    except SourceError:
        raise
    except LabelingError as error:
        raise SourceError(error.subject, error.reason) from error
    _refuse_several_labels(source, dataset.videos, label_kind)
    _refuse_divided_groups(source, dataset.videos)
    return dataset


def _as_published(published: PublishedSource, videos: str | None) -> Dataset:
    if videos is None:
        raise SourceError(
            published.kind, "the annotation does not say where the videos lie; name it with --videos FOLDER"
        )
    return read_published(published, videos)


def _from_place(source: str, rules: CorpusRules | None, videos: str | None, label_kind: LabelKind) -> Dataset:
    uri = absolute_uri(source)
    if videos is not None:
        raise SourceError(uri, "says itself where its videos lie; --videos is for published annotations (KIND:...)")
    if is_manifest(uri):
        return Dataset(videos=_from_manifest(uri, rules or CorpusRules(), label_kind))
    if label_kind == "multi":
        raise SourceError(uri, "a folder per class gives each video one label; several labels need a manifest")
    return Dataset(videos=_from_folders(uri))


def _from_manifest(manifest: str, rules: CorpusRules, label_kind: LabelKind) -> tuple[LabeledVideo, ...]:
    rows = read_manifest_rows(manifest, ("label", "group", "split", "weight"), rules.roots)
    labels = _labels(manifest, rows, label_kind)
    splits = [_to_split(manifest, row, cell) for row, cell in enumerate(rows.cells("split"), start=1)]
    if len({split is None for split in splits}) > 1:
        raise SourceError(manifest, "column split is filled in some rows only; fill it in all, or leave it out")
    weights = [_to_weight(manifest, row, cell) for row, cell in enumerate(rows.cells("weight"), start=1)]
    uris = [storable_uri(uri) for uri in rows.uris]
    videos = look_up_videos(uris, [video_id_of(uri) for uri in uris])
    return tuple(
        LabeledVideo(video=video, labels=names, group=group or video.uri, split=split, weight=weight)
        for video, names, group, split, weight in zip(videos, labels, rows.cells("group"), splits, weights, strict=True)
    )


def _from_folders(folder: str) -> tuple[LabeledVideo, ...]:
    labeled: list[LabeledVideo] = []
    for video in list_videos(folder, CorpusRules()).videos:
        label, separator, _ = name_below(video.uri, folder).partition("/")
        if not separator:
            raise SourceError(
                folder, f"{video.uri} lies in no class folder; use one folder per class, or a manifest with uri,label"
            )
        labeled.append(LabeledVideo(video=video, labels=(label,), group=video.uri, split=None))
    return tuple(labeled)


def _labels(manifest: str, rows: ManifestRows, label_kind: LabelKind) -> list[tuple[str, ...]]:
    if "label" in rows.lists:
        return [_filled(manifest, row, cell) for row, cell in enumerate(rows.lists["label"], start=1)]
    if "label" not in rows.columns:
        raise SourceError(manifest, "has no column label; a data set needs the columns uri and label")
    labels: list[tuple[str, ...]] = []
    for row, cell in enumerate(rows.columns["label"], start=1):
        if cell is None:
            raise SourceError(manifest, f"row {row} has no label")
        match label_kind:
            case "single":
                labels.append((cell,))
            case "multi":
                labels.append(_filled(manifest, row, [name.strip() for name in cell.split(LABEL_SEPARATOR)]))
            case _:
                assert_never(label_kind)
    return labels


def _filled(manifest: str, row: int, names: Sequence[str | None]) -> tuple[str, ...]:
    filled = [name for name in names if name]
    if not filled:
        raise SourceError(manifest, f"row {row} has no label")
    if len(filled) < len(names):
        raise SourceError(manifest, f"row {row} has an empty label among {', '.join(filled)}")
    return tuple(dict.fromkeys(filled))


def _to_split(manifest: str, row: int, cell: str | None) -> Split | None:
    if cell is None:
        return None
    for split in SPLITS:
        if cell == split:
            return split
    raise SourceError(manifest, f"row {row}: split {cell!r} is unknown; use {', '.join(SPLITS)}")


def _to_weight(manifest: str, row: int, cell: str | None) -> float:
    """Return how much a video counts; an empty cell is 1."""
    if cell is None:
        return 1.0
    try:
        weight = float(cell)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise SourceError(manifest, f"row {row}: weight {cell!r} is not a number above 0")
    return weight


def _refuse_several_labels(source: str, videos: Sequence[LabeledVideo], label_kind: LabelKind) -> None:
    if label_kind == "multi":
        return
    for number, labeled in enumerate(videos, start=1):
        if len(labeled.labels) > 1:
            raise SourceError(
                source,
                f"video {number}, {labeled.video.uri}, has several labels ({', '.join(labeled.labels)}); "
                'if that is meant, set label_kind = "multi"',
            )


def _refuse_divided_groups(source: str, videos: Sequence[LabeledVideo]) -> None:
    sides: dict[str, Split | None] = {}
    for labeled in videos:
        side = sides.setdefault(labeled.group, labeled.split)
        if side != labeled.split:
            raise SourceError(
                source,
                f"group {labeled.group!r} lies both in {_part(side)} and in {_part(labeled.split)}; a group has one split",
            )


def _part(split: Split | None) -> str:
    return split or "the training part"
