"""Reads data sets as their publishers annotate them, and finds their videos in a folder or bucket.

DATASET is written ``KIND:ANNOTATIONS``:

    ucf101:FOLDER/trainlist01.txt      testlist01.txt and classInd.txt lie beside it
    hmdb51:FOLDER#1                    the files <class>_test_split1.txt of the folder
    kinetics:FILE.csv                  or the folder of train.csv, validate.csv (val.csv), test.csv
    activitynet:FILE.json
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, assert_never, cast, get_args

from cdmodel.errors import SourceError
from cdmodel.types import Dataset, LabeledVideo, VideoRef
from storage.activitynet import read_activitynet
from storage.annotation import AnnotatedVideo, Annotation
from storage.corpus import videos_below
from storage.hmdb51 import read_hmdb51
from storage.kinetics import read_kinetics
from storage.ucf101 import read_ucf101
from storage.uri import absolute_uri, join_uri

Kind = Literal["ucf101", "hmdb51", "kinetics", "activitynet"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# Not a URL (s3://) and not a chain of protocols (simplecache::), which is refused elsewhere.
_PREFIXED = re.compile(r"(?P<kind>[A-Za-z][A-Za-z0-9_-]*):(?!//|:)(?P<annotations>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSource:
    """DATASET, taken apart."""

    kind: Kind
    annotations: str
    """As given."""


def published_source(source: str) -> PublishedSource | None:
    """Return what a DATASET of the form ``KIND:ANNOTATIONS`` names; None where it is a plain place.

    Raises:
        SourceError: the kind is unknown, or nothing follows it.
    """
    match = _PREFIXED.fullmatch(source)
    if match is None or os.path.lexists(source):
        return None
    kind = match["kind"]
    if kind not in KINDS:
        raise SourceError(source, f"{kind!r} is no known kind of data set; use {', '.join(KINDS)}, or a plain path")
    if not match["annotations"].strip():
        raise SourceError(source, f"names no annotation; write {kind}:ANNOTATIONS")
    return PublishedSource(kind=cast("Kind", kind), annotations=match["annotations"])


def read_published(source: PublishedSource, videos: str) -> Dataset:
    """Return the annotated videos that lie in the folder ``videos``, in the order of the annotation.

    Raises:
        SourceError: the annotation cannot be used, names a video twice or one outside the folder, or none is there.
        LabelingError: the folder cannot be listed.
    """
    annotation = _read_annotation(source)
    if not annotation.videos:
        raise SourceError(annotation.source, "names no video that has a label and a part")
    _refuse_names(annotation)
    folder = absolute_uri(videos)
    return _found(annotation, folder, videos_below(folder))


def _read_annotation(source: PublishedSource) -> Annotation:
    match source.kind:
        case "ucf101":
            return read_ucf101(absolute_uri(source.annotations))
        case "hmdb51":
            folder, separator, number = source.annotations.rpartition("#")
            if not separator or not number.isascii() or not number.isdigit():
                raise SourceError(source.annotations, "names no split; write hmdb51:FOLDER#1")
            return read_hmdb51(absolute_uri(folder), int(number))
        case "kinetics":
            return read_kinetics(absolute_uri(source.annotations))
        case "activitynet":
            return read_activitynet(absolute_uri(source.annotations))
        case _:
            assert_never(source.kind)


def _refuse_names(annotation: Annotation) -> None:
    rows: dict[str, AnnotatedVideo] = {}
    for video in annotation.videos:
        if _climbs_out(video.name):
            raise SourceError(annotation.source, f"{video.place}: {video.name} lies outside the folder of the videos")
        first = rows.setdefault(video.name, video)
        if first.split != video.split:
            raise SourceError(annotation.source, f"{video.name} is to train and to test: {first.place}; {video.place}")
        if first is not video:
            raise SourceError(annotation.source, f"{video.name} is named twice: {first.place}; {video.place}")


def _climbs_out(name: str) -> bool:
    return name.startswith("/") or "\\" in name or "://" in name or ".." in name.split("/")


def _found(annotation: Annotation, folder: str, files: Mapping[str, VideoRef]) -> Dataset:
    labeled: list[LabeledVideo] = []
    missing: list[str] = []
    places: dict[str, str] = {}
    for row in annotation.videos:
        file = _file_of(row, files)
        if file is None:
            missing.append(row.name)
            continue
        first = places.setdefault(file.uri, row.place)
        if first != row.place:
            raise SourceError(annotation.source, f"{file.uri} is the video of two rows: {first}; {row.place}")
        labeled.append(LabeledVideo(video=file, labels=row.labels, group=row.group, split=row.split))
    if not labeled:
        raise SourceError(
            folder,
            f"none of the {len(missing)} annotated videos is here; expected, say, {join_uri(folder, missing[0])}",
        )
    return Dataset(videos=tuple(labeled), missing=tuple(missing), shared_sources=annotation.shared_sources)


def _file_of(row: AnnotatedVideo, files: Mapping[str, VideoRef]) -> VideoRef | None:
    return next((files[name] for name in row.names() if name in files), None)
