"""A read-only file anywhere, that counts what it costs and speaks in our errors."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from cdmodel.errors import LabelingError
from storage.read_meter import ReadMeter


class RangeFile(io.RawIOBase):
    """A seekable file over a disk or an object store.

    Not safe for use by two threads at once. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        file: Any,
        name: str,
        errors: Callable[[], tuple[type[BaseException], ...]],
        translate: Callable[[BaseException], LabelingError],
        meter: ReadMeter | None = None,
    ) -> None:
        """Wrap an open file.

        Args:
            file: anything with ``read``, ``seek``, ``tell`` and ``close``.
            name: URI, for messages and for decoders that look at it.
            errors: what the store below may raise; asked only when something was raised.
            translate: turns one of them into ours.
            meter: counts what the file below costs; None where reading is to be counted here.
        """
        super().__init__()
        self.name = name
        self._meter = meter or ReadMeter()
        self._file = file
        self._errors = errors
        self._translate = translate
        self._counts_itself = meter is None and not self._count_fetches()

    @property
    def bytes_read(self) -> int:
        """Return the bytes that came from the store so far; read-ahead counts, seeking does not."""
        return self._meter.bytes_read

    @property
    def read_requests(self) -> int:
        """Return the requests to an object store, or the read calls on a disk."""
        return self._meter.read_requests

    def read(self, size: int = -1, /) -> bytes:
        """Return up to ``size`` bytes, all of the rest if negative; fewer only at the end.

        Raises:
            LabelingError: of the class that ``translate`` chose.
        """
        try:
            data: bytes = self._file.read(size)
        except self._errors() as error:
            raise self._translate(error) from error
        if self._counts_itself:
            self._meter.count(len(data))
        return data

    def readinto(self, buffer: Any, /) -> int:
        """Fill ``buffer`` as far as there are bytes and return how many."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        """Return the rest of the file."""
        return self.read()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move to an absolute or relative position and return it.

        Raises:
            ValueError: it lies before the start.
        """
        try:
            position: int = self._file.seek(offset, whence)
        except OSError as error:
            # Decoders take what Python's own files in memory say of a place before the start; a disk says EINVAL.
            raise ValueError("seek to before the start of the file") from error
        return position

    def tell(self) -> int:
        """Return the position."""
        position: int = self._file.tell()
        return position

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def close(self) -> None:
        """Release the file below; harmless if done before."""
        if not self.closed:
            self._file.close()
        super().close()

    def _count_fetches(self) -> bool:
        """Count what the cache of a remote file fetches; False where there is no such cache."""
        cache = getattr(self._file, "cache", None)
        if cache is None:
            return False
        fetch = cache.fetcher

        def counted(start: int, end: int) -> bytes:
            data: bytes = fetch(start, end)
            self._meter.count(len(data))
            return data

        cache.fetcher = counted
        return True
