"""Whether student and teacher see a video in one pass over it, or in two.

Two passes decode for the teacher what it is asked about; one decodes for it whatever it might be asked about, but no frame
twice. What pays depends on the share of clips that the policy escalates, which the videos before tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdmodel.clips import ClipBatch

CROSSOVER_SHARE = 0.3
"""Measured by ``benchmarks/bench_passes.py``: with a keyframe every 48 frames; 0.1 with one every 250."""
MEMORY_OF_VIDEOS = 8
"""About as many videos weigh in the expectation."""
MOST_KEPT_BYTES = 2**28
"""A video whose clips take more in the teacher's size is read in two passes after all: memory must not grow with it."""


class PassChooser:
    """Expects of the next video what recent ones of the run were like. Decides about cost alone, never about answers."""

    def __init__(self) -> None:
        self._expected_share = 0.0

    @property
    def prefers_one_pass(self) -> bool:
        """Whether so many clips are likely to be escalated that one pass costs less."""
        return self._expected_share > CROSSOVER_SHARE

    def settle(self) -> SettledPasses:
        """Return the choice for the next video, made now."""
        return SettledPasses(self.prefers_one_pass, self)

    def learn(self, clips: int, escalated_clips: int) -> None:
        """Take note of a video that was labeled."""
        share = escalated_clips / clips if clips else 0.0
        self._expected_share += (share - self._expected_share) / MEMORY_OF_VIDEOS


@dataclass(frozen=True, slots=True)
class SettledPasses:
    """What was expected of one video when its decoder was started, whatever has been learned since."""

    prefers_one_pass: bool
    chooser: PassChooser

    def learn(self, clips: int, escalated_clips: int) -> None:
        """Take note of the video once it is labeled."""
        self.chooser.learn(clips, escalated_clips)


class KeptClips:
    """The teacher's clips of one video, kept until it is known which of them are asked about."""

    def __init__(self) -> None:
        self._batches: list[ClipBatch] | None = []
        self._bytes = 0

    def keep(self, batch: ClipBatch) -> None:
        """Keep a batch; or let go of all, where they become too many."""
        self._bytes += batch.pixels_NTCHW.nbytes
        if self._bytes > MOST_KEPT_BYTES:
            self._batches = None
        if self._batches is not None:
            self._batches.append(batch)

    def select(self, wanted: list[int], clips_per_batch: int = 16) -> list[ClipBatch] | None:
        """Return the wanted clips in the batches that a pass for them alone would give; None where they were not kept."""
        if self._batches is None:
            return None
        of_clip: dict[int, tuple[ClipBatch, int]] = {
            index: (batch, row) for batch in self._batches for row, index in enumerate(batch.clip_indices)
        }
        found = [of_clip[index] for index in wanted if index in of_clip]
        return [_gather(found[start : start + clips_per_batch]) for start in range(0, len(found), clips_per_batch)]


def _gather(clips: list[tuple[ClipBatch, int]]) -> ClipBatch:
    pixels_NTCHW: NDArray[np.uint8] = np.stack([batch.pixels_NTCHW[row] for batch, row in clips])
    return ClipBatch(
        clip_indices=tuple(batch.clip_indices[row] for batch, row in clips),
        spans=tuple(batch.spans[row] for batch, row in clips),
        pixels_NTCHW=pixels_NTCHW,
    )
