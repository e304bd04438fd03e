"""Opens one video for a decoder: seekable, read in ranges, counted, and never in the way of the next video."""

from __future__ import annotations

import os
import re
import stat
from errno import EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EPERM
from functools import partial
from typing import Any

from cdmodel.errors import UsageError, VideoError, VideoNotFound, VideoStorageError, VideoUnreadable
from cdmodel.types import VideoRef
from storage.drivers import filesystem_of, one_line, store_errors
from storage.kept_ranges import KeptRangesFile
from storage.range_file import RangeFile
from storage.range_requests import ObjectChanged, ObjectFacts, plain_etag
from storage.range_source import Patience, look_up_object, open_range_source
from storage.read_ahead import ReadAhead
from storage.read_meter import ReadMeter
from storage.uri import is_local, local_path, split_url

_S3_ETAG = re.compile(r"[0-9a-f]{32}(-\d+)?")
_MISSING = (ENOENT, ENOTDIR, ENAMETOOLONG)
_REFUSED = (EACCES, EPERM, EISDIR, ELOOP, ENXIO)


class VideoFile(RangeFile):
    """A video being read: seekable, with ``bytes_read`` and ``read_requests`` counted; raises ``VideoError`` only."""

    def __enter__(self) -> VideoFile:
        """Return the file itself."""
        return self


def open_video(video: VideoRef, read_ahead: ReadAhead | None = None, patience: Patience | None = None) -> VideoFile:
    """Open a video for reading. Never waits for a writer, as a named pipe would have it.

    In an object store it is the version that was listed or none: a video whose size and etag are known costs no request until
    it is read. The file's methods raise the same errors.

    Args:
        video: what to open.
        read_ahead: how much a request takes and how much is kept; for object stores only.
        patience: when to give up on a request; for object stores only.

    Raises:
        VideoNotFound: nothing stands at the URI.
        VideoUnreadable: it is no regular file, or access is denied.
        VideoStorageError: the store failed after its retries, or holds another version by now.
    """
    meter = None
    try:
        if is_local(video.uri):
            file = _open_on_disk(video.uri)
        else:
            meter = ReadMeter()
            file = _open_remote(video, meter, read_ahead or ReadAhead(), patience or Patience())
    except store_errors() as error:
        raise _to_video_error(video.uri, error) from error
    return VideoFile(file, video.uri, store_errors, partial(_to_video_error, video.uri), meter)


def _open_on_disk(uri: str) -> Any:
    # Without O_NONBLOCK, opening a named pipe waits for ever.
    descriptor = os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VideoUnreadable(uri, "not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _open_remote(video: VideoRef, meter: ReadMeter, read_ahead: ReadAhead, patience: Patience) -> KeptRangesFile:
    try:
        filesystem = filesystem_of(video.uri)
    except UsageError as error:
        raise VideoUnreadable(video.uri, error.reason) from error
    facts = _listed_facts(video) or _look_up(filesystem, video.uri, meter, patience)
    source = open_range_source(filesystem, video.uri, facts, meter, patience)
    return KeptRangesFile(source.fetch, facts.size_bytes, read_ahead)


def _listed_facts(video: VideoRef) -> ObjectFacts | None:
    """Return what a listing told, if that is enough to hold the store to it."""
    scheme, _ = split_url(video.uri)
    if not video.size_bytes or scheme not in ("s3", "s3a"):
        return None
    if not _S3_ETAG.fullmatch(video.video_version):
        return None
    return ObjectFacts(size_bytes=video.size_bytes, etag=video.video_version)


def _look_up(filesystem: Any, uri: str, meter: ReadMeter, patience: Patience) -> ObjectFacts:
    info = look_up_object(filesystem, uri, meter, patience)
    if info.get("type", "file") != "file":
        raise VideoUnreadable(uri, "a folder, not a file")
    if info.get("size") is None:
        raise VideoUnreadable(uri, "the server does not tell its size")
    return ObjectFacts(size_bytes=info["size"], etag=plain_etag(info.get("ETag") or "") or None)


def _to_video_error(uri: str, error: BaseException) -> VideoError:
    number = getattr(error, "errno", None)
    if isinstance(error, FileNotFoundError) or number in _MISSING:
        return VideoNotFound(uri, "does not exist")
    if isinstance(error, PermissionError | IsADirectoryError) or number in _REFUSED:
        return VideoUnreadable(uri, f"cannot be opened ({one_line(error)})")
    if isinstance(error, ObjectChanged):
        return VideoStorageError(uri, f"changed since it was listed or opened: {one_line(error)}")
    return VideoStorageError(uri, f"the store failed: {one_line(error)}")
