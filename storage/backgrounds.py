"""Reads the videos that may stand between others: any SOURCE, and what is known of their recordings and labels."""

from __future__ import annotations

from dataclasses import dataclass

from cdmodel.errors import LabelingError, SourceError
from cdmodel.types import VideoRef
from storage.corpus import CorpusRules, list_videos
from storage.corpus_manifest import look_up_videos
from storage.dataset import read_dataset
from storage.manifest import is_manifest, read_manifest_rows
from storage.uri import absolute_uri, base_name, parent_uri, storable_uri, video_id_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """A video that shows something else."""

    video: VideoRef
    group: str
    """Source recording; a video whose group nobody told is a group of its own."""
    labels: tuple[str, ...]
    """What is known to be true of it; of a video that was found in a folder, that folder's name."""


def list_backgrounds(source: str, rules: CorpusRules) -> tuple[Background, ...]:
    """Return the videos of a folder, glob, URL or manifest, ascending by URI.

    A manifest's columns ``label`` and ``group`` are heeded where it has them; its column ``split`` is not.

    Raises:
        SourceError: the source is missing or empty, cannot be listed, or its manifest cannot be used.
    """
    try:
        uri = absolute_uri(source)
        found = _from_manifest(uri, rules) if is_manifest(uri) else _from_listing(source, rules)
    except SourceError:
        raise
    except LabelingError as error:
        raise SourceError(error.subject, error.reason) from error
    return tuple(sorted(found, key=lambda background: background.video.uri))


def _from_manifest(manifest: str, rules: CorpusRules) -> list[Background]:
    rows = read_manifest_rows(manifest, ("label", "group"), rules.roots)
    if "label" in rows.columns:
        return [
            Background(video=labeled.video, group=labeled.group, labels=labeled.labels)
            for labeled in read_dataset(manifest, rules).videos
        ]
    uris = [storable_uri(uri) for uri in rows.uris]
    videos = look_up_videos(uris, [video_id_of(uri) for uri in uris])
    return [
        Background(video=video, group=group or video.uri, labels=())
        for video, group in zip(videos, rows.cells("group"), strict=True)
    ]


def _from_listing(source: str, rules: CorpusRules) -> list[Background]:
    return [
        Background(video=video, group=video.uri, labels=(base_name(parent_uri(video.uri)),))
        for video in list_videos(source, rules).videos
    ]
