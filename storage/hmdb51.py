"""Reads the official splits of HMDB51 (Kuehne et al. 2011): a folder of files ``<class>_test_split<N>.txt``.

    brush_hair_test_split1.txt    April_09_brush_hair_u_nm_np1_ba_goo_0.avi 1

1 is training, 2 is test, 0 is neither in this split. A name says: source movie, class, visible body part, camera
motion, number of people, view, quality, number. The movie is the group. Within a class the official splits keep movies
apart, across classes they do not: such a movie is reported, and its test clips are a group of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from cdmodel.errors import LabelingError, SourceError
from storage.annotation import AnnotatedVideo, Annotation, lines_of, read_text
from storage.filesystem import open_store
from storage.uri import join_uri

_VIDEO = re.compile(r"(?P<file>\S+\.\w+)\s+(?P<use>[012])")
_FIELDS_AFTER_CLASS = 6


def read_hmdb51(folder: str, split_number: int) -> Annotation:
    """Read one split of the folder, given by its absolute name.

    Raises:
        SourceError: the folder has no such split, or a line is not of the format.
    """
    suffix = f"_test_split{split_number}.txt"
    try:
        names = [name for name in open_store(folder).children() if name.endswith(suffix)]
    except LabelingError as error:
        raise SourceError(error.subject, f"the annotation cannot be read: {error.reason}") from error
    if not names:
        raise SourceError(folder, f"holds no split {split_number} of HMDB51: no file <class>{suffix}")
    videos: list[AnnotatedVideo] = []
    for name in names:
        videos += parse_class_list(name, name.removesuffix(suffix), read_text(join_uri(folder, name)))
    apart, shared = keep_shared_movies_apart(videos)
    return Annotation(source=folder, videos=apart, shared_sources=shared)


def parse_class_list(name: str, label: str, text: str) -> tuple[AnnotatedVideo, ...]:
    """Return the videos of one class that the split uses; ``name`` is that of the file.

    Raises:
        SourceError: a line is not of the format.
    """
    return tuple(_videos(name, label, text))


def source_movie(file: str, label: str) -> str:
    """Return the source movie of a clip: what its name says before its class.

    A class may hold underscores, and a movie's name may hold the class's, so the last occurrence counts.
    """
    stem = file.rpartition(".")[0]
    movie, class_found, _ = stem.rpartition(f"_{label}_")
    return movie if class_found else stem.rsplit("_", _FIELDS_AFTER_CLASS)[0]


def keep_shared_movies_apart(videos: Iterable[AnnotatedVideo]) -> tuple[tuple[AnnotatedVideo, ...], tuple[str, ...]]:
    """Return the videos, test clips of a movie that also trains in a group of their own, and those movies, ascending."""
    videos = tuple(videos)
    training = {video.group for video in videos if video.split is None}
    shared = training & {video.group for video in videos if video.split == "test"}
    return tuple(
        replace(video, group=f"{video.group} (test)") if video.split == "test" and video.group in shared else video
        for video in videos
    ), tuple(sorted(shared))


def _videos(name: str, label: str, text: str) -> Iterator[AnnotatedVideo]:
    for line in lines_of(name, text):
        match = _VIDEO.fullmatch(line.text)
        if match is None:
            raise SourceError(line.place, f"expected a file name and 0, 1 or 2, got {line.text!r}")
        if match["use"] != "0":
            yield AnnotatedVideo(
                place=line.place,
                folders=(label, ""),
                file=match["file"],
                labels=(label,),
                group=source_movie(match["file"], label),
                split="test" if match["use"] == "2" else None,
            )
