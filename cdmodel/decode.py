"""Clips of one video, chosen by presentation time and decoded with PyAV.

Knows nothing of where the bytes come from: it is given an open file. Decodes no more than the wanted frames need
(``planned_pass``) where the video's packets can be relied on, and everything from the start where they cannot; either way
the clips are bit for bit those of a decode of every frame. Converts only the frames somebody asked for, in one step from
the decoder's picture to RGB of the wanted size. Memory holds the clips that are being filled, however long the video is.
Time zero is the first frame shown; a timestamp is what the container says, made to run forward where it jumps.

T frames, C channels, H height, W width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

import av

from cdmodel.clip_assembly import ClipAssembler, OpenClip, ShownFrame, to_batch
from cdmodel.clips import ClipBatch
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decode_plan import GpuLost, PlanBroken, PlanFreedom
from cdmodel.decode_survey import (
    DecodeMode,
    DecodeSummary,
    DecodeTally,
    StreamSurvey,
    covered_share,
    find_damage,
    nothing_decoded,
)
from cdmodel.errors import DecodeError, DecodeTimeout
from cdmodel.frame_clock import start_clock
from cdmodel.open_stream import OpenStream, VideoBytes, check_size, open_stream, read_packets
from cdmodel.picture_decoder import PictureDecoder
from cdmodel.picture_source import CPU_PICTURES, PictureSource
from cdmodel.planned_pass import PlannedPass
from cdmodel.sampling import ClipGeometry, ClipSampling, count_clips
from cdmodel.stream_length import measure_length
from cdmodel.types import VideoFacts
from cdmodel.wanted_moments import WantedMoments, join_moments

__all__ = ["ClipReader", "DecodeSummary"]


class ClipReader:
    """Reads the clips of one video, as often as asked, from an open binary file.

    Args:
        file: seekable, read from its start on every pass; stays open and belongs to the caller.
        uri: names the video in errors.
        sampling: where the clips lie.
        limits: when to give up.
        on_progress: called for every packet read, as a sign of life.
        pictures: where pictures are decoded. On a GPU what cannot be vouched for raises GpuLost, and is left to a reader on
            the CPU.
    """

    def __init__(
        self,
        file: VideoBytes,
        uri: str,
        sampling: ClipSampling,
        limits: DecodeLimits | None = None,
        on_progress: Callable[[], None] = lambda: None,
        pictures: PictureSource = CPU_PICTURES,
    ) -> None:
        self._file = file
        self._uri = uri
        self._sampling = sampling
        self._limits = limits or DecodeLimits()
        self._on_progress = on_progress
        self._pictures = pictures
        self._freedom = PlanFreedom()
        self._fallback_reason: str | None = None
        self._index_is_true = False
        self._survey: StreamSurvey | None = None
        self._declared = VideoFacts(duration_seconds=None, fps=None, width=None, height=None, codec=None)
        self._tally = DecodeTally()
        self._keyframes_only: bool | None = None
        self._cpu_seconds = 0.0
        self._first_pass_cpu_seconds = 0.0
        self._wall_seconds = 0.0
        self._resumed_at = 0.0

    def read_clips(
        self, geometry: ClipGeometry, wanted: Collection[int] | None = None, clips_per_batch: int = 16
    ) -> Iterator[ClipBatch]:
        """Yield the clips in order of time, ``clips_per_batch`` at once; all of them, or those whose index is wanted.

        A video shorter than a clip has one clip whose last frame is repeated. Damaged packets and frames are passed
        over and counted; a moment whose picture is damaged shows the last good one. Stops reading after the last wanted
        clip. Clips of keyframes lie where those of a full pass lie; damage in the pictures between keyframes goes unseen.

        Raises:
            VideoError: VideoUnreadable, NoVideoStream, UnsupportedCodec, VideoTooLarge, NoFrames, DecodeError,
                DecodeTimeout; and whatever VideoError the file itself raises.
        """
        for (batch,) in self._read((geometry,), None if wanted is None else frozenset(wanted), clips_per_batch):
            yield batch

    def read_views(
        self, geometries: Sequence[ClipGeometry], clips_per_batch: int = 16
    ) -> Iterator[tuple[ClipBatch, ...]]:
        """Yield all clips as ``read_clips`` does, each in every one of the geometries, from one pass.

        Raises:
            ValueError: one of several geometries shows keyframes only, and so another choice of frames.
            VideoError: as ``read_clips``.
        """
        if len(geometries) > 1 and any(geometry.keyframes_only for geometry in geometries):
            raise ValueError("keyframes alone are read in a pass of their own")
        yield from self._read(tuple(geometries), None, clips_per_batch)

    def _read(
        self, geometries: tuple[ClipGeometry, ...], wanted: frozenset[int] | None, clips_per_batch: int
    ) -> Iterator[tuple[ClipBatch, ...]]:
        first_pass = self._survey is None
        if self._keyframes_only is None:
            self._keyframes_only = geometries[0].keyframes_only
        batch: list[tuple[OpenClip, ...]] = []
        clips = self._clips(geometries, wanted, clips_per_batch)
        while True:
            with _Stopwatch(self):
                clip = next(clips, None)
            if clip is not None:
                batch.append(clip)
            if batch and (clip is None or len(batch) == clips_per_batch):
                yield tuple(to_batch(view) for view in zip(*batch, strict=True))
                batch = []
            if clip is None:
                break
        if first_pass:
            self._first_pass_cpu_seconds = self._cpu_seconds

    def count_clips(self) -> int:
        """Return how many clips the video has, at least one, from its packets alone where they can be relied on.

        For policies that run no student. Counted as cost like any other pass.

        Raises:
            VideoError: as ``read_clips``.
        """
        first_pass = self._survey is None
        survey = self._begin_survey()
        with _Stopwatch(self):
            while True:
                try:
                    self._count_frames(survey)
                    break
                except PlanBroken as broken:
                    self._fall_back(broken, survey)
        if not survey.frames_good:
            raise nothing_decoded(self._uri, survey)
        if first_pass:
            self._first_pass_cpu_seconds = self._cpu_seconds
        return count_clips(survey.observed_seconds, self._sampling)

    def summary(self) -> DecodeSummary:
        """Return what is known so far; complete after one full pass. Never raises."""
        survey = self._survey or StreamSurvey()
        declared_seconds = None if survey.clock_has_jumped else self._declared.duration_seconds
        observed_seconds = survey.observed_seconds if survey.frames_good else None
        damage = find_damage(survey, declared_seconds)
        duration_seconds = observed_seconds if survey.ended and damage is None else None
        if duration_seconds is None:
            duration_seconds = max(filter(None, (declared_seconds, observed_seconds)), default=None)
        fps = self._declared.fps
        if observed_seconds and survey.frames_good > 1 and survey.is_gapless:
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
            frames_decoded=self._tally.frames_decoded,
            frames_used=self._tally.frames_used,
            frames_corrupt=survey.frames_corrupt,
            packets_read=self._tally.packets_read,
            packets_damaged=survey.packets_damaged,
            bytes_read=getattr(self._file, "bytes_read", 0),
            read_requests=getattr(self._file, "read_requests", 0),
            cpu_seconds=self._cpu_seconds,
            first_pass_cpu_seconds=self._first_pass_cpu_seconds,
            mode=self._mode(),
            fallback_reason=self._fallback_reason,
        )

    def _mode(self) -> DecodeMode | None:
        if not self._tally.packets_read:
            return None
        if not self._freedom.packets:
            return "sequential"
        if self._keyframes_only:
            return "keyframes"
        return "nvdec" if self._pictures.on_gpu else "planned"

    def _clips(
        self, geometries: tuple[ClipGeometry, ...], wanted: frozenset[int] | None, clips_per_batch: int
    ) -> Iterator[tuple[OpenClip, ...]]:
        """Yield clips from one pass, or from several where the first turns out to rely on too much."""
        survey = self._begin_survey()
        first_index = 0
        while True:
            assemblers = [
                ClipAssembler(geometry, self._sampling, wanted, clips_per_batch, next_index=first_index)
                for geometry in geometries
            ]
            try:
                for views in self._assemble(assemblers, survey):
                    first_index = views[0].index + 1
                    yield views
                break
            except PlanBroken as broken:
                self._fall_back(broken, survey)
            except MemoryError:
                raise
            except av.error.FFmpegError as error:
                raise DecodeError(self._uri, f"a frame cannot be converted to RGB ({error.strerror})") from error
            finally:
                self._tally.frames_used += sum(assembler.frames_used for assembler in assemblers)
        if self._survey is not None:
            self._survey.learn_damage(survey)

    def _assemble(self, assemblers: Sequence[ClipAssembler], survey: StreamSurvey) -> Iterator[tuple[OpenClip, ...]]:
        first = assemblers[0]
        last_wanted = max(first.wanted, default=-1) if first.wanted is not None else None
        for shown in self._frames(assemblers, survey):
            # A clip is whole when the video has reached its end, however many frames a view shows of it: all views are.
            yield from zip(*(assembler.push(shown) for assembler in assemblers), strict=True)
            if last_wanted is not None and first.next_index > last_wanted and not first.filling:
                return
        if not survey.frames_good:
            raise nothing_decoded(self._uri, survey)
        yield from zip(*(assembler.finish(survey.observed_seconds) for assembler in assemblers), strict=True)

    def _frames(self, assemblers: Sequence[ClipAssembler], survey: StreamSurvey) -> Iterator[ShownFrame]:
        """Yield the frames that the clips show, and perhaps others, with the time they are shown at.

        Raises:
            PlanBroken: read again from the first clip that is not whole.
        """
        with self._open() as opened:
            for assembler in assemblers:
                height, width = assembler.geometry.height, assembler.geometry.width
                assembler.converter = self._pictures.converter(height, width, opened.stream.codec_context.name)
            decoder = self._decoder(opened, survey)
            if not self._freedom.packets:
                yield from self._every_frame(opened, decoder, survey)
                return
            planned = PlannedPass(
                opened,
                decoder,
                join_moments(
                    [
                        WantedMoments(assembler.geometry, self._sampling, assembler.wanted, assembler.next_index)
                        for assembler in assemblers
                    ]
                ),
                survey,
                self._freedom,
                keyframes_only=assemblers[0].geometry.keyframes_only,
                index_is_true=self._index_is_true,
                on_packet=self._take_packet,
            )
            yield from planned.frames()
            survey.clock_has_jumped = planned.clock.has_jumped
            self._index_is_true |= survey.ended and survey.is_gapless and not survey.clock_has_jumped
            if not survey.frames_good:
                raise PlanBroken("no packet tells when its picture is shown", lost="packets")

    def _every_frame(self, opened: OpenStream, decoder: PictureDecoder, survey: StreamSurvey) -> Iterator[ShownFrame]:
        """Yield every good frame, timed by its own stamp as it comes out of the decoder."""
        clock = start_clock(opened.stream)
        packets = read_packets(opened, survey, self._take_packet)
        for frame in chain(chain.from_iterable(map(decoder.decode, packets)), decoder.drain()):
            start_seconds = clock.read(frame.pts, frame.duration)
            survey.frames_good += 1
            survey.observed_seconds = start_seconds + clock.frame_seconds
            survey.clock_has_jumped = clock.has_jumped
            yield ShownFrame(frame=frame, start_seconds=start_seconds)

    def _count_frames(self, survey: StreamSurvey) -> None:
        with self._open() as opened:
            if self._freedom.packets:
                measure_length(opened, survey, self._freedom, self._take_packet)
                return
            for _ in self._every_frame(opened, self._decoder(opened, survey), survey):
                pass

    @contextmanager
    def _open(self) -> Iterator[OpenStream]:
        with open_stream(self._file, self._uri, self._pictures.hwaccel()) as opened:
            self._declared = declared = opened.declared
            check_size(self._uri, declared.width or 0, declared.height or 0, self._limits)
            yield opened

    def _decoder(self, opened: OpenStream, survey: StreamSurvey) -> PictureDecoder:
        return PictureDecoder(self._uri, opened.stream.codec_context, self._limits, survey, self._tally)

    def _begin_survey(self) -> StreamSurvey:
        """Return the survey of a new pass; that of the first pass is what the summary tells."""
        survey = StreamSurvey()
        if self._survey is None:
            self._survey = survey
        return survey

    def _fall_back(self, broken: PlanBroken, survey: StreamSurvey) -> None:
        """Rely on less, in this pass, which starts again, and in all that follow: they must agree on what they see.

        Raises:
            GpuLost: nothing less can be relied on but the CPU, which sees damage that a GPU's decoder hides.
        """
        if self._pictures.on_gpu and broken.lost == "packets":
            raise GpuLost(broken.reason) from broken
        self._freedom = self._freedom.without(broken.lost)
        self._fallback_reason = broken.reason
        survey.restart()

    def _take_packet(self) -> None:
        self._tally.packets_read += 1
        self._on_progress()
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
