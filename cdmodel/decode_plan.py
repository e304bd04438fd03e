"""What a pass over a video may leave out, and what is said when that was too much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Reliance = Literal["index", "packets"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFreedom:
    """What passes over one video may rely on to save work. Only ever shrinks."""

    index: bool = True
    """The container's index leads where it says: stretches of the file are jumped over."""
    packets: bool = True
    """Packets tell when their pictures are shown, and the decoder gives what it is fed: pictures that nobody wants are left
    out. Without, everything is decoded from the start, and frames are timed as they come."""

    def without(self, lost: Reliance) -> PlanFreedom:
        """Return what is left when this cannot be relied on."""
        return PlanFreedom(index=False, packets=self.packets and lost != "packets")


class PlanBroken(Exception):
    """The pass cannot vouch for its frames from here on. What it has shown so far is good."""

    def __init__(self, reason: str, *, lost: Reliance) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lost = lost
        """What no pass over this video may rely on any more."""


class GpuLost(Exception):
    """The GPU does not decode this video, or not further; the clips it has given are good."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
