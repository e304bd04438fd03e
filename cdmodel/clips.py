"""Pixels of clips on their way from the decoder to a model.

N clips, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cdmodel.decode_survey import DecodeSummary
from cdmodel.sampling import ClipGeometry
from cdmodel.types import ClipSpan

if TYPE_CHECKING:
    from torch import Tensor

Pixels: TypeAlias = "NDArray[np.uint8] | Tensor"
"""In the memory of this machine, or in that of the GPU that decoded them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipBatch:
    """Some clips of one video, in order of time."""

    clip_indices: tuple[int, ...]
    """Position of each clip in its video (N)."""
    spans: tuple[ClipSpan, ...]
    """Where each clip lies, cut at the video's end (N)."""
    pixels_NTCHW: Pixels
    """RGB, 0 to 255."""

    def __post_init__(self) -> None:
        clips = self.pixels_NTCHW.shape[0]
        if not len(self.clip_indices) == len(self.spans) == clips:
            raise ValueError(
                f"{len(self.clip_indices)} indices, {len(self.spans)} spans and {clips} clips of pixels do not agree"
            )
        if str(self.pixels_NTCHW.dtype).removeprefix("torch.") != "uint8" or self.pixels_NTCHW.ndim != 5:
            raise ValueError(
                f"pixels must be uint8 [N, T, C, H, W], got {self.pixels_NTCHW.dtype} {self.pixels_NTCHW.shape}"
            )

    def to_host(self) -> NDArray[np.uint8]:
        """Return the pixels as an array: themselves, or a copy where they are on a GPU."""
        if isinstance(self.pixels_NTCHW, np.ndarray):
            return self.pixels_NTCHW
        return np.asarray(self.pixels_NTCHW.cpu().numpy())

    def after(self, clip_index: int) -> ClipBatch | None:
        """Return the part that lies behind a clip; None where nothing does."""
        first = bisect_right(self.clip_indices, clip_index)
        if first == 0:
            return self
        if first == len(self.clip_indices):
            return None
        return ClipBatch(
            clip_indices=self.clip_indices[first:],
            spans=self.spans[first:],
            pixels_NTCHW=self.pixels_NTCHW[first:],
        )

    def __repr__(self) -> str:
        return f"ClipBatch(clips={self.clip_indices}, pixels_NTCHW={self.pixels_NTCHW.shape})"


class ClipSource(Protocol):
    """Where the clips of one video come from: decoded in this process, or in a child that may be killed."""

    def read_clips(
        self, geometry: ClipGeometry, wanted: Collection[int] | None = None, clips_per_batch: int = 16
    ) -> Iterator[ClipBatch]:
        """Yield the clips in order of time; all of them, or those whose index is wanted.

        Raises:
            VideoError: the video cannot be read, or not further.
        """

    def read_views(
        self, geometries: Sequence[ClipGeometry], clips_per_batch: int = 16
    ) -> Iterator[tuple[ClipBatch, ...]]:
        """Yield all clips in order of time, each in every one of the geometries, from one pass.

        Raises:
            ValueError: one of several geometries shows keyframes only.
            VideoError: as ``read_clips``.
        """

    def count_clips(self) -> int:
        """Return how many clips the video has, at least one.

        Raises:
            VideoError: as ``read_clips``.
        """

    def summary(self) -> DecodeSummary:
        """Return what is known of the video so far, and what it took. Never raises."""
