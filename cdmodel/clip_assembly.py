"""From frames in order of time to the pixels of clips.

Holds the clips that are being filled, however long the video is, and converts only the frames some clip shows, in one
step from the decoder's picture to RGB of the wanted size.
T frames, C channels, H height, W width.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

from cdmodel.clips import ClipBatch
from cdmodel.sampling import ClipGeometry, ClipSampling, frame_times, has_clip, nominal_span
from cdmodel.types import ClipSpan

# Tags of ITU-T H.273, MatrixCoefficients: RGB, BT.709, none, FCC, BT.470BG, SMPTE 170M and 240M, BT.2020.
_KNOWN_TAGS = frozenset((0, 1, 2, 4, 5, 6, 7, 9))
_BT2020_CONSTANT_LUMINANCE = 10
# libswscale takes every grey picture for one of full range.
_LIMITED_TO_FULL = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


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
    batch_NTCHW: NDArray[np.uint8]
    """Where its pixels and those of its neighbours go."""
    row: int
    filled: int = 0

    @property
    def pixels_TCHW(self) -> NDArray[np.uint8]:  # noqa: N802 - a shape
        """Its own part of the batch."""
        pixels_TCHW: NDArray[np.uint8] = self.batch_NTCHW[self.row]
        return pixels_TCHW

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
    _batch_NTCHW: NDArray[np.uint8] | None = None
    _rows_taken: int = 0
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

    def _take_row(self) -> tuple[NDArray[np.uint8], int]:
        """Return the next free place for a clip's pixels: neighbours lie side by side, and leave as one batch uncopied."""
        if self._batch_NTCHW is None or self._rows_taken == len(self._batch_NTCHW):
            geometry = self.geometry
            size = (self.clips_per_batch, geometry.frames, 3, geometry.height, geometry.width)
            self._batch_NTCHW, self._rows_taken = np.empty(size, dtype=np.uint8), 0
        self._rows_taken += 1
        return self._batch_NTCHW, self._rows_taken - 1

    def _put(self, clip: OpenClip) -> None:
        assert self._shown is not None
        if self._converted is None:
            self._converted = _convert(self._shown.frame, self._reformatter, self.geometry)
            self.frames_used += 1
        clip.pixels_TCHW[clip.filled] = self._converted
        clip.filled += 1


def _convert(frame: VideoFrame, reformatter: VideoReformatter, geometry: ClipGeometry) -> NDArray[np.uint8]:
    """Return the whole picture, upright, as RGB uint8 [C, H, W] of the wanted size.

    The frame's own matrix and range count; untagged means BT.601 and limited, or full where the pixel format says so.
    Whether its pixels are square does not matter, since the whole picture is scaled to the model's size. Two fields of
    an interlaced frame are taken as the decoder wove them.

    Planar ``gbrp`` with bilinear scaling is the most accurate and the fastest of libswscale's one-step paths. One
    thread: a worker has one core, and the result must not depend on how many there are.
    """
    quarter_turns, mirrored = _orientation(frame)
    height, width = geometry.height, geometry.width
    if quarter_turns % 2:
        height, width = width, height
    interpolation = Interpolation.BILINEAR
    if (frame.width, frame.height) == (width, height):
        # Where nothing is scaled, libswscale's fast path leaves up to eight columns unwritten at some widths.
        interpolation |= Interpolation.ACCURATE_RND
    matrix = _known_matrix(frame.colorspace)
    scaled = reformatter.reformat(
        _weave(frame) if frame.interlaced_frame else frame,
        width,
        height,
        format="gbrp",
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=interpolation,
        threads=1,
    )
    green, blue, red = (_rows(plane)[:height, :width] for plane in scaled.planes)
    pixels_CHW = np.stack((red, green, blue))
    if frame.color_range == ColorRange.MPEG and frame.format.name.startswith("gray"):
        pixels_CHW = _LIMITED_TO_FULL[pixels_CHW]
    upright_CHW = np.rot90(pixels_CHW, quarter_turns, axes=(1, 2))
    return upright_CHW[..., ::-1] if mirrored else upright_CHW


def _orientation(frame: VideoFrame) -> tuple[int, bool]:
    """Return how often to turn the coded picture counter-clockwise by 90 degrees, and whether to mirror it thereafter.

    From the display matrix, which maps x to ``a x + c y`` and y to ``b x + d y``; odd angles are left alone.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # PyAV knows not every kind of side data; it then still tells the angle, as if nothing were mirrored.
        turns, rest = divmod(frame.rotation, 90)
        return (0, False) if rest else (turns % 4, False)
    if matrix is None:
        return 0, False
    a, b, _, c, d = np.frombuffer(bytes(cast(SideData, matrix)), np.int32)[:5].tolist()
    mirrored = a * d < b * c
    turns, rest = divmod(round(math.degrees(math.atan2(-b, -a if mirrored else a))), 90)
    return (0, False) if rest else (turns % 4, mirrored)


def _known_matrix(tag: int) -> int | None:
    """Return libswscale's number of a matrix that it would refuse by its tag; None where it takes the tag as it is."""
    if tag in _KNOWN_TAGS:
        return None
    return Colorspace.BT2020 if tag == _BT2020_CONSTANT_LUMINANCE else Colorspace.DEFAULT


def _weave(frame: VideoFrame) -> VideoFrame:
    """Return a copy that is not marked as interlaced.

    By that mark libswscale would scale each field alone, and every other row of the small picture would be of another
    moment.
    """
    woven = VideoFrame(frame.width, frame.height, frame.format.name)
    woven.colorspace, woven.color_range = frame.colorspace, frame.color_range
    for source, target in zip(frame.planes, woven.planes, strict=True):
        columns = min(source.line_size, target.line_size)
        _rows(target)[:, :columns] = _rows(source)[:, :columns]
    return woven


def _rows(plane: VideoPlane) -> NDArray[np.uint8]:
    """Return a plane's bytes by row, the padding at the end of each included."""
    return np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)


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
        pixels_NTCHW = np.stack([clip.pixels_TCHW for clip in clips])
    return ClipBatch(
        clip_indices=tuple(clip.index for clip in clips),
        spans=tuple(clip.span for clip in clips),
        pixels_NTCHW=pixels_NTCHW,
    )
