"""Stretches of time: what a thread was at, and when, kept where somebody asked for it.

Whoever does something that takes time says so with ``stretch``; ``recorded`` listens. Said once per batch of clips and never
per frame, so that it costs next to nothing where nobody listens. Knows neither who asks nor what becomes of the record.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Literal

Track = Literal["driver", "shard", "models", "video", "decoder", "student", "teacher", "commit"]
"""What the stretches are of. ``models`` is loading them, ``decoder`` is waiting for one."""
Facts = dict[str, str | int | float]

WITHIN_VIDEO: tuple[Track, ...] = ("decoder", "student", "teacher")
"""Tracks with a stretch for every batch of a video, however long it is."""
MOST_PER_VIDEO = 16
"""Stretches of each of them that are kept apart; the later ones are joined."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Time in which a thread was at one thing; or several such times, joined from the first's beginning to the last's end."""

    track: Track
    name: str
    began_ns: int
    """Nanoseconds since 1970, by this machine's clock."""
    duration_ns: int
    busy_ns: int
    """Without what lay between those that were joined."""
    joined: int
    """How many it was made of."""
    facts: Facts

    @property
    def ended_ns(self) -> int:
        """As ``began_ns``."""
        return self.began_ns + self.duration_ns


class StretchRecorder:
    """Keeps the stretches of one thread: of a video no more than a bounded number, however long it is."""

    def __init__(self) -> None:
        # Durations are by a clock that nobody sets; when they began is by the clock of the wall, looked at once: a clock
        # that is set meanwhile tears nothing apart.
        self._epoch_ns = time.time_ns() - time.perf_counter_ns()
        self._stretches: list[Stretch] = []
        self._since_video: Counter[Track] = Counter()
        self._latest: dict[Track, int] = {}

    @property
    def stretches(self) -> tuple[Stretch, ...]:
        """What was recorded, in the order in which it ended."""
        return tuple(self._stretches)

    def note(self, track: Track, name: str, began_ns: int, ended_ns: int, facts: Facts | None = None) -> None:
        """Keep a stretch that has ended; its ends are by the clock of ``time.perf_counter_ns``."""
        duration_ns = ended_ns - began_ns
        stretch = Stretch(
            track=track,
            name=name,
            began_ns=self._epoch_ns + began_ns,
            duration_ns=duration_ns,
            busy_ns=duration_ns,
            joined=1,
            facts=facts or {},
        )
        if track in WITHIN_VIDEO:
            self._since_video[track] += 1
        if self._since_video[track] > MOST_PER_VIDEO:
            position = self._latest[track]
            self._stretches[position] = _join(self._stretches[position], stretch)
        else:
            self._latest[track] = len(self._stretches)
            self._stretches.append(stretch)
        if track == "video":
            self._since_video.clear()


def _join(earlier: Stretch, later: Stretch) -> Stretch:
    return replace(
        earlier,
        duration_ns=later.ended_ns - earlier.began_ns,
        busy_ns=earlier.busy_ns + later.busy_ns,
        joined=earlier.joined + later.joined,
    )


_LISTENING: ContextVar[StretchRecorder | None] = ContextVar("stretch_recorder", default=None)


@contextmanager
def recorded() -> Iterator[StretchRecorder]:
    """Listen to the stretches of this thread."""
    recorder = StretchRecorder()
    token = _LISTENING.set(recorder)
    try:
        yield recorder
    finally:
        _LISTENING.reset(token)


def listening_recorder() -> StretchRecorder | None:
    """Return who listens to this thread, for those that have measured already."""
    return _LISTENING.get()


@contextmanager
def stretch(track: Track, name: str) -> Iterator[Facts]:
    """Record the time within, an error's too, where anybody listens; also a decorator. Yields what facts can be put into."""
    recorder = _LISTENING.get()
    facts: Facts = {}
    began_ns = time.perf_counter_ns()
    try:
        yield facts
    finally:
        if recorder is not None:
            recorder.note(track, name, began_ns, time.perf_counter_ns(), facts)
