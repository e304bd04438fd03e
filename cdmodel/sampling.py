"""Where the clips of a video lie, in seconds, and which moments of a clip a model sees.

Pure arithmetic. Time zero is the first frame of the video. A video's length is only known at its end (headers lie),
so clips are laid out one after another while frames arrive; ``has_clip`` decides at the end which tail still counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.types import ClipSpan

MIN_TAIL_SHARE = 0.5
"""A last clip counts if at least this share of it lies inside the video."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSampling:
    """How clips are laid over a video."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    clip_seconds: float = 1.0
    """Length of one clip."""
    stride_seconds: float = 1.0
    """From the start of one clip to the start of the next; smaller than ``clip_seconds`` means overlap."""

    def __post_init__(self) -> None:
        if not 0 < self.clip_seconds <= 3600:
            raise ValueError(f"clip_seconds must be above 0 and at most 3600, got {self.clip_seconds}")
        if not 0 < self.stride_seconds <= 3600:
            raise ValueError(f"stride_seconds must be above 0 and at most 3600, got {self.stride_seconds}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipGeometry:
    """What one model sees of a clip: T frames of H x W pixels, the whole picture scaled to that size."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    frames: int
    height: int
    width: int
    keyframes_only: bool = False
    """Show each moment the latest keyframe, and decode no other picture: cheap, and blind to motion."""

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"frames, height and width must be at least 1, got {self}")


def nominal_span(clip_index: int, sampling: ClipSampling) -> ClipSpan:
    """Return where clip ``clip_index`` lies, were the video endless."""
    start_seconds = clip_index * sampling.stride_seconds
    return ClipSpan(start_seconds=start_seconds, end_seconds=start_seconds + sampling.clip_seconds)


def has_clip(clip_index: int, duration_seconds: float, sampling: ClipSampling) -> bool:
    """Tell whether a video of this length has clip ``clip_index``: the first always, a later one if half of it fits."""
    if clip_index == 0:
        return True
    inside_seconds = duration_seconds - clip_index * sampling.stride_seconds
    # The tolerance keeps a video of exactly n and a half clips stable against rounding of timestamps.
    return inside_seconds + 1e-6 >= MIN_TAIL_SHARE * sampling.clip_seconds


def count_clips(duration_seconds: float, sampling: ClipSampling) -> int:
    """Return how many clips a video of this length has, at least one."""
    count = max(int(duration_seconds // sampling.stride_seconds), 1)
    while has_clip(count, duration_seconds, sampling):
        count += 1
    while not has_clip(count - 1, duration_seconds, sampling):
        count -= 1
    return count


def frame_times(span: ClipSpan, frames: int) -> tuple[float, ...]:
    """Return the moments a model sees: the middles of ``frames`` equal parts of the span, in seconds, ascending."""
    part_seconds = (span.end_seconds - span.start_seconds) / frames
    return tuple(span.start_seconds + (index + 0.5) * part_seconds for index in range(frames))
