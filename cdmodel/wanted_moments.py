"""The moments of a video that its wanted clips show, one after another, however long the video turns out to be."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Collection, Iterator, Sequence

from cdmodel.sampling import ClipGeometry, ClipSampling, frame_times, has_clip, nominal_span


class WantedMoments:
    """A cursor over the moments, ascending. Holds those of the clips that lie at the cursor, which may overlap.

    Args:
        geometry: how many moments of a clip are shown.
        sampling: where clips lie.
        wanted: indices of clips; None means all.
        first_index: clips before this one are not wanted.
    """

    def __init__(
        self, geometry: ClipGeometry, sampling: ClipSampling, wanted: Collection[int] | None, first_index: int = 0
    ) -> None:
        self._frames = geometry.frames
        self._sampling = sampling
        self._indices: Iterator[int] = (
            itertools.count(first_index)
            if wanted is None
            else iter(sorted(index for index in wanted if index >= first_index))
        )
        self._waiting: list[tuple[float, int, Iterator[float], float]] = []
        self._upcoming = next(self._indices, None)
        self.reach_seconds = 0.0
        """End of the last clip one of whose moments was taken: its span is cut if the video ends before."""
        self.next_seconds = math.inf
        """The moment at the cursor; infinite where none is left."""
        self._look_ahead()

    def take_until(self, end_seconds: float) -> bool:
        """Move the cursor to ``end_seconds``; tell whether any moment lay before."""
        if self.next_seconds >= end_seconds:
            return False
        while self.next_seconds < end_seconds:
            _, index, times, end_of_clip_seconds = self._waiting[0]
            self.reach_seconds = max(self.reach_seconds, end_of_clip_seconds)
            following = next(times, None)
            if following is None:
                heapq.heappop(self._waiting)
            else:
                heapq.heapreplace(self._waiting, (following, index, times, end_of_clip_seconds))
            self._look_ahead()
        return True

    def is_any_left(self, duration_seconds: float) -> bool:
        """Tell whether a clip that a video of this length has still waits for a moment, which its last frame then shows."""
        indices = [index for _, index, _, _ in self._waiting]
        if self._upcoming is not None:
            indices.append(self._upcoming)
        return any(has_clip(index, duration_seconds, self._sampling) for index in indices)

    def _look_ahead(self) -> None:
        while self._upcoming is not None:
            span = nominal_span(self._upcoming, self._sampling)
            if self._waiting and span.start_seconds > self._waiting[0][0]:
                break
            times = iter(frame_times(span, self._frames))
            heapq.heappush(self._waiting, (next(times), self._upcoming, times, span.end_seconds))
            self._upcoming = next(self._indices, None)
        self.next_seconds = self._waiting[0][0] if self._waiting else math.inf


class JoinedMoments:
    """The moments of several views of the same clips."""

    def __init__(self, parts: Sequence[WantedMoments]) -> None:
        self._parts = parts

    @property
    def next_seconds(self) -> float:
        """The first moment at the cursor."""
        return min(part.next_seconds for part in self._parts)

    @property
    def reach_seconds(self) -> float:
        """End of the last clip one of whose moments was taken."""
        return max(part.reach_seconds for part in self._parts)

    def take_until(self, end_seconds: float) -> bool:
        """Move the cursor; tell whether any view had a moment before."""
        taken = [part.take_until(end_seconds) for part in self._parts]
        return any(taken)

    def is_any_left(self, duration_seconds: float) -> bool:
        """Tell whether a clip of any view still waits for a moment."""
        return any(part.is_any_left(duration_seconds) for part in self._parts)


def join_moments(parts: Sequence[WantedMoments]) -> WantedMoments | JoinedMoments:
    """Return the moments that any part wants."""
    return parts[0] if len(parts) == 1 else JoinedMoments(parts)
