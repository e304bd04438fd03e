"""Pixels of clips on their way from the decoder to a model.

N clips, T frames, C channels, H height, W width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdmodel.types import ClipSpan


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipBatch:
    """Some clips of one video, in order of time."""

    clip_indices: tuple[int, ...]
    """Position of each clip in its video (N)."""
    spans: tuple[ClipSpan, ...]
    """Where each clip lies, cut at the video's end (N)."""
    pixels_NTCHW: NDArray[np.uint8]
    """RGB, 0 to 255."""

    def __post_init__(self) -> None:
        clips = self.pixels_NTCHW.shape[0]
        if not len(self.clip_indices) == len(self.spans) == clips:
            raise ValueError(
                f"{len(self.clip_indices)} indices, {len(self.spans)} spans and {clips} clips of pixels do not agree"
            )
        if self.pixels_NTCHW.dtype != np.uint8 or self.pixels_NTCHW.ndim != 5:
            raise ValueError(
                f"pixels must be uint8 [N, T, C, H, W], got {self.pixels_NTCHW.dtype} {self.pixels_NTCHW.shape}"
            )

    def __repr__(self) -> str:
        return f"ClipBatch(clips={self.clip_indices}, pixels_NTCHW={self.pixels_NTCHW.shape})"
