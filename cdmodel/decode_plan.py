"""What a pass over a video may leave out, and what is said when that was too much."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Reliance = Literal["jumps", "skips", "stamps"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFreedom:
    """What passes over one video may rely on to save work. Only ever shrinks."""

    jumps: bool = True
    """The container's index leads where it says: stretches of the file are left out."""
    skips: bool = True
    """The decoder gives what it is fed: pictures that nobody wants are left out. Without, every good frame is shown."""
    stamps: bool = True
    """Packets tell when their pictures are shown. Without, only decoded frames do, and all are decoded."""

    def without(self, lost: Reliance) -> PlanFreedom:
        """Return what is left when this cannot be relied on; each rests on those after it."""
        match lost:
            case "jumps":
                return replace(self, jumps=False)
            case "skips":
                return replace(self, jumps=False, skips=False)
            case "stamps":
                return PlanFreedom(jumps=False, skips=False, stamps=False)


class PlanBroken(Exception):
    """The pass cannot vouch for its frames from here on. What it has shown so far is good."""

    def __init__(self, reason: str, *, lost: Reliance) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lost = lost
        """What no pass over this video may rely on any more."""
