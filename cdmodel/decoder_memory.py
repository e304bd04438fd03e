"""Memory that a process shares with the decoder it started: signs of life, and the pixels of batches.

One anonymous file, mapped by both, that vanishes with them whatever way they end. Its first page holds two moments of
the system's monotonic clock, the rest slots for batches.
"""

from __future__ import annotations

import itertools
import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from cdmodel.decode_limits import DecodeLimits

HEADER_BYTES = mmap.PAGESIZE
KEPT_BYTES = 2**28
"""More than this is given back to the system after a video."""
_LATEST_SIGN, _BUSY_ORIGIN = 0, 1


def create_shared_file() -> int:
    """Return the descriptor of a new file without a name, as large as the header."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("decoded-clips")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, HEADER_BYTES)
    return descriptor


class LifeSigns:
    """When the decoder last made progress, and since when it has been at work. The decoder writes, the other reads."""

    def __init__(self, descriptor: int) -> None:
        self._moments = memoryview(mmap.mmap(descriptor, HEADER_BYTES)).cast("d")
        self._busy_seconds = 0.0

    def start_video(self) -> None:
        """Forget the video before."""
        self._moments[_BUSY_ORIGIN] = 0.0
        self._busy_seconds = 0.0

    def show_progress(self) -> None:
        """Say that something was achieved just now."""
        self._moments[_LATEST_SIGN] = time.monotonic()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Count the time within as time spent on the video."""
        self.show_progress()
        # Such that the clock less the origin is the time spent on this video, the stretches before included.
        origin = self._moments[_BUSY_ORIGIN] = time.monotonic() - self._busy_seconds
        try:
            yield
        finally:
            self._busy_seconds = time.monotonic() - origin
            self._moments[_BUSY_ORIGIN] = 0.0

    def seconds_left(self, limits: DecodeLimits, waiting_since: float) -> tuple[float, float]:
        """Return how long it may take until the deadline, and until a decoder that shows no progress is given up."""
        now, origin = time.monotonic(), self._moments[_BUSY_ORIGIN]
        if not origin:
            # Between two pieces of work, or not yet at the first.
            return limits.deadline_seconds, limits.stall_seconds - (now - waiting_since)
        latest_sign = self._moments[_LATEST_SIGN]
        return limits.deadline_seconds - (now - origin), limits.stall_seconds - (now - latest_sign)


class SharedFrames:
    """The slots. The decoder writes pixels into those it was given, the other hands them out without a copy.

    An array that was handed out stays what it is for as long as anybody keeps it: its slot is taken back afterwards.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._map = mmap.mmap(descriptor, HEADER_BYTES)
        self._lent: list[_LentSlot] = []
        self._slot_bytes = 0
        self._start = self._end = HEADER_BYTES

    def views(self, offset: int, shapes: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint8], ...]:
        """Return what stands from ``offset`` on as arrays of these shapes, one after another."""
        return _divide(self._bytes(offset, sum(map(prod, shapes))), shapes)

    def _bytes(self, offset: int, size_bytes: int) -> NDArray[np.uint8]:
        if offset + size_bytes > len(self._map):
            # The map before lives on with the arrays that look into it.
            self._map = mmap.mmap(self._descriptor, os.fstat(self._descriptor).st_size)
        return np.frombuffer(self._map, np.uint8, size_bytes, offset)

    def lay_out(self, slots: int, slot_bytes: int) -> tuple[int, ...]:
        """Return the offsets of slots for a new pass, beyond every array of earlier ones that is still in use."""
        self._forget_returned()
        self._slot_bytes = _whole_pages(slot_bytes)
        ends = (slot.offset + _whole_pages(slot.size_bytes) for slot in self._lent)
        self._start = self._end = max(ends, default=HEADER_BYTES)
        return tuple(self._add_slot() for _ in range(slots))

    def lend(self, offset: int, shapes: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint8], ...]:
        """Return what stands from ``offset`` on, and remember that somebody has it."""
        slot = self._bytes(offset, sum(map(prod, shapes)))
        # Every view of these bytes holds on to them, so that they live as long as the last of them.
        self._lent.append(_LentSlot(offset, slot.nbytes, weakref.ref(slot)))
        return _divide(slot, shapes)

    def slots_to_fill(self) -> list[int]:
        """Return the offsets of the pass's slots that nobody has any more, and a new one if all but one are kept."""
        lent = self._lent
        self._forget_returned()
        free = [slot.offset for slot in lent if slot not in self._lent and slot.offset >= self._start]
        kept = sum(slot.offset >= self._start for slot in self._lent)
        slots = (self._end - self._start) // self._slot_bytes
        return [*free, self._add_slot()] if kept >= slots - 1 else free

    def trim(self) -> None:
        """Give memory back that one large video needed; nobody may be reading or writing."""
        self._forget_returned()
        if not self._lent and os.fstat(self._descriptor).st_size > KEPT_BYTES:
            self._map = mmap.mmap(self._descriptor, HEADER_BYTES)
            os.ftruncate(self._descriptor, HEADER_BYTES)

    def _add_slot(self) -> int:
        offset, self._end = self._end, self._end + self._slot_bytes
        if self._end > os.fstat(self._descriptor).st_size:
            # Pages that nobody has written to take no memory.
            os.ftruncate(self._descriptor, self._end)
        return offset

    def _forget_returned(self) -> None:
        self._lent = [slot for slot in self._lent if slot.owner() is not None]


@dataclass(frozen=True, slots=True, eq=False)
class _LentSlot:
    offset: int
    size_bytes: int
    owner: weakref.ref[NDArray[np.uint8]]


def _divide(slot: NDArray[np.uint8], shapes: Sequence[Sequence[int]]) -> tuple[NDArray[np.uint8], ...]:
    ends = itertools.accumulate(map(prod, shapes))
    return tuple(slot[end - prod(shape) : end].reshape(shape) for shape, end in zip(shapes, ends, strict=True))


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
