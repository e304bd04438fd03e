"""Finds the videos that SOURCE names: in a folder, by a pattern, in a manifest, on disk or in a bucket.

Knows nothing of what a video is: a file is taken for one unless its name says otherwise, and what cannot be decoded
becomes a failed row later, where it can be seen.
"""

from __future__ import annotations

import glob
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cdmodel.errors import LabelingError, SourceError
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.types import VideoRef
from storage.corpus_manifest import manifest_videos
from storage.drivers import filesystem_of, info_version, path_in_filesystem, require_bucket, translated_errors
from storage.local_files import FoundFile, file_version, stat_or_none, walk_files
from storage.manifest import is_manifest
from storage.uri import absolute_uri, is_local, name_below, split_url, storable_uri, video_id_of
from storage.video_file import VideoFile, open_video

__all__ = [
    "SIDECAR_SUFFIXES",
    "CorpusListing",
    "CorpusRules",
    "VideoFile",
    "list_videos",
    "open_video",
    "videos_below",
]

_SIDECARS = (
    ".ass .avro .bak .bmp .cfg .conf .csv .db .doc .docx .feather .flac .gz .heic .htm .html .ini .ipynb .jpeg "
    ".jpg .json .jsonl .log .m4a .md .md5 .mp3 .nfo .npy .npz .orc .parquet .part .pdf .pickle .pkl .png .pt .pth .py "
    ".rar .rst .safetensors .sh .sha1 .sha256 .sqlite .srt .sub .svg .tar .tgz .tif .tiff .tmp .toml .tsv .txt .vtt "
    ".wav .webp .xml .xz .yaml .yml .zip .zst .7z"
)
SIDECAR_SUFFIXES = frozenset(_SIDECARS.split())
"""Suffixes, in lower case, of files that lie beside videos. Anything else in a folder counts as a video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusRules:
    """What a corpus may consist of."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    roots: tuple[str, ...] = ()
    """Folders or URLs, besides its own folder, that a manifest may name videos in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusListing:
    """The videos found, and how many files were not taken for one."""

    source: str
    """Absolute."""
    videos: tuple[VideoRef, ...]
    """Ascending by ``video_id``; never empty."""
    ignored_files: int
    """Sidecars, hidden files and what is no regular file; hidden folders are not looked into."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A name that a listing returned; without a version there is nothing to read behind it."""

    uri: str
    version: str | None
    size_bytes: int


def list_videos(source: str, rules: CorpusRules) -> CorpusListing:
    """Find the videos of a folder, glob, single file, URL or manifest. Reads names and sizes only.

    Raises:
        SourceError: SOURCE is missing, empty, cannot be listed, or its manifest cannot be used.
    """
    try:
        uri = absolute_uri(source)
        if _is_pattern(uri):
            return _listing(uri, list(_match(uri)), sidecars=0)
        if is_manifest(uri) and not _is_disk_folder(uri):
            return _from_manifest(uri, rules)
        if is_local(uri) and not _is_disk_folder(uri):
            return _listing(uri, list(_match(glob.escape(uri))), sidecars=0)
        found = list(_below(uri))
        kept = [item for item in found if not _is_sidecar(item.uri[len(uri) :])]
        return _listing(uri, kept, sidecars=len(found) - len(kept))
    except SourceError:
        raise
    except LabelingError as error:
        raise SourceError(error.subject, error.reason) from error


def videos_below(folder: str) -> dict[str, VideoRef]:
    """Return the videos of a folder, given by its absolute name, by their names relative to it; there may be none.

    Raises:
        StorageUnavailable: the folder is missing or cannot be listed.
    """
    return {
        name_below(item.uri, folder): _to_video(item.uri, item.version, item.size_bytes)
        for item in _below(folder)
        if item.version is not None and not _is_sidecar(item.uri[len(folder) :])
    }


def _to_video(uri: str, version: str, size_bytes: int) -> VideoRef:
    return VideoRef(video_id=video_id_of(uri), uri=uri, video_version=version, size_bytes=size_bytes)


def _from_manifest(uri: str, rules: CorpusRules) -> CorpusListing:
    videos = manifest_videos(uri, rules.roots)
    return CorpusListing(source=uri, videos=_sorted_by_id(videos), ignored_files=0)


def _listing(source: str, found: Sequence[_Found], sidecars: int) -> CorpusListing:
    videos = [_to_video(item.uri, item.version, item.size_bytes) for item in found if item.version is not None]
    ignored = sidecars + len(found) - len(videos)
    if not videos:
        beside = f", only {ignored} files that are none" if ignored else ""
        raise SourceError(source, f"no videos found{beside}; SOURCE must be a folder, glob, URL or manifest of videos")
    return CorpusListing(source=source, videos=_sorted_by_id(videos), ignored_files=ignored)


def _sorted_by_id(videos: Iterable[VideoRef]) -> tuple[VideoRef, ...]:
    return tuple(sorted(videos, key=lambda video: video.video_id))


def _is_pattern(uri: str) -> bool:
    if not glob.has_magic(uri):
        return False
    # A file or folder on disk whose own name holds brackets means itself.
    return not (is_local(uri) and os.path.lexists(uri))


def _is_disk_folder(uri: str) -> bool:
    return is_local(uri) and os.path.isdir(uri)  # noqa: PTH112 - a name that may not be UTF-8 stays a string


def _is_sidecar(name: str) -> bool:
    parts = [part for part in name.split("/") if part]
    hidden = any(part.startswith(".") for part in parts)
    return hidden or posixpath.splitext(name)[1].lower() in SIDECAR_SUFFIXES


def _below(uri: str) -> Iterator[_Found]:
    with translated_errors(uri):
        if is_local(uri):
            for file in walk_files(uri, enters=lambda name: not name.startswith(".")):
                yield _on_disk(file)
            return
        filesystem = filesystem_of(uri)
        path = path_in_filesystem(uri)
        found = filesystem.find(path, detail=True)
        if not found:
            require_bucket(filesystem, path)
        yield from _remote(uri, found)


def _match(pattern: str) -> Iterator[_Found]:
    with translated_errors(pattern):
        if is_local(pattern):
            for path in glob.iglob(pattern, recursive=True):  # noqa: PTH207
                if not os.path.isdir(path):  # noqa: PTH112
                    yield _on_disk(FoundFile(path=path, facts=stat_or_none(path)))
            return
        filesystem = filesystem_of(pattern)
        yield from _remote(pattern, filesystem.glob(path_in_filesystem(pattern), detail=True))


def _on_disk(file: FoundFile) -> _Found:
    uri = storable_uri(file.path)
    if file.facts is None or not file.is_regular:
        return _Found(uri=uri, version=None, size_bytes=0)
    return _Found(uri=uri, version=file_version(file.facts), size_bytes=file.facts.st_size)


def _remote(uri: str, found: Mapping[str, dict[str, Any]]) -> Iterator[_Found]:
    scheme, _ = split_url(uri)
    for path, info in found.items():
        # Consoles create empty objects whose names end in a slash to show a folder.
        if info["type"] == "file" and not path.endswith("/"):
            name = path if "://" in path else f"{scheme}://{path.lstrip('/')}"
            yield _Found(uri=name, version=info_version(info), size_bytes=info["size"] or 0)
