"""From frames in order of time to the pixels of clips.

Holds the clips that are being filled, however long the video is, and converts only the frames some clip shows, in one
step from the decoder's picture to RGB of the wanted size.
T frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from cdmodel.clips import ClipBatch, Pixels
from cdmodel.picture_source import PixelConverter
from cdmodel.sampling import ClipGeometry, ClipSampling, frame_times, has_clip, nominal_span
from cdmodel.types import ClipSpan


@dataclass(slots=True)
class ShownFrame:
    """A decoded frame and the time it appears; it stays until the next one appears."""

    frame: VideoFrame
    start_seconds: float


@dataclass(slots=True)
class OpenClip:
    """A clip that is being filled."""

    index: int
    span: ClipSpan
    times: tuple[float, ...]
    batch_NTCHW: Pixels
    """Where its pixels and those of its neighbours go."""
    row: int
    filled: int = 0

    @property
    def pixels_TCHW(self) -> Any:  # noqa: N802 - a shape
        """Its own part of the batch."""
        return self.batch_NTCHW[self.row]

    def is_whole(self, end_seconds: float) -> bool:
        """Tell whether all its frames are there and the video is known to go on to its end."""
        return self.filled == len(self.times) and self.span.end_seconds <= end_seconds


@dataclass(slots=True)
class ClipAssembler:
    """Hands each frame to the clips that want it. A moment belongs to the last frame that appeared before it."""

    geometry: ClipGeometry
    sampling: ClipSampling
    wanted: frozenset[int] | None
    clips_per_batch: int
    next_index: int = 0
    filling: deque[OpenClip] = field(default_factory=deque)
    frames_used: int = 0
    converter: PixelConverter = field(init=False)
    """To be set before the first frame."""
    _batch_NTCHW: Pixels | None = None
    _rows_taken: int = 0
    _shown: ShownFrame | None = None
    _converted: Any = None
    """The pixels [C, H, W] of the frame on show, in the first clip that shows it."""

    def push(self, shown: ShownFrame) -> Iterator[OpenClip]:
        """Take the next frame; yield the clips that the frame before it completed."""
        if self._shown is not None:
            yield from self._fill_until(shown.start_seconds)
        self._shown = shown
        self._converted = None

    def finish(self, duration_seconds: float) -> Iterator[OpenClip]:
        """Yield what is left at the video's end: clips long enough to count, their last frame repeated."""
        for clip in self._fill_until(duration_seconds):
            yield _cut(clip, duration_seconds)
        while self.filling:
            clip = self.filling.popleft()
            if has_clip(clip.index, duration_seconds, self.sampling):
                while clip.filled < len(clip.times):
                    self._put(clip)
                yield _cut(clip, duration_seconds)

    def _fill_until(self, end_seconds: float) -> Iterator[OpenClip]:
        """Let the frame on show fill every moment before ``end_seconds``; yield the clips that end there or earlier."""
        opened = True
        while opened:
            # One by one: a keyframe may be on show for hours.
            opened = self._open_next(end_seconds)
            for clip in self.filling:
                while clip.filled < len(clip.times) and clip.times[clip.filled] < end_seconds:
                    self._put(clip)
            while self.filling and self.filling[0].is_whole(end_seconds):
                yield self.filling.popleft()

    def _open_next(self, end_seconds: float) -> bool:
        span = nominal_span(self.next_index, self.sampling)
        if span.start_seconds >= end_seconds and self.next_index:
            return False
        if self.wanted is None or self.next_index in self.wanted:
            batch_NTCHW, row = self._take_row()
            self.filling.append(
                OpenClip(
                    index=self.next_index,
                    span=span,
                    times=frame_times(span, self.geometry.frames),
                    batch_NTCHW=batch_NTCHW,
                    row=row,
                )
            )
        self.next_index += 1
        return True

    def _take_row(self) -> tuple[Pixels, int]:
        """Return the next free place for a clip's pixels: neighbours lie side by side, and leave as one batch uncopied."""
        if self._batch_NTCHW is None or self._rows_taken == len(self._batch_NTCHW):
            geometry = self.geometry
            size = (self.clips_per_batch, geometry.frames, 3, geometry.height, geometry.width)
            self._batch_NTCHW, self._rows_taken = self.converter.allocate(size), 0
        self._rows_taken += 1
        return self._batch_NTCHW, self._rows_taken - 1

    def _put(self, clip: OpenClip) -> None:
        assert self._shown is not None
        if self._converted is None:
            self._converted = clip.pixels_TCHW[clip.filled]
            self.converter.convert_into(self._converted, self._shown.frame)
            self.frames_used += 1
        else:
            clip.pixels_TCHW[clip.filled] = self._converted
        clip.filled += 1


def _cut(clip: OpenClip, duration_seconds: float) -> OpenClip:
    end_seconds = min(clip.span.end_seconds, max(duration_seconds, clip.span.start_seconds))
    clip.span = ClipSpan(start_seconds=clip.span.start_seconds, end_seconds=end_seconds)
    return clip


def to_batch(clips: Sequence[OpenClip]) -> ClipBatch:
    """Return filled clips of one video as a batch; without copying their pixels if they lie side by side."""
    first = clips[0]
    if all(clip.batch_NTCHW is first.batch_NTCHW and clip.row == row for row, clip in enumerate(clips, first.row)):
        pixels_NTCHW = first.batch_NTCHW[first.row : first.row + len(clips)]
    else:
        pixels_NTCHW = _stack([clip.pixels_TCHW for clip in clips])
    return ClipBatch(
        clip_indices=tuple(clip.index for clip in clips),
        spans=tuple(clip.span for clip in clips),
        pixels_NTCHW=pixels_NTCHW,
    )


def _stack(pixels: Sequence[Pixels]) -> Pixels:
    if isinstance(pixels[0], np.ndarray):
        return np.stack(cast("Sequence[NDArray[np.uint8]]", pixels))
    import torch  # whoever holds tensors has loaded it

    return torch.stack(cast("list[torch.Tensor]", pixels))
