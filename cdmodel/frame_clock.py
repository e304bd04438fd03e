"""When each frame of a video is shown: the container's timestamps, made to run forward where they jump."""

from __future__ import annotations

from av.video.stream import VideoStream

FALLBACK_FRAME_SECONDS = 1 / 25
LONGEST_GAP_SECONDS = 60.0
"""A longer step between two frames is a broken clock, not a still picture."""
LONGEST_BACKSTEP_SECONDS = 1.0
"""A smaller step back is a frame shown out of order, a larger one a clock that was set back."""


class FrameClock:
    """Turns the container's timestamps, in the order of showing, into seconds since the first that never run backwards."""

    def __init__(self, time_base_seconds: float, nominal_frame_seconds: float) -> None:
        self._time_base_seconds = time_base_seconds
        self._shift_seconds: float | None = None
        self._last_seconds = 0.0
        self.frame_seconds = nominal_frame_seconds
        """How long the latest frame is shown, as far as known."""
        self.has_jumped = False
        """Whether a stamp had to be moved: the container's clock then tells nothing of what lies further on."""

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
                self.has_jumped = True
                seconds = expected_seconds
            seconds = max(seconds, self._last_seconds)
        self._learn_frame_seconds(duration, seconds - self._last_seconds)
        self._last_seconds = seconds
        return seconds

    def at(self, pts: int) -> float:
        """Return when a frame with this stamp is shown, were the container's clock true from the first frame to it."""
        return pts * self._time_base_seconds + (self._shift_seconds or 0.0)

    def ticks_at(self, seconds: float) -> int:
        """Return the stamp of a frame shown at this time, likewise."""
        return int((seconds - (self._shift_seconds or 0.0)) / self._time_base_seconds)

    def go_on_at(self, pts: int) -> None:
        """Take the frame with this stamp to be the next, whatever lies between."""
        self._last_seconds = self.at(pts)

    def _learn_frame_seconds(self, duration: int | None, step_seconds: float) -> None:
        declared_seconds = (duration or 0) * self._time_base_seconds
        if 0 < declared_seconds <= LONGEST_GAP_SECONDS:
            self.frame_seconds = declared_seconds
        elif step_seconds > 0:
            self.frame_seconds = step_seconds


def start_clock(stream: VideoStream) -> FrameClock:
    """Return a clock for the stream's frames."""
    rate = stream.average_rate or stream.guessed_rate
    return FrameClock(float(stream.time_base or 0), 1 / float(rate) if rate else FALLBACK_FRAME_SECONDS)
