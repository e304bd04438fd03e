"""Opens one video for a decoder: seekable, read in ranges, counted, and never in the way of the next video."""

from __future__ import annotations

import os
import stat
from errno import EACCES, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOTDIR, ENXIO, EPERM
from functools import partial
from typing import Any

from cdmodel.errors import UsageError, VideoError, VideoNotFound, VideoStorageError, VideoUnreadable
from cdmodel.types import VideoRef
from storage.drivers import filesystem_of, one_line, open_remote, path_in_filesystem, store_errors
from storage.range_file import RangeFile
from storage.uri import is_local, local_path

READ_AHEAD_BYTES = 2**20
_MISSING = (ENOENT, ENOTDIR, ENAMETOOLONG)
_REFUSED = (EACCES, EPERM, EISDIR, ELOOP, ENXIO)


class VideoFile(RangeFile):
    """A video being read: seekable, with ``bytes_read`` and ``read_requests`` counted; raises ``VideoError`` only."""

    def __enter__(self) -> VideoFile:
        """Return the file itself."""
        return self


def open_video(video: VideoRef) -> VideoFile:
    """Open a video for reading. Never waits for a writer, as a named pipe would have it.

    The file's methods raise the same errors.

    Raises:
        VideoNotFound: nothing stands at the URI.
        VideoUnreadable: it is no regular file, or access is denied.
        VideoStorageError: the store failed after its retries.
    """
    try:
        file = _open_on_disk(video.uri) if is_local(video.uri) else _open_remote(video.uri)
    except store_errors() as error:
        raise _to_video_error(video.uri, error) from error
    return VideoFile(file, video.uri, store_errors, partial(_to_video_error, video.uri))


def _open_on_disk(uri: str) -> Any:
    # Without O_NONBLOCK, opening a named pipe waits for ever.
    descriptor = os.open(local_path(uri), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise VideoUnreadable(uri, "not a regular file")
    return os.fdopen(descriptor, "rb", buffering=0)


def _open_remote(uri: str) -> Any:
    try:
        filesystem = filesystem_of(uri)
    except UsageError as error:
        raise VideoUnreadable(uri, error.reason) from error
    path = path_in_filesystem(uri)
    file = open_remote(filesystem, path, READ_AHEAD_BYTES)
    if getattr(file, "details", {}).get("type", "file") != "file":
        raise VideoUnreadable(uri, "a folder, not a file")
    return file


def _to_video_error(uri: str, error: BaseException) -> VideoError:
    number = getattr(error, "errno", None)
    if isinstance(error, FileNotFoundError) or number in _MISSING:
        return VideoNotFound(uri, "does not exist")
    if isinstance(error, PermissionError | IsADirectoryError) or number in _REFUSED:
        return VideoUnreadable(uri, f"cannot be opened ({one_line(error)})")
    return VideoStorageError(uri, f"the store failed: {one_line(error)}")
