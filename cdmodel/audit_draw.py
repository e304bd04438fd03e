"""Which videos the teacher labels densely as well, to check on the cascade: a seeded random share of them.

Knows nothing of runs: whether a video is drawn follows from what it is, so that a retry and a resumed run draw the same
ones, and each night's new videos are sampled without regard to anything that was decided about them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar

from pydantic import StrictFloat, StrictInt

from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.types import VideoRef


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """How many videos the teacher labels densely as well. No part of the fingerprint: it changes no answer."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    share: StrictFloat = 0.01
    """Of the videos, 0 to 1; 0 switches the audit off. A larger share draws the same videos and more."""
    seed: StrictInt = 0
    """Another seed draws other videos."""
    min_videos: StrictInt = 30
    """Below so many audited videos no alarm about them rings: too few to tell."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share must lie between 0 and 1, got {self.share}")
        if self.min_videos < 1:
            raise ValueError(f"min_videos must be at least 1, got {self.min_videos}")


def is_drawn(settings: AuditSettings, video: VideoRef) -> bool:
    """Tell whether a video is audited: with probability ``share``, independently of every other video.

    Another version of a video is another draw. So many bits of the hash decide that shares below 1e-15 still count.
    """
    drawn_from = f"{settings.seed}\0{video.video_id}\0{video.video_version}".encode(errors="surrogatepass")
    place = int.from_bytes(hashlib.sha256(drawn_from).digest()[:8], "big")
    return place < settings.share * 2.0**64
