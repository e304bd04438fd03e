"""What the annotation of a published data set says of its videos, whatever its format. Knows nothing of their files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdmodel.errors import LabelingError, SourceError
from cdmodel.types import Split
from storage.filesystem import open_store
from storage.uri import base_name, parent_uri


@dataclass(frozen=True, slots=True, kw_only=True)
class AnnotatedVideo:
    """One row of an annotation."""

    place: str
    """Where it is written, for messages: file and line, or file and id."""
    folders: tuple[str, ...]
    """Where its file may lie, relative to the folder of the videos, ``""`` for that itself; the usual place first."""
    file: str
    labels: tuple[str, ...]
    group: str
    split: Split | None
    """``test`` in the official test part, None in the training part."""
    suffixes: tuple[str, ...] = ("",)
    """What may follow ``file``; the usual one first."""

    @property
    def name(self) -> str:
        """Return the usual name of its file, relative to the folder of the videos."""
        return next(self.names())

    def names(self) -> Iterator[str]:
        """Yield all names that its file may have, the usual one first."""
        for folder in self.folders:
            for suffix in self.suffixes:
                yield f"{folder}/{self.file}{suffix}" if folder else f"{self.file}{suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """A published data set, in the order of its files."""

    source: str
    """The file or folder that was read; absolute."""
    videos: tuple[AnnotatedVideo, ...]
    shared_sources: tuple[str, ...] = ()
    """As in ``cdmodel.types.Dataset``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A line of an annotation file that says something."""

    place: str
    text: str
    """Without the white space around it."""


def read_text(uri: str) -> str:
    """Return the text of an annotation file, given by its absolute name.

    Raises:
        SourceError: it is missing, cannot be read or is no UTF-8 text.
    """
    try:
        return open_store(parent_uri(uri)).read(base_name(uri)).decode("utf-8-sig")
    except LabelingError as error:
        raise SourceError(error.subject, f"the annotation cannot be read: {error.reason}") from error
    except UnicodeDecodeError as error:
        raise SourceError(uri, "is no UTF-8 text") from error


def lines_of(name: str, text: str) -> Iterator[Line]:
    """Yield the lines of the annotation file ``name`` that are not blank."""
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield Line(place=f"{name}, line {number}", text=line.strip())
