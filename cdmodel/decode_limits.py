"""What decoding one video may cost before it is given up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cdmodel.setting_groups import FORBID_UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeLimits:
    """What one video may cost before it is given up."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    deadline_seconds: float = 1800.0
    """Wall time spent decoding one video, all passes together."""
    max_frame_pixels: int = 2**26
    """Width times height; 8K is half of the default."""

    def __post_init__(self) -> None:
        if not self.deadline_seconds > 0:
            raise ValueError(f"deadline_seconds must be above 0, got {self.deadline_seconds}")
        if self.max_frame_pixels < 1:
            raise ValueError(f"max_frame_pixels must be at least 1, got {self.max_frame_pixels}")
