"""When each frame of a video is shown: the container's timestamps, made to run forward where they jump.

``FrameClock`` reads the stamps of frames in the order they are shown in; ``PacketTimeline`` reads those of packets, which
come in the order of decoding, and so times frames that nobody decodes.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

FALLBACK_FRAME_SECONDS = 1 / 25
LONGEST_GAP_SECONDS = 60.0
"""A longer step between two frames is a broken clock, not a still picture."""
LONGEST_BACKSTEP_SECONDS = 1.0
"""A smaller step back is a frame shown out of order, a larger one a clock that was set back."""
MOST_FRAMES_REORDERED = 16
"""H.264 and HEVC allow no more frames between a picture's place in decoding and in showing."""


class FrameClock:
    """Turns the container's timestamps into seconds since the first frame that never run backwards."""

    def __init__(self, time_base_seconds: float, nominal_frame_seconds: float) -> None:
        self._time_base_seconds = time_base_seconds
        self._shift_seconds: float | None = None
        self._last_seconds = 0.0
        self.frame_seconds = nominal_frame_seconds
        """How long the latest frame is shown, as far as known."""

    def read(self, pts: int | None, duration: int | None) -> float:
        """Return when the next frame is shown; both stamps in ticks of the stream's time base."""
        expected_seconds = self._last_seconds + self.frame_seconds
        stamp_seconds = None if pts is None else pts * self._time_base_seconds
        if self._shift_seconds is None:
            self._shift_seconds = -(stamp_seconds or 0.0)
            seconds = 0.0
        elif stamp_seconds is None:
            seconds = expected_seconds
        else:
            seconds = stamp_seconds + self._shift_seconds
            step_seconds = seconds - self._last_seconds
            if not -LONGEST_BACKSTEP_SECONDS <= step_seconds <= LONGEST_GAP_SECONDS:
                self._shift_seconds += expected_seconds - seconds
                seconds = expected_seconds
            seconds = max(seconds, self._last_seconds)
        self._learn_frame_seconds(duration, seconds - self._last_seconds)
        self._last_seconds = seconds
        return seconds

    def _learn_frame_seconds(self, duration: int | None, step_seconds: float) -> None:
        declared_seconds = (duration or 0) * self._time_base_seconds
        if 0 < declared_seconds <= LONGEST_GAP_SECONDS:
            self.frame_seconds = declared_seconds
        elif step_seconds > 0:
            self.frame_seconds = step_seconds


@dataclass(slots=True)
class PacketStamp:
    """When the picture in one packet is shown."""

    seconds: float | None = None
    """Known once every picture shown before it has been seen."""


class PacketTimeline:
    """Reads the clock for every packet whose picture is shown, in the order of showing.

    No picture is shown before it is decoded (pts >= dts, and dts ascends), so the least stamp is next once dts has reached
    it. Left out is what a decoder would not show: what arrives before the first keyframe, and what the container discards.
    In a stream cut out of an open group of pictures a few more at its start are not shown, which only decoding tells: it
    may then seem longer by those.
    """

    def __init__(self, clock: FrameClock) -> None:
        self._clock = clock
        self._waiting: list[tuple[int, int, int | None, PacketStamp]] = []
        self._numbers = itertools.count()
        self._started = False
        self._last_dts: int | None = None
        self.frames = 0
        """How many pictures have been timed."""
        self.end_seconds = 0.0
        """When the latest of them ceases to be shown."""

    def push(self, packet: Packet) -> None:
        """Take the next packet and mark it with a ``PacketStamp``, unless its picture is not shown.

        The mark is the packet's ``opaque``, which decoders hand on to the frame.
        """
        dts = packet.dts
        if dts is not None:
            if self._last_dts is not None and dts < self._last_dts:
                # The clock was set back: nothing that waits can come after this.
                self.finish()
            self._last_dts = dts
        if self._is_shown(packet):
            packet.opaque = stamp = PacketStamp()
            if packet.pts is None:
                self.finish()
                self._time(None, packet.duration, stamp)
            else:
                heapq.heappush(self._waiting, (packet.pts, next(self._numbers), packet.duration, stamp))
        while self._waiting and (
            len(self._waiting) > MOST_FRAMES_REORDERED or (dts is not None and self._waiting[0][0] <= dts)
        ):
            self._time_next()

    def finish(self) -> None:
        """Time whatever still waits for its turn."""
        while self._waiting:
            self._time_next()

    def _is_shown(self, packet: Packet) -> bool:
        self._started = self._started or packet.is_keyframe
        return self._started and not packet.is_discard

    def _time_next(self) -> None:
        pts, _, duration, stamp = heapq.heappop(self._waiting)
        self._time(pts, duration, stamp)

    def _time(self, pts: int | None, duration: int | None, stamp: PacketStamp) -> None:
        stamp.seconds = self._clock.read(pts, duration)
        self.frames += 1
        self.end_seconds = stamp.seconds + self._clock.frame_seconds


def nominal_frame_seconds(stream: VideoStream) -> float:
    """Return how long one frame is shown if the container's rate is true."""
    rate = stream.average_rate or stream.guessed_rate
    return 1 / float(rate) if rate else FALLBACK_FRAME_SECONDS
