"""What a network took to answer, in the seconds that a video is charged."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Generic, TypeVar

Answers = TypeVar("Answers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Metered(Generic[Answers]):
    """Answers of a network to some clips, with what they took."""

    answers: Answers
    seconds: float
    gpu_seconds: float
    """Among them; 0 on the CPU."""


class DeviceMeter:
    """Measures the time spent in a network.

    On a GPU wall time, which is device time, since scoring blocks until the device is done. On the CPU the CPU time of all
    threads of the process, like that of decoding: beside other programs wall time would make the dearer model look dearer.
    """

    def __init__(self, *, on_gpu: bool) -> None:
        self._on_gpu = on_gpu
        self._clock = time.perf_counter if on_gpu else time.process_time
        self.seconds = 0.0

    def __enter__(self) -> DeviceMeter:
        self._started = self._clock()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds += self._clock() - self._started

    def of(self, answers: Answers) -> Metered[Answers]:
        """Return the answers with what was measured."""
        return Metered(answers=answers, seconds=self.seconds, gpu_seconds=self.seconds if self._on_gpu else 0.0)
