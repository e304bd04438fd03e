"""Reads the annotation of ActivityNet (Caba Heilbron et al. 2015): one JSON document.

    {"database": {"sJFgo9H6zNo": {"subset": "training", "annotations": [{"label": "Bungee jumping", "segment": [0, 9]}]}}}

The videos are untrimmed; the labels of one are those of its segments, usually one, sometimes several. ``validation`` is
the test part, since ``testing`` comes without labels. The group is the video.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cdmodel.errors import SourceError
from storage.annotation import AnnotatedVideo, Annotation, read_text
from storage.uri import base_name

VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm")


@dataclass(frozen=True, slots=True)
class _Segment:
    label: str


@dataclass(frozen=True, slots=True)
class _Entry:
    subset: Literal["training", "validation", "testing"]
    annotations: tuple[_Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class _Document:
    database: dict[str, _Entry]


def read_activitynet(file: str) -> Annotation:
    """Read the document, given by its absolute name.

    Raises:
        SourceError: it cannot be read or is not of the format.
    """
    return Annotation(source=file, videos=parse_database(base_name(file), read_text(file)))


def parse_database(name: str, text: str) -> tuple[AnnotatedVideo, ...]:
    """Return the videos of the document ``name`` that have labels, in its order.

    Raises:
        SourceError: it is not of the format, or a video outside ``testing`` has no label.
    """
    try:
        database = TypeAdapter(_Document).validate_json(text).database
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = " > ".join(str(part) for part in first["loc"]) or "the document"
        raise SourceError(name, f"is no annotation of ActivityNet: {place}: {first['msg']}") from error
    return tuple(_to_video(name, id_, entry) for id_, entry in database.items() if entry.subset != "testing")


def _to_video(name: str, id_: str, entry: _Entry) -> AnnotatedVideo:
    place = f"{name}, video {id_}"
    labels = tuple(dict.fromkeys(segment.label for segment in entry.annotations))
    if not all(labels) or not labels:
        raise SourceError(place, f"has no label, though it is in {entry.subset}")
    return AnnotatedVideo(
        place=place,
        folders=("",),
        file=f"v_{id_}",
        suffixes=VIDEO_SUFFIXES,
        labels=labels,
        group=id_,
        split="test" if entry.subset == "validation" else None,
    )
