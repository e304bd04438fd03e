"""When each frame of a video is shown: the container's timestamps, made to run forward where they jump."""

from __future__ import annotations

from av.video.frame import VideoFrame
from av.video.stream import VideoStream

FALLBACK_FRAME_SECONDS = 1 / 25
LONGEST_GAP_SECONDS = 60.0
"""A longer step between two frames is a broken clock, not a still picture."""
LONGEST_BACKSTEP_SECONDS = 1.0
"""A smaller step back is a frame shown out of order, a larger one a clock that was set back."""


class FrameClock:
    """Turns the container's timestamps into seconds since the first frame that never run backwards."""

    def __init__(self, time_base_seconds: float, nominal_frame_seconds: float) -> None:
        self._time_base_seconds = time_base_seconds
        self._shift_seconds: float | None = None
        self._last_seconds = 0.0
        self.frame_seconds = nominal_frame_seconds
        """How long the latest frame is shown, as far as known."""

    def read(self, frame: VideoFrame) -> float:
        """Return when the next frame is shown."""
        expected_seconds = self._last_seconds + self.frame_seconds
        stamp_seconds = None if frame.pts is None else frame.pts * self._time_base_seconds
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
        self._learn_frame_seconds(frame, seconds - self._last_seconds)
        self._last_seconds = seconds
        return seconds

    def _learn_frame_seconds(self, frame: VideoFrame, step_seconds: float) -> None:
        declared_seconds = (frame.duration or 0) * self._time_base_seconds
        if 0 < declared_seconds <= LONGEST_GAP_SECONDS:
            self.frame_seconds = declared_seconds
        elif step_seconds > 0:
            self.frame_seconds = step_seconds


def nominal_frame_seconds(stream: VideoStream) -> float:
    """Return how long one frame is shown if the container's rate is true."""
    rate = stream.average_rate or stream.guessed_rate
    return 1 / float(rate) if rate else FALLBACK_FRAME_SECONDS
