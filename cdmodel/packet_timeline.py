"""When the picture in each packet is shown, from packets alone: nobody need decode it to know.

Packets come in the order of decoding; their pictures are shown in another.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

from cdmodel.frame_clock import FrameClock

DOUBTFUL_START = "the stream starts with pictures before its first keyframe"
MOST_FRAMES_REORDERED = 16
"""H.264 and HEVC allow no more frames between a picture's place in decoding and in showing."""


@dataclass(slots=True, eq=False)
class Picture:
    """What is known of the picture in a packet. It travels with the packet through the decoder, so it must not hold it."""

    is_keyframe: bool
    start_seconds: float | None = None
    """When it appears; known once every picture shown before it has been seen, and never for one that is not shown."""
    wanted: bool | None = None
    """Whether a clip shows it; None as long as nobody can tell."""


class PacketTimeline:
    """Reads the clock for every packet whose picture is shown, in the order of showing.

    No picture is shown before it is decoded (pts >= dts, and dts ascends), so the least stamp is next once dts has reached
    it. Left out is what a decoder would not show: what arrives before the first keyframe, and what the container discards.
    """

    def __init__(self, clock: FrameClock) -> None:
        self._clock = clock
        self._waiting: list[tuple[int, int, int | None, Picture]] = []
        self._numbers = itertools.count()
        self._first_keyframe_pts: int | None = None
        self._started = False
        self._least_pts: int | None = None
        self._latest_pts: int | None = None
        self.last_dts: int | None = None
        """Stamp of decoding of the latest packet that has one."""
        self.delay_ticks = 0
        """How long before it is shown the first keyframe is decoded."""
        self.frames = 0
        """How many pictures have been timed."""
        self.start_seconds = 0.0
        """When the latest of them appears."""
        self.end_seconds = 0.0
        """When it ceases to be shown, were there no other."""
        self.doubt: str | None = None
        """Why the order of showing is not certain; None where it is."""

    def push(self, packet: Packet[VideoStream], picture: Picture) -> list[Picture]:
        """Take the next packet and its picture; return the pictures whose time is known by now, in the order of showing."""
        timed: list[Picture] = []
        dts = packet.dts
        if dts is not None:
            if self.last_dts is not None and dts < self.last_dts:
                # The clock was set back: nothing that waits can come after this.
                timed = self.finish()
                self._latest_pts = None
            self.last_dts = dts
        if not self._is_shown(packet):
            picture.wanted = False
        elif packet.pts is None:
            self.doubt = "a packet has no presentation time"
            timed += self.finish()
            timed.append(self._time(picture, None, packet.duration))
        else:
            heapq.heappush(self._waiting, (packet.pts, next(self._numbers), packet.duration, picture))
        while self._waiting and (
            len(self._waiting) > MOST_FRAMES_REORDERED or (dts is not None and self._waiting[0][0] <= dts)
        ):
            timed.append(self._time_next())
        return timed

    def finish(self) -> list[Picture]:
        """Time whatever still waits for its turn."""
        return [self._time_next() for _ in range(len(self._waiting))]

    def go_on_at(self, keyframe_pts: int) -> None:
        """Forget what waits and take this keyframe's packet to be the next; what is shown before it is not shown at all."""
        self._waiting.clear()
        self.last_dts = None
        self._least_pts = keyframe_pts
        self._latest_pts = None
        self._clock.go_on_at(keyframe_pts)

    def _is_shown(self, packet: Packet[VideoStream]) -> bool:
        if packet.is_keyframe and not self._started:
            self._started = True
            self._first_keyframe_pts = packet.pts
            if packet.pts is not None and packet.dts is not None:
                self.delay_ticks = max(packet.pts - packet.dts, 0)
        if not self._started:
            self.doubt = DOUBTFUL_START
            return False
        if packet.is_discard:
            return False
        return self._least_pts is None or packet.pts is None or packet.pts >= self._least_pts

    def _time_next(self) -> Picture:
        pts, _, duration, picture = heapq.heappop(self._waiting)
        if self._latest_pts is not None and pts <= self._latest_pts:
            self.doubt = "two packets have the same presentation time, or come too late for it"
        elif not self.frames and self._first_keyframe_pts is not None and pts < self._first_keyframe_pts:
            self.doubt = DOUBTFUL_START
        self._latest_pts = pts
        return self._time(picture, pts, duration)

    def _time(self, picture: Picture, pts: int | None, duration: int | None) -> Picture:
        picture.start_seconds = self.start_seconds = self._clock.read(pts, duration)
        self.frames += 1
        self.end_seconds = self.start_seconds + self._clock.frame_seconds
        return picture
