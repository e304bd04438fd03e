"""A read-only file whose bytes are fetched in ranges as they are wanted, read ahead, and kept as long as there is room."""

from __future__ import annotations

import io
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from storage.read_ahead import Hole, PlannedFetch, ReadAhead, plan_fetch

Fetch = Callable[[int, int], bytes | bytearray]
"""Returns the bytes of a half-open range, all of them, or raises."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Kept:
    start: int
    data: bytes | bytearray
    read_ahead_bytes: int
    last_used: int

    @property
    def end(self) -> int:
        return self.start + len(self.data)


class KeptRangesFile:
    """Seekable; whatever ``fetch`` raises leaves ``read``, which may then be tried again.

    Not safe for use by two threads at once.
    """

    def __init__(self, fetch: Fetch, size_bytes: int, settings: ReadAhead) -> None:
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._settings = settings
        self._position = 0
        self._kept: list[_Kept] = []
        """Ascending by start; never overlapping."""
        self._clock = 0
        self._closed = False

    @property
    def kept_bytes(self) -> int:
        """Return how many bytes are held in memory; at most ``kept_bytes`` of the settings."""
        return sum(len(kept.data) for kept in self._kept)

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, all of the rest if negative; fewer only at the end."""
        if self._closed:
            raise ValueError("the file is closed")
        end = self._size_bytes if size < 0 else min(self._position + size, self._size_bytes)
        pieces = io.BytesIO()
        for piece in self._pieces(self._position, end):
            pieces.write(piece)
        self._position = max(self._position, end)
        return pieces.getvalue()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to an absolute or relative position, perhaps beyond the end, and return it. Fetches nothing."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        if origin + offset < 0:
            raise ValueError("seek to before the start of the file")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """Let go of what is kept; nothing can be read afterwards."""
        self._closed = True
        self._kept.clear()

    def _pieces(self, start: int, end: int) -> Iterator[memoryview]:
        while start < end:
            kept = self._find(start) or self._take(start, end)
            self._clock += 1
            kept.last_used = self._clock
            yield memoryview(kept.data)[start - kept.start : end - kept.start]
            start = kept.end

    def _find(self, position: int) -> _Kept | None:
        index = self._index_after(position) - 1
        if index >= 0 and position < self._kept[index].end:
            return self._kept[index]
        return None

    def _take(self, start: int, end: int) -> _Kept:
        planned = plan_fetch(start, end, self._hole_at(start), self._size_bytes, self._settings)
        self._make_room(planned)
        kept = _Kept(
            start=planned.start,
            data=self._fetch(planned.start, planned.end),
            read_ahead_bytes=planned.read_ahead_bytes,
            last_used=self._clock,
        )
        insort(self._kept, kept, key=_start)
        return kept

    def _hole_at(self, position: int) -> Hole:
        index = self._index_after(position)
        before = self._kept[index - 1] if index else None
        return Hole(
            start=before.end if before else 0,
            end=self._kept[index].start if index < len(self._kept) else self._size_bytes,
            read_ahead_bytes=before.read_ahead_bytes if before else 0,
        )

    def _make_room(self, planned: PlannedFetch) -> None:
        # Before the request, so that not even while it runs more is held than allowed.
        while self._kept and self.kept_bytes + planned.end - planned.start > self._settings.kept_bytes:
            self._kept.remove(min(self._kept, key=_last_used))

    def _index_after(self, position: int) -> int:
        return bisect_right(self._kept, position, key=_start)


def _start(kept: _Kept) -> int:
    return kept.start


def _last_used(kept: _Kept) -> int:
    return kept.last_used
