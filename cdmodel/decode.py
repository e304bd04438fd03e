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
from collections.abc import Callable, Collection, Iterator, Sequence
from io import RawIOBase
from typing import BinaryIO, cast

import av
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from cdmodel.clip_assembly import ClipAssembler, OpenClip, ShownFrame, to_batch
from cdmodel.clips import ClipBatch
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decode_survey import DecodeSummary, StreamSurvey, covered_share, find_damage, nothing_decoded
from cdmodel.errors import (
    DecodeError,
    DecodeTimeout,
    NoVideoStream,
    UnsupportedCodec,
    VideoTooLarge,
    VideoUnreadable,
)
from cdmodel.frame_clock import FrameClock, PacketStamp, PacketTimeline, nominal_frame_seconds
from cdmodel.sampling import ClipGeometry, ClipSampling, count_clips
from cdmodel.types import VideoFacts

__all__ = ["DECODER_NAME", "ClipReader", "DecodeSummary"]

DECODER_NAME = f"pyav-{av.__version__}"


class ClipReader:
    """Reads the clips of one video, as often as asked, from an open binary file.

    Args:
        file: seekable, read from its start on every pass; stays open and belongs to the caller.
        uri: names the video in errors.
        sampling: where the clips lie.
        limits: when to give up.
        on_progress: called once per packet.
    """

    def __init__(
        self,
        file: BinaryIO | RawIOBase,
        uri: str,
        sampling: ClipSampling,
        limits: DecodeLimits | None = None,
        on_progress: Callable[[], None] = lambda: None,
    ) -> None:
        self._file = file
        self._uri = uri
        self._sampling = sampling
        self._limits = limits or DecodeLimits()
        self._on_progress = on_progress
        self._survey: StreamSurvey | None = None
        self._declared = VideoFacts(duration_seconds=None, fps=None, width=None, height=None, codec=None)
        self._frames_decoded = 0
        self._frames_used = 0
        self._packets_read = 0
        self._cpu_seconds = 0.0
        self._first_pass_cpu_seconds = 0.0
        self._wall_seconds = 0.0
        self._resumed_at = 0.0

    def read_clips(
        self, geometry: ClipGeometry, wanted: Collection[int] | None = None, clips_per_batch: int = 16
    ) -> Iterator[ClipBatch]:
        """Yield the clips in order of time, ``clips_per_batch`` at once; all of them, or those whose index is wanted.

        A video shorter than a clip has one clip whose last frame is repeated. Damaged packets and frames are passed
        over and counted. Stops decoding after the last wanted clip. Clips of keyframes lie where those of a full pass
        lie; damage in the pictures between keyframes goes unseen.

        Raises:
            VideoError: VideoUnreadable, NoVideoStream, UnsupportedCodec, VideoTooLarge, NoFrames, DecodeError,
                DecodeTimeout; and whatever VideoError the file itself raises.
        """
        first_pass = self._survey is None
        batch: list[OpenClip] = []
        clips = self._clips(geometry, None if wanted is None else frozenset(wanted))
        while True:
            with _Stopwatch(self):
                clip = next(clips, None)
            if clip is not None:
                batch.append(clip)
            if batch and (clip is None or len(batch) == clips_per_batch):
                yield to_batch(batch)
                batch = []
            if clip is None:
                break
        if first_pass:
            self._first_pass_cpu_seconds = self._cpu_seconds

    def count_clips(self) -> int:
        """Return how many clips the video has, at least one, from a full pass that converts no frame.

        For policies that run no student. Counted as cost like any other pass.

        Raises:
            VideoError: as ``read_clips``.
        """
        first_pass = self._survey is None
        survey = self._begin_survey()
        with _Stopwatch(self):
            for _ in self._frames(survey):
                pass
        if not survey.frames_good:
            raise nothing_decoded(self._uri, survey)
        if first_pass:
            self._first_pass_cpu_seconds = self._cpu_seconds
        return count_clips(survey.observed_seconds, self._sampling)

    def summary(self) -> DecodeSummary:
        """Return what is known so far; complete after one full pass. Never raises."""
        survey = self._survey or StreamSurvey()
        declared_seconds = self._declared.duration_seconds
        observed_seconds = survey.observed_seconds if survey.frames_good else None
        damage = find_damage(survey, declared_seconds)
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
            coverage=covered_share(survey, duration_seconds),
            damage=damage,
            frames_decoded=self._frames_decoded,
            frames_used=self._frames_used,
            frames_corrupt=survey.frames_corrupt,
            packets_read=self._packets_read,
            packets_damaged=survey.packets_damaged,
            bytes_read=getattr(self._file, "bytes_read", 0),
            read_requests=getattr(self._file, "read_requests", 0),
            cpu_seconds=self._cpu_seconds,
            first_pass_cpu_seconds=self._first_pass_cpu_seconds,
            mode=None,
            fallback_reason=None,
        )

    def _clips(self, geometry: ClipGeometry, wanted: frozenset[int] | None) -> Iterator[OpenClip]:
        survey = self._begin_survey()
        last_wanted = max(wanted, default=-1) if wanted is not None else None
        assembler = ClipAssembler(geometry, self._sampling, wanted)
        try:
            for shown in self._frames(survey, keyframes_only=geometry.keyframes_only):
                yield from assembler.push(shown)
                if last_wanted is not None and assembler.next_index > last_wanted and not assembler.filling:
                    return
            if not survey.frames_good:
                raise nothing_decoded(self._uri, survey)
            yield from assembler.finish(survey.observed_seconds)
        except av.error.FFmpegError as error:
            raise DecodeError(self._uri, f"a frame cannot be converted to RGB ({error.strerror})") from error
        finally:
            self._frames_used += assembler.frames_used

    def _begin_survey(self) -> StreamSurvey:
        """Return the survey of a new pass; that of the first pass is what the summary tells."""
        survey = StreamSurvey()
        if self._survey is None:
            self._survey = survey
        return survey

    def _frames(self, survey: StreamSurvey, *, keyframes_only: bool = False) -> Iterator[ShownFrame]:
        """Yield every good frame with the time it is shown at, or every good keyframe if there is any."""
        if keyframes_only:
            shown = None
            for shown in self._keyframes(survey):
                yield shown
            if shown is not None:
                return
            survey.restart()
        container = self._open_container()
        with container:
            stream = self._choose_stream(container)
            clock = _start_clock(stream)
            for packet in self._packets(container, stream, survey):
                for frame in self._decode(packet, survey):
                    start_seconds = clock.read(frame.pts, frame.duration)
                    survey.frames_good += 1
                    survey.observed_seconds = start_seconds + clock.frame_seconds
                    yield ShownFrame(frame=frame, start_seconds=start_seconds)
        survey.ended = True

    def _keyframes(self, survey: StreamSurvey) -> Iterator[ShownFrame]:
        """Yield every good keyframe with the time it is shown at; the frames between are counted, not decoded."""
        container = self._open_container()
        with container:
            stream = self._choose_stream(container)
            # Some decoders, such as that of VP9, know no skipping; those that do may know better than the container.
            stream.codec_context.skip_frame = "NONKEY"
            stream.codec_context.copy_opaque = True
            timeline = PacketTimeline(_start_clock(stream))
            waiting: deque[VideoFrame] = deque()
            for packet in self._packets(container, stream, survey):
                if packet.size:
                    timeline.push(packet)
                if packet.is_keyframe or not packet.size:
                    # The last packet is empty, and empties the decoder.
                    waiting.extend(frame for frame in self._decode(packet, survey) if frame.opaque is not None)
                yield from _take_timed(waiting, timeline, survey)
            timeline.finish()
            yield from _take_timed(waiting, timeline, survey)
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

    def _packets(
        self, container: av.container.InputContainer, stream: VideoStream, survey: StreamSurvey
    ) -> Iterator[av.Packet[VideoStream]]:
        try:
            for packet in container.demux(stream):
                self._check_deadline()
                self._on_progress()
                self._packets_read += 1
                yield packet
        except av.error.FFmpegError:
            # The container broke off: what came before it is good.
            survey.packets_damaged += 1

    def _decode(self, packet: av.Packet[VideoStream], survey: StreamSurvey) -> Iterator[VideoFrame]:
        """Yield the good frames that the decoder hands out for this packet."""
        try:
            frames: Sequence[VideoFrame] = packet.decode()
        except av.error.DecoderNotFoundError as error:
            raise UnsupportedCodec(self._uri, f"no decoder for {self._declared.codec}") from error
        except MemoryError:
            # Where memory is limited: no damage of the video.
            raise
        except av.error.FFmpegError:
            survey.packets_damaged += 1
            return
        self._frames_decoded += len(frames)
        for frame in frames:
            self._check_size(frame.width, frame.height)
            if frame.is_corrupt:
                survey.frames_corrupt += 1
            else:
                yield frame

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


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _start_clock(stream: VideoStream) -> FrameClock:
    return FrameClock(float(stream.time_base or 0), nominal_frame_seconds(stream))


def _take_timed(waiting: deque[VideoFrame], timeline: PacketTimeline, survey: StreamSurvey) -> Iterator[ShownFrame]:
    """Bring the survey up to date, and take the frames whose time is known by now."""
    survey.frames_good, survey.observed_seconds = timeline.frames, timeline.end_seconds
    while waiting and (start_seconds := cast(PacketStamp, waiting[0].opaque).seconds) is not None:
        yield ShownFrame(frame=waiting.popleft(), start_seconds=start_seconds)
