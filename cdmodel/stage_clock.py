"""How long a worker's stages were busy, and how close its pace comes to what its busiest part would allow.

Whoever does the work of a model says so with ``stage``; whoever wants to know listens with ``clocked``. What was measured is
also a stretch (``cdmodel.stretches``) where these are recorded, so that both tell the same seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from typing import Literal

from cdmodel.cost import ComputeCost, cpu_seconds
from cdmodel.stretches import listening_recorder

StageName = Literal["student", "teacher"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSeconds:
    """What the stages of one worker took, or of several added up. The empty value is zero."""

    decode: float = 0.0
    """What decoding alone would have taken: CPU seconds of the decoders, by how many can be at work at once."""
    student: float = 0.0
    """Wall time."""
    teacher: float = 0.0
    """Wall time, the audit included."""
    cores: float = 0.0
    """What the worker's cores would have taken at full load: CPU seconds of decoding and models, by the cores."""
    worker: float = 0.0
    """Wall time from the first video's turn until all rows of the shard were there."""

    def __add__(self, other: StageSeconds) -> StageSeconds:
        return StageSeconds(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    @property
    def speed_of_light(self) -> float | None:
        """What the busiest part alone would have taken, by what it took; None where nothing was measured.

        The parts are the decoders, the device of the models, on which student and teacher take turns, and the cores.
        """
        return None if not self.worker else max(self.decode, self.student + self.teacher, self.cores) / self.worker

    @property
    def slowest_stage(self) -> str | None:
        """The stage that alone would have taken longest."""
        stages = {"decode": self.decode, "student": self.student, "teacher": self.teacher}
        return None if not self.worker else max(stages, key=lambda name: stages[name])


def stages_of_shard(
    cost: ComputeCost, clock: StageClock, *, worker_seconds: float, decoders: int, cores: int
) -> StageSeconds:
    """Return what a shard's stages took, from its cost and what was clocked.

    Args:
        cost: of all its videos, in these seconds.
        clock: of its models.
        worker_seconds: from its first video's turn on.
        decoders: how many videos were decoded at once.
        cores: what the worker may use.
    """
    return StageSeconds(
        decode=cost.decode_cpu_seconds / min(decoders, cores),
        student=clock.seconds.get("student", 0.0),
        teacher=clock.seconds.get("teacher", 0.0),
        cores=cpu_seconds(cost) / cores,
        worker=worker_seconds,
    )


@dataclass(slots=True)
class StageClock:
    """Adds up what the stages took while it listens."""

    seconds: dict[StageName, float] = field(default_factory=dict)

    def note(self, name: StageName, seconds: float) -> None:
        """Count a stretch."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


_LISTENING: ContextVar[StageClock | None] = ContextVar("stage_clock", default=None)


@contextmanager
def clocked() -> Iterator[StageClock]:
    """Listen to the stages of this thread."""
    clock = StageClock()
    token = _LISTENING.set(clock)
    try:
        yield clock
    finally:
        _LISTENING.reset(token)


@contextmanager
def stage(name: StageName) -> Iterator[None]:
    """Count the time within as time of this stage, where anybody listens."""
    clock, recorder = _LISTENING.get(), listening_recorder()
    began_ns = time.perf_counter_ns()
    try:
        yield
    finally:
        ended_ns = time.perf_counter_ns()
        if clock is not None:
            clock.note(name, (ended_ns - began_ns) / 1e9)
        if recorder is not None:
            recorder.note(name, name, began_ns, ended_ns)
