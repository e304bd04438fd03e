"""What decoding one video may cost before it is given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from cdmodel.setting_groups import FORBID_UNKNOWN

DecodeDevice = Literal["cpu", "cuda", "auto"]
LEAST_MEMORY_BYTES = 2**28
"""A decoder that holds no video has allocated about a third of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one video may cost before it is given up."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    deadline_seconds: float = 1800.0
    """Wall time spent decoding one video, all passes together."""
    stall_seconds: float = 120.0
    """Longest time without a sign of progress: a packet, or an answer of the store. Only where decoding is isolated."""
    max_frame_pixels: int = 2**26
    """Width times height; 8K is half of the default."""
    max_memory_bytes: int = 2**32
    """What the decoder may allocate for one video. A picture of 2^26 pixels (4:2:0, 10 bits) takes 201 MB and a decoder may have
    to hold 17 of them, 3.4 GB in all. Only where decoding is isolated, on Linux."""
    isolated: bool = True
    """Decode in a process of its own, so that a decoder that hangs, crashes or grows costs one row; false decodes in the
    worker, where such a video costs the shard."""
    device: DecodeDevice = "cpu"
    """Where pictures are decoded. ``auto`` takes a worker's GPU for the videos for which it is thought to be worthwhile, ``cuda``
    for all that it can decode; the CPU takes the rest. Unproven, and not isolated: see docs/decoding.md."""

    def __post_init__(self) -> None:
        for name in ("deadline_seconds", "stall_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")
        if self.device not in get_args(DecodeDevice):
            raise ValueError(f"device must be one of {', '.join(get_args(DecodeDevice))}, got {self.device}")
        if self.max_frame_pixels < 1:
            raise ValueError(f"max_frame_pixels must be at least 1, got {self.max_frame_pixels}")
        if self.max_memory_bytes < LEAST_MEMORY_BYTES:
            raise ValueError(f"max_memory_bytes must be at least {LEAST_MEMORY_BYTES}, got {self.max_memory_bytes}")
