"""What a pass over a video's stream has seen: how much of it is good, where it ended, what is broken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cdmodel.errors import DecodeError, NoFrames
from cdmodel.types import Damage, VideoFacts

MISSING_END_SECONDS = 0.5
MISSING_END_SHARE = 0.05
"""A stream that ends this much before its declared duration has lost its end."""


DecodeMode = Literal["planned", "sequential", "keyframes", "nvdec"]
"""How a video was read: only the groups of pictures that hold a wanted frame, everything from the start, keyframes
alone, or on a GPU's decoder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeSummary:
    """What decoding a video found, and what it took."""

    facts: VideoFacts
    clips_planned: int
    coverage: float
    damage: Damage | None
    frames_decoded: int
    frames_used: int
    frames_corrupt: int
    packets_read: int
    """Packets of the video stream taken from the container, in all passes."""
    packets_damaged: int
    bytes_read: int
    """Bytes asked of the store; zero where the file does not count them."""
    read_requests: int
    cpu_seconds: float
    first_pass_cpu_seconds: float
    """Zero until the first pass has ended."""
    mode: DecodeMode | None
    """The least of the modes any pass ended in; None before the first frame."""
    fallback_reason: str | None
    """Why a better mode was left, or not tried."""


@dataclass(slots=True)
class DecodeTally:
    """What all passes over a video have taken so far."""

    frames_decoded: int = 0
    frames_used: int = 0
    packets_read: int = 0


@dataclass(slots=True)
class StreamSurvey:
    """What one pass over the stream has seen so far."""

    frames_good: int = 0
    frames_corrupt: int = 0
    packets_damaged: int = 0
    observed_seconds: float = 0.0
    ended: bool = False
    """Whether the end of the stream was reached."""
    is_gapless: bool = True
    """Whether every packet before ``observed_seconds`` was read."""
    clock_has_jumped: bool = False
    """Whether stamps had to be moved: the container then declares the jump as a part of the length."""

    def learn_damage(self, other: StreamSurvey) -> None:
        """Take over what another pass over the same video found broken, where it is more."""
        self.packets_damaged = max(self.packets_damaged, other.packets_damaged)
        self.frames_corrupt = max(self.frames_corrupt, other.frames_corrupt)

    def restart(self) -> None:
        """Forget everything, before the stream is read from its start again."""
        self.frames_good = self.frames_corrupt = self.packets_damaged = 0
        self.observed_seconds = 0.0
        self.ended = False
        self.is_gapless = True
        self.clock_has_jumped = False


def find_damage(survey: StreamSurvey, declared_seconds: float | None) -> Damage | None:
    """Return what is broken: packets, frames, or the end, which is missing."""
    if survey.packets_damaged or survey.frames_corrupt:
        return Damage(error_kind="decode_error", message=_describe(survey))
    if survey.ended and declared_seconds is not None:
        missing_seconds = declared_seconds - survey.observed_seconds
        if missing_seconds > MISSING_END_SECONDS + MISSING_END_SHARE * declared_seconds:
            return Damage(
                error_kind="decode_error",
                message=f"the stream ends at {survey.observed_seconds:.2f} of {declared_seconds:.2f} s",
            )
    return None


def covered_share(survey: StreamSurvey, duration_seconds: float | None) -> float:
    """Return the share of frames that came out whole, times the share of the duration that was reached."""
    frames = survey.frames_good + survey.frames_corrupt + survey.packets_damaged
    if not survey.frames_good or not duration_seconds:
        return 0.0
    return survey.frames_good / frames * min(1.0, survey.observed_seconds / duration_seconds)


def nothing_decoded(uri: str, survey: StreamSurvey) -> NoFrames | DecodeError:
    """Return the error of a pass that found no good frame."""
    if survey.packets_damaged or survey.frames_corrupt:
        return DecodeError(uri, f"no usable frame: {_describe(survey)}")
    return NoFrames(uri, "the video stream holds no frame")


def _describe(survey: StreamSurvey) -> str:
    return f"{survey.packets_damaged} damaged packets, {survey.frames_corrupt} corrupt frames"
