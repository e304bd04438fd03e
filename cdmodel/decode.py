"""Clips of one video, chosen by presentation time and decoded with PyAV.

Knows nothing of where the bytes come from: it is given an open file. Decodes sequentially from the start on every pass
and converts only the frames somebody asked for, in one step from the decoder's picture to RGB of the wanted size.
Memory holds the clips that are being filled, however long the video is. Time zero is the first frame shown; a
timestamp is what the container says, made to run forward where it jumps.

T frames, C channels, H height, W width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from io import RawIOBase
from typing import BinaryIO, ClassVar

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cdmodel.clips import ClipBatch
from cdmodel.errors import (
    DecodeError,
    DecodeTimeout,
    NoFrames,
    NoVideoStream,
    UnsupportedCodec,
    VideoTooLarge,
    VideoUnreadable,
)
from cdmodel.sampling import ClipGeometry, ClipSampling, count_clips, frame_times, has_clip, nominal_span
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.types import ClipSpan, Damage, VideoFacts

DECODER_NAME = f"pyav-{av.__version__}"
FALLBACK_FRAME_SECONDS = 1 / 25
LONGEST_GAP_SECONDS = 60.0
"""A longer step between two frames is a broken clock, not a still picture."""
LONGEST_BACKSTEP_SECONDS = 1.0
"""A smaller step back is a frame shown out of order, a larger one a clock that was set back."""
MISSING_END_SECONDS = 0.5
MISSING_END_SHARE = 0.05
"""A stream that ends this much before its declared duration has lost its end."""


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
    cpu_seconds: float
    first_pass_cpu_seconds: float
    """Zero until the first pass has ended."""


@dataclass(slots=True)
class _Survey:
    """What one pass over the stream has seen so far."""

    frames_good: int = 0
    frames_corrupt: int = 0
    packets_damaged: int = 0
    observed_seconds: float = 0.0
    ended: bool = False


class ClipReader:
    """Reads the clips of one video, as often as asked, from an open binary file.

    Args:
        file: seekable, read from its start on every pass; stays open and belongs to the caller.
        uri: names the video in errors.
        sampling: where the clips lie.
        limits: when to give up.
    """

    def __init__(
        self, file: BinaryIO | RawIOBase, uri: str, sampling: ClipSampling, limits: DecodeLimits | None = None
    ) -> None:
        self._file = file
        self._uri = uri
        self._sampling = sampling
        self._limits = limits or DecodeLimits()
        self._survey: _Survey | None = None
        self._declared = VideoFacts(duration_seconds=None, fps=None, width=None, height=None, codec=None)
        self._frames_decoded = 0
        self._frames_used = 0
        self._cpu_seconds = 0.0
        self._first_pass_cpu_seconds = 0.0
        self._wall_seconds = 0.0
        self._resumed_at = 0.0

    def read_clips(
        self, geometry: ClipGeometry, wanted: Collection[int] | None = None, clips_per_batch: int = 16
    ) -> Iterator[ClipBatch]:
        """Yield the clips in order of time, ``clips_per_batch`` at once; all of them, or those whose index is wanted.

        A video shorter than a clip has one clip whose last frame is repeated. Damaged packets and frames are passed
        over and counted. Stops decoding after the last wanted clip.

        Raises:
            VideoError: VideoUnreadable, NoVideoStream, UnsupportedCodec, VideoTooLarge, NoFrames, DecodeError,
                DecodeTimeout; and whatever VideoError the file itself raises.
        """
        first_pass = self._survey is None
        batch: list[_Clip] = []
        clips = self._clips(geometry, None if wanted is None else frozenset(wanted))
        while True:
            with _Stopwatch(self):
                clip = next(clips, None)
            if clip is not None:
                batch.append(clip)
            if batch and (clip is None or len(batch) == clips_per_batch):
                yield _to_batch(batch)
                batch = []
            if clip is None:
                break
        if first_pass:
            self._first_pass_cpu_seconds = self._cpu_seconds

    def summary(self) -> DecodeSummary:
        """Return what is known so far; complete after one full pass. Never raises."""
        survey = self._survey or _Survey()
        declared_seconds = self._declared.duration_seconds
        observed_seconds = survey.observed_seconds if survey.frames_good else None
        damage = _find_damage(survey, declared_seconds)
        duration_seconds = observed_seconds if survey.ended and damage is None else None
        if duration_seconds is None:
            duration_seconds = max(filter(None, (declared_seconds, observed_seconds)), default=None)
        fps = self._declared.fps
        if observed_seconds and survey.frames_good > 1:
            fps = survey.frames_good / observed_seconds
        return DecodeSummary(
            facts=VideoFacts(
                duration_seconds=duration_seconds,
                fps=fps,
                width=self._declared.width,
                height=self._declared.height,
                codec=self._declared.codec,
            ),
            clips_planned=count_clips(duration_seconds, self._sampling) if duration_seconds else 0,
            coverage=_coverage(survey, duration_seconds),
            damage=damage,
            frames_decoded=self._frames_decoded,
            frames_used=self._frames_used,
            frames_corrupt=survey.frames_corrupt,
            cpu_seconds=self._cpu_seconds,
            first_pass_cpu_seconds=self._first_pass_cpu_seconds,
        )

    def _clips(self, geometry: ClipGeometry, wanted: frozenset[int] | None) -> Iterator[_Clip]:
        survey = _Survey()
        if self._survey is None:
            self._survey = survey
        last_wanted = max(wanted, default=-1) if wanted is not None else None
        assembler = _Assembler(geometry, self._sampling, wanted)
        try:
            for shown in self._frames(survey):
                yield from assembler.push(shown)
                if last_wanted is not None and assembler.next_index > last_wanted and not assembler.filling:
                    return
            if not survey.frames_good:
                raise _nothing_decoded(self._uri, survey)
            yield from assembler.finish(survey.observed_seconds)
        except av.error.FFmpegError as error:
            raise DecodeError(self._uri, f"a frame cannot be converted to RGB ({error.strerror})") from error
        finally:
            self._frames_used += assembler.frames_used

    def _frames(self, survey: _Survey) -> Iterator[_Shown]:
        """Yield every good frame with the time it is shown at."""
        container = self._open_container()
        with container:
            stream = self._choose_stream(container)
            clock = _Clock(float(stream.time_base or 0), _nominal_frame_seconds(stream))
            for frame in self._decode(container, stream, survey):
                start_seconds = clock.read(frame)
                survey.frames_good += 1
                survey.observed_seconds = start_seconds + clock.frame_seconds
                yield _Shown(frame=frame, start_seconds=start_seconds)
        survey.ended = True

    def _open_container(self) -> av.container.InputContainer:
        self._file.seek(0)
        try:
            # Metadata in an unknown encoding is no reason to refuse the pictures.
            return av.open(self._file, mode="r", metadata_errors="replace")
        except av.error.FFmpegError as error:
            raise VideoUnreadable(self._uri, f"the container cannot be opened ({error.strerror})") from error
        except (ValueError, OverflowError) as error:
            # Headers that PyAV itself chokes on, such as text that is not what it claims to be.
            raise VideoUnreadable(self._uri, f"the container's header is damaged ({error})") from error

    def _choose_stream(self, container: av.container.InputContainer) -> VideoStream:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise NoVideoStream(self._uri, "the container holds no video stream")
        decodable = [stream for stream in streams if stream.codec_context is not None]
        if not decodable:
            raise UnsupportedCodec(self._uri, "no decoder for the video stream")
        best = container.streams.best("video")
        stream = best if best in decodable else decodable[0]
        stream.codec_context.thread_count = 1
        declared_seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else None
        self._declared = VideoFacts(
            duration_seconds=declared_seconds,
            fps=float(stream.average_rate) if stream.average_rate else None,
            width=stream.codec_context.width or None,
            height=stream.codec_context.height or None,
            codec=stream.codec_context.name,
        )
        self._check_size(stream.codec_context.width, stream.codec_context.height)
        return stream

    def _decode(
        self, container: av.container.InputContainer, stream: VideoStream, survey: _Survey
    ) -> Iterator[VideoFrame]:
        try:
            for packet in container.demux(stream):
                self._check_deadline()
                try:
                    frames: Sequence[VideoFrame] = packet.decode()
                except av.error.DecoderNotFoundError as error:
                    raise UnsupportedCodec(self._uri, f"no decoder for {stream.codec_context.name}") from error
                except av.error.FFmpegError:
                    survey.packets_damaged += 1
                    continue
                self._frames_decoded += len(frames)
                for frame in frames:
                    self._check_size(frame.width, frame.height)
                    if frame.is_corrupt:
                        survey.frames_corrupt += 1
                    else:
                        yield frame
        except av.error.FFmpegError:
            # The container broke off: what came before it is good.
            survey.packets_damaged += 1

    def _check_size(self, width: int, height: int) -> None:
        if width * height > self._limits.max_frame_pixels:
            raise VideoTooLarge(
                self._uri, f"{width} x {height} exceeds decode.max_frame_pixels = {self._limits.max_frame_pixels}"
            )

    def _check_deadline(self) -> None:
        if self._wall_seconds + time.monotonic() - self._resumed_at > self._limits.deadline_seconds:
            raise DecodeTimeout(
                self._uri, f"decoding took longer than decode.deadline_seconds = {self._limits.deadline_seconds:g}"
            )


class _Stopwatch:
    """Counts the time spent decoding, and not that of whoever consumes the clips."""

    def __init__(self, reader: ClipReader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        self._reader._resumed_at = time.monotonic()
        self._cpu_started = time.thread_time()

    def __exit__(self, *exc_info: object) -> None:
        self._reader._cpu_seconds += time.thread_time() - self._cpu_started
        self._reader._wall_seconds += time.monotonic() - self._reader._resumed_at


@dataclass(slots=True)
class _Shown:
    """A decoded frame and the time it appears; it stays until the next one appears."""

    frame: VideoFrame
    start_seconds: float


@dataclass(slots=True)
class _Clip:
    """A clip that is being filled."""

    index: int
    span: ClipSpan
    times: tuple[float, ...]
    pixels_TCHW: NDArray[np.uint8]
    filled: int = 0


class _Clock:
    """Turns the container's timestamps into seconds since the first frame that never run backwards."""

    def __init__(self, time_base_seconds: float, nominal_frame_seconds: float) -> None:
        self._time_base_seconds = time_base_seconds
        self._shift_seconds: float | None = None
        self._last_seconds = 0.0
        self.frame_seconds = nominal_frame_seconds
        """How long the latest frame is shown, as far as known."""

    def read(self, frame: VideoFrame) -> float:
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


@dataclass(slots=True)
class _Assembler:
    """Hands each frame to the clips that want it. A moment belongs to the last frame that appeared before it."""

    geometry: ClipGeometry
    sampling: ClipSampling
    wanted: frozenset[int] | None
    next_index: int = 0
    filling: deque[_Clip] = field(default_factory=deque)
    frames_used: int = 0
    _shown: _Shown | None = None
    _converted: NDArray[np.uint8] | None = None
    _reformatter: VideoReformatter = field(default_factory=VideoReformatter)

    def push(self, shown: _Shown) -> Iterator[_Clip]:
        """Take the next frame; yield the clips that the frame before it completed."""
        if self._shown is not None:
            yield from self._fill_until(shown.start_seconds)
        self._shown = shown
        self._converted = None

    def finish(self, duration_seconds: float) -> Iterator[_Clip]:
        """Yield what is left at the video's end: clips long enough to count, their last frame repeated."""
        yield from self._fill_until(duration_seconds)
        while self.filling:
            clip = self.filling.popleft()
            if has_clip(clip.index, duration_seconds, self.sampling):
                while clip.filled < len(clip.times):
                    self._put(clip)
                yield _cut(clip, duration_seconds)

    def _fill_until(self, end_seconds: float) -> Iterator[_Clip]:
        """Let the frame on show fill every moment before ``end_seconds``."""
        self._open_clips(end_seconds)
        for clip in self.filling:
            while clip.filled < len(clip.times) and clip.times[clip.filled] < end_seconds:
                self._put(clip)
        while self.filling and self.filling[0].filled == len(self.filling[0].times):
            yield self.filling.popleft()

    def _open_clips(self, end_seconds: float) -> None:
        while (span := nominal_span(self.next_index, self.sampling)).start_seconds < end_seconds or not self.next_index:
            if self.wanted is None or self.next_index in self.wanted:
                size = (self.geometry.frames, 3, self.geometry.height, self.geometry.width)
                self.filling.append(
                    _Clip(
                        index=self.next_index,
                        span=span,
                        times=frame_times(span, self.geometry.frames),
                        pixels_TCHW=np.empty(size, dtype=np.uint8),
                    )
                )
            self.next_index += 1

    def _put(self, clip: _Clip) -> None:
        assert self._shown is not None
        if self._converted is None:
            self._converted = _convert(self._shown.frame, self._reformatter, self.geometry)
            self.frames_used += 1
        clip.pixels_TCHW[clip.filled] = self._converted
        clip.filled += 1


def _convert(frame: VideoFrame, reformatter: VideoReformatter, geometry: ClipGeometry) -> NDArray[np.uint8]:
    """Return the whole picture, upright, as RGB uint8 [C, H, W] of the wanted size.

    Planar ``gbrp`` with bilinear scaling is the most accurate and the fastest of libswscale's one-step paths.
    """
    quarter_turns = _quarter_turns(frame)
    height, width = geometry.height, geometry.width
    if quarter_turns % 2:
        height, width = width, height
    scaled = reformatter.reformat(frame, width, height, format="gbrp", interpolation=Interpolation.BILINEAR)
    green, blue, red = (
        np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)[:height, :width]
        for plane in scaled.planes
    )
    return np.rot90(np.stack((red, green, blue)), quarter_turns, axes=(1, 2))


def _quarter_turns(frame: VideoFrame) -> int:
    """Return how often to turn the coded picture counter-clockwise by 90 degrees; odd angles are left alone."""
    turns, rest = divmod(frame.rotation, 90)
    return 0 if rest or abs(frame.rotation) > 360 else turns % 4


def _to_batch(clips: Sequence[_Clip]) -> ClipBatch:
    return ClipBatch(
        clip_indices=tuple(clip.index for clip in clips),
        spans=tuple(clip.span for clip in clips),
        pixels_NTCHW=np.stack([clip.pixels_TCHW for clip in clips]),
    )


def _cut(clip: _Clip, duration_seconds: float) -> _Clip:
    end_seconds = min(clip.span.end_seconds, max(duration_seconds, clip.span.start_seconds))
    clip.span = ClipSpan(start_seconds=clip.span.start_seconds, end_seconds=end_seconds)
    return clip


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _nominal_frame_seconds(stream: VideoStream) -> float:
    rate = stream.average_rate or stream.guessed_rate
    return 1 / float(rate) if rate else FALLBACK_FRAME_SECONDS


def _nothing_decoded(uri: str, survey: _Survey) -> NoFrames | DecodeError:
    if survey.packets_damaged or survey.frames_corrupt:
        return DecodeError(uri, f"no usable frame: {_describe(survey)}")
    return NoFrames(uri, "the video stream holds no frame")


def _find_damage(survey: _Survey, declared_seconds: float | None) -> Damage | None:
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


def _describe(survey: _Survey) -> str:
    return f"{survey.packets_damaged} damaged packets, {survey.frames_corrupt} corrupt frames"


def _coverage(survey: _Survey, duration_seconds: float | None) -> float:
    """Return the share of frames that came out whole, times the share of the duration that was reached."""
    frames = survey.frames_good + survey.frames_corrupt + survey.packets_damaged
    if not survey.frames_good or not duration_seconds:
        return 0.0
    return survey.frames_good / frames * min(1.0, survey.observed_seconds / duration_seconds)
