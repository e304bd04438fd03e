"""From a decoder's picture to the pixels a model sees, in one step.

C channels, H height, W width.
"""

from __future__ import annotations

import math
from typing import cast

import numpy as np
from av.sidedata.sidedata import SideData
from av.video.frame import VideoFrame
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter
from numpy.typing import NDArray

# Tags of ITU-T H.273, MatrixCoefficients: RGB, BT.709, none, FCC, BT.470BG, SMPTE 170M and 240M, BT.2020.
_KNOWN_TAGS = frozenset((0, 1, 2, 4, 5, 6, 7, 9))
_BT2020_CONSTANT_LUMINANCE = 10
# libswscale takes every grey picture for one of full range.
_LIMITED_TO_FULL = np.clip(np.rint((np.arange(256) - 16) * (255 / 219)), 0, 255).astype(np.uint8)


class PictureConverter:
    """Scales the pictures of one stream, which may change their size, format and colours as they like."""

    def __init__(self, height: int, width: int) -> None:
        self._height = height
        self._width = width
        self._reformatter = VideoReformatter()
        self._orientations = Orientations()

    def allocate(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """Return memory for pixels, with anything in it."""
        return np.empty(shape, dtype=np.uint8)

    def convert_into(self, pixels_CHW: NDArray[np.uint8], frame: VideoFrame) -> None:
        """Write the whole picture, upright, as RGB of the wanted size.

        The frame's own matrix and range count; untagged means BT.601 and limited, or full where the pixel format says so.
        Whether its pixels are square does not matter, since the whole picture is scaled to the model's size. Two fields of
        an interlaced frame are taken as the decoder wove them.

        Planar ``gbrp`` with bilinear scaling is the most accurate and the fastest of libswscale's one-step paths. One
        thread: a worker has one core, and the result must not depend on how many there are.
        """
        quarter_turns, mirrored = self._orientations.read(frame)
        height, width = self._height, self._width
        if quarter_turns % 2:
            height, width = width, height
        interpolation = Interpolation.BILINEAR
        if (frame.width, frame.height) == (width, height):
            # Where nothing is scaled, libswscale's fast path leaves up to eight columns unwritten at some widths.
            interpolation |= Interpolation.ACCURATE_RND
        matrix = _known_matrix(frame.colorspace)
        scaled = self._reformatter.reformat(
            _weave(frame) if frame.interlaced_frame else frame,
            width,
            height,
            format="gbrp",
            src_colorspace=matrix,
            dst_colorspace=matrix,
            interpolation=interpolation,
            threads=1,
        )
        limited_grey = frame.color_range == ColorRange.MPEG and frame.format.name.startswith("gray")
        for plane, pixels_HW in zip(scaled.planes, (pixels_CHW[1], pixels_CHW[2], pixels_CHW[0]), strict=True):
            rows_HW = _rows(plane)[:height, :width]
            if limited_grey:
                rows_HW = _LIMITED_TO_FULL[rows_HW]
            if quarter_turns:
                rows_HW = np.rot90(rows_HW, quarter_turns)
            pixels_HW[:] = rows_HW[:, ::-1] if mirrored else rows_HW


class Orientations:
    """How the coded pictures of one stream must be turned to be upright."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, bool]] = {}

    def read(self, frame: VideoFrame) -> tuple[int, bool]:
        """Return how often to turn the coded picture counter-clockwise by 90 degrees, and whether to mirror it thereafter.

        Read once per angle: looking at a frame's side data ties the frame into a cycle, and a frame is megabytes.
        """
        if frame.rotation not in self._known:
            self._known[frame.rotation] = _read_orientation(frame)
        return self._known[frame.rotation]


def _read_orientation(frame: VideoFrame) -> tuple[int, bool]:
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
