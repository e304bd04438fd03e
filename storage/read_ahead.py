"""How much of a remote file the next request takes: a decision about numbers, made without fetching anything.

The prices behind the sizes: a request costs about 30 ms, a byte 1/100,000,000 s, so a request is worth 3 MB. Measured by
``benchmarks/bench_remote_reads.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadAhead:
    """How far to read ahead, and how much to keep."""

    first_bytes: int = MIB
    """Taken after a jump. A few groups of pictures of a common video."""
    before_bytes: int = MIB // 8
    """Taken besides, from before the place that was jumped to: transport streams are searched backwards in small steps."""
    most_bytes: int = 16 * MIB
    """Taken at most: each request of an unbroken run takes twice what the one before took, up to this."""
    whole_file_bytes: int = 32 * MIB
    """A file up to this size comes whole with its first byte: cheaper than any reading in ranges but the briefest look."""
    kept_bytes: int = 64 * MIB
    """Held in memory per open file, whatever the file's size; the longest unused goes first."""

    def __post_init__(self) -> None:
        if not 0 < self.first_bytes <= self.most_bytes:
            raise ValueError("first_bytes must be positive and at most most_bytes")
        if self.before_bytes < 0:
            raise ValueError("before_bytes must not be negative")
        if max(self.whole_file_bytes, self.most_request_bytes) > self.kept_bytes:
            raise ValueError("kept_bytes must hold a whole file and the longest request")

    @property
    def most_request_bytes(self) -> int:
        """Return the size that no request exceeds, unless a file comes whole."""
        return self.before_bytes + self.most_bytes + self.first_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hole:
    """Bytes between two kept ranges, or a kept range and an end of the file; half-open."""

    start: int
    end: int
    read_ahead_bytes: int
    """What was read ahead by the request for the range before the hole; 0 where nothing is kept before it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedFetch:
    """One request; half-open."""

    start: int
    end: int
    read_ahead_bytes: int
    """What was allowed: the next request of an unbroken run doubles it, even where this one met an end early."""


def plan_fetch(start: int, end: int, hole: Hole, file_bytes: int, settings: ReadAhead) -> PlannedFetch:
    """Return the request for the missing bytes from ``start`` on.

    It never overlaps what is kept and always holds ``start``, but may end before ``end``: ask again for the rest.

    Args:
        start: first byte wanted; inside the hole.
        end: end of what is wanted, after ``start``.
        hole: what is missing around ``start``.
        file_bytes: size of the file.
        settings: the sizes.
    """
    if file_bytes <= settings.whole_file_bytes:
        return PlannedFetch(start=0, end=file_bytes, read_ahead_bytes=file_bytes)
    # A reader that steps over a little (the packets of a stream nobody asked for) still runs forward.
    goes_on = hole.read_ahead_bytes > 0 and start - hole.start <= settings.first_bytes
    read_ahead = min(2 * hole.read_ahead_bytes, settings.most_bytes) if goes_on else settings.first_bytes
    first = start if goes_on else max(start - settings.before_bytes, hole.start)
    stop = min(start + max(read_ahead, min(end - start, settings.most_bytes)), hole.end)
    if hole.end - stop <= settings.first_bytes:
        # The rest of a hole costs less than a request of its own.
        stop = hole.end
    return PlannedFetch(start=first, end=stop, read_ahead_bytes=read_ahead)
