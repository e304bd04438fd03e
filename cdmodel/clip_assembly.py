"""From frames in order of time to the pixels of clips.

Holds the clips that are being filled, however long the video is, and converts only the frames some clip shows, in one
step from the decoder's picture to RGB of the wanted size.
T frames, C channels, H height, W width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from cdmodel.clips import ClipBatch
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
    pixels_TCHW: NDArray[np.uint8]
    filled: int = 0

    def is_whole(self, end_seconds: float) -> bool:
        """Tell whether all its frames are there and the video is known to go on to its end."""
        return self.filled == len(self.times) and self.span.end_seconds <= end_seconds


@dataclass(slots=True)
class ClipAssembler:
    """Hands each frame to the clips that want it. A moment belongs to the last frame that appeared before it."""

    geometry: ClipGeometry
    sampling: ClipSampling
    wanted: frozenset[int] | None
    next_index: int = 0
    filling: deque[OpenClip] = field(default_factory=deque)
    frames_used: int = 0
    _shown: ShownFrame | None = None
    _converted: NDArray[np.uint8] | None = None
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)

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
            size = (self.geometry.frames, 3, self.geometry.height, self.geometry.width)
            self.filling.append(
                OpenClip(
                    index=self.next_index,
                    span=span,
                    times=frame_times(span, self.geometry.frames),
                    pixels_TCHW=np.empty(size, dtype=np.uint8),
                )
            )
        self.next_index += 1
        return True

    def _put(self, clip: OpenClip) -> None:
        assert self._shown is not None
        if self._converted is None:
            self._converted = _convert(self._shown.frame, self._reformatter, self.geometry)
            self.frames_used += 1
        clip.pixels_TCHW[clip.filled] = self._converted
        clip.filled += 1


def _convert(frame: VideoFrame, reformatter: VideoReformatter, geometry: ClipGeometry) -> NDArray[np.uint8]:
    """Return the whole picture, upright, as RGB uint8 [C, H, W] of the wanted size.

    Planar ``gbrp`` with bilinear scaling is the most accurate and the fastest of libswscale's one-step paths.
    """
    quarter_turns = _quarter_turns(frame)
    height, width = geometry.height, geometry.width
    if quarter_turns % 2:
        height, width = width, height
    interpolation = Interpolation.BILINEAR
    if (frame.width, frame.height) == (width, height):
        # Where nothing is scaled, libswscale's fast path leaves up to eight columns unwritten at some widths.
        interpolation |= Interpolation.ACCURATE_RND
    scaled = reformatter.reformat(frame, width, height, format="gbrp", interpolation=interpolation)
    green, blue, red = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, :width]
        for plane in scaled.planes
    )
    return np.rot90(np.stack((red, green, blue)), quarter_turns, axes=(1, 2))


def _quarter_turns(frame: VideoFrame) -> int:
    """Return how often to turn the coded picture counter-clockwise by 90 degrees; odd angles are left alone."""
    turns, rest = divmod(frame.rotation, 90)
    return 0 if rest or abs(frame.rotation) > 360 else turns % 4


def _cut(clip: OpenClip, duration_seconds: float) -> OpenClip:
    end_seconds = min(clip.span.end_seconds, max(duration_seconds, clip.span.start_seconds))
    clip.span = ClipSpan(start_seconds=clip.span.start_seconds, end_seconds=end_seconds)
    return clip


def to_batch(clips: Sequence[OpenClip]) -> ClipBatch:
    """Return filled clips of one video as a batch."""
    return ClipBatch(
        clip_indices=tuple(clip.index for clip in clips),
        spans=tuple(clip.span for clip in clips),
        pixels_NTCHW=np.stack([clip.pixels_TCHW for clip in clips]),
    )
