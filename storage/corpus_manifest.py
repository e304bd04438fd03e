"""Turns the rows of a manifest into videos; looks up the version of those whose etag the manifest does not tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain

from cdmodel.errors import SourceError
from cdmodel.types import VideoRef
from storage.drivers import filesystem_of, info_version, path_in_filesystem, translated_errors
from storage.local_files import file_version, stat_or_none
from storage.manifest import read_manifest_rows
from storage.uri import is_local, local_path, storable_uri, video_id_of

LOOKUP_THREADS = 16
LOOKUPS_PER_TURN = 256
UNKNOWN_VERSION = "unknown"
"""Version of a video that could not be looked at; reading it will say why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    version: str
    size_bytes: int | None


def manifest_videos(manifest: str, roots: Iterable[str]) -> list[VideoRef]:
    """Return the videos of a manifest in its order.

    Raises:
        SourceError: the manifest cannot be used, two rows share a ``video_id``, or the store does not answer.
    """
    rows = read_manifest_rows(manifest, ("video_id", "size_bytes", "etag", "group"), roots)
    uris = [storable_uri(uri) for uri in rows.uris]
    ids = [given or video_id_of(uri) for given, uri in zip(rows.cells("video_id"), uris, strict=True)]
    _refuse_repeated(manifest, ids)
    sizes = [_size(manifest, row, cell) for row, cell in enumerate(rows.cells("size_bytes"), start=1)]
    seen = _look_up([uri for uri, etag in zip(uris, rows.cells("etag"), strict=True) if etag is None])
    videos: list[VideoRef] = []
    cells = zip(ids, uris, sizes, rows.cells("etag"), rows.cells("group"), strict=True)
    for video_id, uri, size_bytes, etag, group in cells:
        facts = _Seen(version=etag.strip('"'), size_bytes=size_bytes) if etag else next(seen)
        size = facts.size_bytes if size_bytes is None else size_bytes
        videos.append(VideoRef(video_id=video_id, uri=uri, video_version=facts.version, size_bytes=size, group=group))
    return videos


def look_up_videos(uris: Sequence[str], ids: Sequence[str]) -> list[VideoRef]:
    """Return the videos under these absolute URIs, each as it is now; one that is missing has version ``unknown``.

    Raises:
        StorageUnavailable: the store does not answer.
    """
    return [
        VideoRef(video_id=video_id, uri=uri, video_version=facts.version, size_bytes=facts.size_bytes)
        for uri, video_id, facts in zip(uris, ids, _look_up(uris), strict=True)
    ]


def _refuse_repeated(manifest: str, ids: Sequence[str]) -> None:
    rows: dict[str, int] = {}
    for row, video_id in enumerate(ids, start=1):
        first = rows.setdefault(video_id, row)
        if first != row:
            raise SourceError(manifest, f"rows {first} and {row} have the same video_id, {video_id}")


def _size(manifest: str, row: int, cell: str | None) -> int | None:
    if cell is None:
        return None
    try:
        return int(cell)
    except ValueError as error:
        raise SourceError(manifest, f"row {row}: size_bytes is no whole number, {cell!r}") from error


def _look_up(uris: Sequence[str]) -> Iterator[_Seen]:
    turns = [uris[start : start + LOOKUPS_PER_TURN] for start in range(0, len(uris), LOOKUPS_PER_TURN)]
    with ThreadPoolExecutor(LOOKUP_THREADS) as pool:
        return chain.from_iterable(list(pool.map(_look_up_some, turns)))


def _look_up_some(uris: Sequence[str]) -> list[_Seen]:
    return [_on_disk(uri) if is_local(uri) else _remote(uri) for uri in uris]


def _on_disk(uri: str) -> _Seen:
    facts = stat_or_none(local_path(uri))
    if facts is None:
        return _Seen(version=UNKNOWN_VERSION, size_bytes=None)
    return _Seen(version=file_version(facts), size_bytes=facts.st_size)


def _remote(uri: str) -> _Seen:
    with translated_errors(uri):
        try:
            info = filesystem_of(uri).info(path_in_filesystem(uri))
        except (FileNotFoundError, PermissionError):
            return _Seen(version=UNKNOWN_VERSION, size_bytes=None)
    return _Seen(version=info_version(info), size_bytes=info["size"])
