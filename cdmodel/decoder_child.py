"""The decoder's process: reads clips with ``ClipReader`` for the process that started it, until that one is gone.

Started as ``python -P -m cdmodel.decoder_child CONNECTION MEMORY PARENT``: two inherited descriptors and the process id
of the parent. Loads neither torch nor the parent's main module. The other side is ``decoder_process``.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import resource
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from io import RawIOBase
from multiprocessing.connection import Connection
from typing import Any, BinaryIO, cast

from cdmodel.clips import ClipBatch
from cdmodel.decode import ClipReader
from cdmodel.decoder_memory import LifeSigns, SharedFrames
from cdmodel.decoder_messages import (
    Accepted,
    Answer,
    BatchReady,
    ClipsCounted,
    Closed,
    CloseVideo,
    CountClips,
    Failed,
    FreeSlot,
    Opened,
    OpenVideo,
    PassEnded,
    ReadClips,
    Reply,
    Request,
)
from cdmodel.errors import VideoError, VideoTooLarge

_PR_SET_PDEATHSIG = 1


class _ParentGone(BaseException):
    """The connection has ended. No ``Exception``, so that it is never taken for an error of the video."""


def main() -> None:
    """Serve the parent; return when it has closed the connection."""
    connection_descriptor, memory_descriptor, parent = map(int, sys.argv[1:])
    _die_with(parent)
    # A crash is expected now and then, and its core would be as large as the memory limit.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    connection: Connection = Connection(connection_descriptor)
    try:
        _Decoder(connection, memory_descriptor).serve()
    except _ParentGone:
        return


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the parent is gone, even in the middle of a native call."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # It was gone before.
        sys.exit(1)


class _Decoder:
    """Takes one video after another."""

    def __init__(self, connection: Connection, memory_descriptor: int) -> None:
        self._connection = connection
        self._signs = LifeSigns(memory_descriptor)
        self._frames = SharedFrames(memory_descriptor)
        self._reader: ClipReader | None = None

    def serve(self) -> None:
        """Take videos until the parent is gone.

        Raises:
            _ParentGone: in the end.
        """
        while True:
            message = self._receive_bytes()
            self._signs.start_video()
            self._send(Accepted())
            self._take_video(message)

    def _take_video(self, message: bytes) -> None:
        uri = ""
        try:
            with self._signs.at_work():
                video: OpenVideo = pickle.loads(message)
                uri = video.uri
                _limit_memory(video.limits.max_memory_bytes)
                file = _WatchedFile(video.opener(), self._signs)
        except Exception as error:  # noqa: BLE001 - the caller is another process
            self._answer(Failed(_to_portable(error, uri)))
            return
        with closing(file):
            self._reader = ClipReader(
                cast(BinaryIO, file), uri, video.sampling, video.limits, on_progress=self._signs.show_progress
            )
            self._answer(Opened(cpu_seconds=time.process_time()))
            for request in self._requests(video.first_pass):
                try:
                    self._do(request, self._reader)
                except Exception as error:  # noqa: BLE001 - the caller is another process
                    self._answer(Failed(_to_portable(error, uri)))
                    _limit_memory(video.limits.max_memory_bytes)
        self._answer(Closed(private_bytes=_private_bytes()))
        self._reader = None

    def _requests(self, first: ReadClips | None) -> Iterator[Request]:
        """Yield what is asked about the video, until it shall be closed."""
        if first is not None:
            yield first
        while not isinstance(request := self._receive(), CloseVideo):
            yield request

    def _do(self, request: Request, reader: ClipReader) -> None:
        match request:
            case ReadClips():
                self._read(request, reader)
            case CountClips():
                with self._signs.at_work():
                    clips = reader.count_clips()
                self._answer(ClipsCounted(clips))
            case _:
                # A slot that came back, or an order to stop, after the pass had ended.
                pass

    def _read(self, request: ReadClips, reader: ClipReader) -> None:
        batches: Iterator[tuple[ClipBatch, ...]]
        if request.wanted is None:
            batches = reader.read_views(request.geometries, request.clips_per_batch)
        else:
            [geometry] = request.geometries
            batches = zip(reader.read_clips(geometry, request.wanted, request.clips_per_batch))
        self._hand_out(batches, deque(request.slots))
        del batches  # an unfinished pass closes its container
        self._answer(PassEnded())

    def _hand_out(self, batches: Iterator[tuple[ClipBatch, ...]], slots: deque[int]) -> None:
        """Write batch after batch into free slots, until there are no more or nobody wants more."""
        while True:
            with self._signs.at_work():
                views = next(batches, None)
            if views is None or (offset := self._wait_for_slot(slots)) is None:
                return
            shapes = tuple(tuple(batch.pixels_NTCHW.shape) for batch in views)
            for pixels_NTCHW, batch in zip(self._frames.views(offset, shapes), views, strict=True):
                pixels_NTCHW[...] = batch.to_host()
            first = views[0]
            self._answer(BatchReady(offset=offset, shapes=shapes, clip_indices=first.clip_indices, spans=first.spans))

    def _wait_for_slot(self, slots: deque[int]) -> int | None:
        """Return where the next batch may be written; None where nobody wants it."""
        while not slots or self._connection.poll():
            match self._receive():
                case FreeSlot(offset):
                    slots.append(offset)
                case _:
                    return None
        return slots.popleft()

    def _receive(self) -> Request:
        request: Request = pickle.loads(self._receive_bytes())
        return request

    def _receive_bytes(self) -> bytes:
        try:
            return self._connection.recv_bytes()
        except (EOFError, OSError) as error:
            raise _ParentGone from error

    def _answer(self, reply: Reply) -> None:
        self._send(Answer(reply, None if self._reader is None else self._reader.summary()))

    def _send(self, message: Accepted | Answer) -> None:
        try:
            self._connection.send_bytes(pickle.dumps(message))
        except OSError as error:
            raise _ParentGone from error


class _WatchedFile:
    """A file whose answers are signs of life: looking for the index of a large video takes many before the first packet."""

    def __init__(self, file: BinaryIO | RawIOBase, signs: LifeSigns) -> None:
        self._file = file
        self._signs = signs

    def read(self, size: int = -1) -> bytes | None:
        """Read, and say so."""
        data = self._file.read(size)
        self._signs.show_progress()
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _limit_memory(limit_bytes: int) -> None:
    """Let allocations beyond the limit fail. Counts memory that is private and writable, hence not the shared slots."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = limit_bytes if hard == resource.RLIM_INFINITY else min(limit_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _private_bytes() -> int:
    """Return how much memory this process holds that it does not share; 0 where the system does not say."""
    if sys.platform != "linux":
        return 0
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123
        _, resident, shared, *_ = map(int, file.read().split())
    return (resident - shared) * resource.getpagesize()


def _to_portable(error: Exception, uri: str) -> Exception:
    """Return the error as it can be sent and raised again."""
    if isinstance(error, MemoryError):
        soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
        # Memory may still be short while the answer is written.
        resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        return VideoTooLarge(uri, f"decoding needs more than decode.max_memory_bytes = {soft}")
    if not isinstance(error, VideoError):
        error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - any error may be of a kind that does not travel
        return RuntimeError("".join(traceback.format_exception(error)))
    return error


if __name__ == "__main__":
    main()
