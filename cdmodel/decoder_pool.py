"""Reads videos in processes that may be killed: a decoder that hangs, crashes or grows costs its video and no other.

Gives the clips, the errors and the summary that ``ClipReader`` gives in this process, and works ahead: the decoder fills
one batch while the caller is busy with another. Knows nothing of files: the caller says how to open one.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

from cdmodel.clips import ClipBatch
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decode_survey import DecodeSummary
from cdmodel.decoder_messages import (
    BatchReady,
    ClipsCounted,
    Closed,
    CloseVideo,
    CountClips,
    Failed,
    FreeSlot,
    Opened,
    OpenVideo,
    PassEnded,
    ReadClips,
    Reply,
    Request,
    StopReading,
    VideoOpener,
)
from cdmodel.decoder_process import DecoderProcess
from cdmodel.errors import DecoderCrashed, DecodeTimeout, RunError, VideoError
from cdmodel.sampling import ClipGeometry, ClipSampling

CLIPS_PER_BATCH = 16
SLOTS = 3
"""One with the caller's latest batch, one with the batch before, which a loop's variable still holds while the next is asked
for, and one that is being filled."""
START_ATTEMPTS = 3

logger = logging.getLogger(__name__)


class DecoderPool:
    """The decoders of one process: as many as are in use at once, each kept for the videos to come.

    Safe for use by several threads. Close it, or end the process: no decoder outlives that.
    """

    def __init__(self) -> None:
        self._idle: list[Future[DecoderProcess]] = []
        # A decoder is killed when the thread that started it ends: this one lives as long as the pool.
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decoder-starter")

    def prepare(self, decoders: int = 1) -> None:
        """Start decoders until so many wait; returns at once."""
        while len(self._idle) < decoders:
            self._idle.append(self._starter.submit(DecoderProcess))

    @contextmanager
    def read(
        self, opener: VideoOpener, uri: str, sampling: ClipSampling, limits: DecodeLimits
    ) -> Iterator[IsolatedClips]:
        """Open one video in a decoder; leaving the context closes it. As ``begin`` and ``reading`` at once.

        Raises:
            VideoError: as ``reading``.
            RunError: as ``begin``.
        """
        with self.reading(self.begin(opener, uri, sampling, limits)) as clips:
            yield clips

    def begin(
        self,
        opener: VideoOpener,
        uri: str,
        sampling: ClipSampling,
        limits: DecodeLimits,
        geometries: Sequence[ClipGeometry] = (),
    ) -> IsolatedClips:
        """Have a decoder open a video, and read on until its slots are full; does not wait for either.

        What is returned is to be read within ``reading``, or killed.

        Args:
            opener: returns the video's file; called in the decoder, so it must be picklable and name no function of
                the main module.
            uri: names the video in errors.
            sampling: where the clips lie.
            limits: when to give up.
            geometries: those of the first pass that will be asked for, over all clips; none: it waits to be asked.

        Raises:
            RunError: no decoder can be started.
        """
        video = OpenVideo(opener=opener, uri=uri, sampling=sampling, limits=limits)
        return self._hand_over(video, tuple(geometries))

    @contextmanager
    def reading(self, clips: IsolatedClips) -> Iterator[IsolatedClips]:
        """Wait until the video is open; leaving the context closes it.

        Raises:
            VideoError: whatever its opener raises of that kind; DecodeTimeout, DecoderCrashed, VideoTooLarge.
        """
        try:
            clips.open()
            yield clips
        except VideoError:
            self._keep(clips)
            raise
        except BaseException:
            # Whoever leaves in haste shall not wait for a decoder.
            clips.kill()
            raise
        else:
            self._keep(clips)

    def close(self) -> None:
        """End all decoders; none may be in use."""
        self._starter.shutdown()
        while self._idle:
            self._idle.pop().result().kill()

    def _hand_over(self, video: OpenVideo, geometries: tuple[ClipGeometry, ...]) -> IsolatedClips:
        for _ in range(START_ATTEMPTS):
            try:
                waiting = self._idle.pop()
            except IndexError:
                waiting = self._starter.submit(DecoderProcess)
            decoder = waiting.result()
            try:
                if decoder.is_running():
                    first_pass = _plan_pass(decoder, geometries, None, CLIPS_PER_BATCH) if geometries else None
                    if decoder.offer(offered := replace(video, first_pass=first_pass)):
                        return IsolatedClips(decoder, offered)
            except BaseException:
                decoder.kill()
                raise
            decoder.kill()
        raise RunError("the decoder", "its process ends before it takes a video; see what it wrote to standard error")

    def _keep(self, clips: IsolatedClips) -> None:
        """Keep the decoder for the next video, or have another one ready by then."""
        if clips.close():
            self._idle.append(_done(clips.decoder))
        else:
            clips.decoder.kill()
            self.prepare()


class IsolatedClips:
    """The clips of one video, read in a decoder's process: a ``ClipSource``. Not safe for use by two threads at once."""

    def __init__(self, decoder: DecoderProcess, video: OpenVideo) -> None:
        self.decoder = decoder
        self._video = video
        self._begun = video.first_pass
        """The pass that the decoder has begun unasked, until something is asked."""
        self._summary: DecodeSummary | None = None
        self._cpu_seconds_before = 0.0
        self._pass: object | None = None
        self._is_open = False
        self._death: VideoError | None = None

    def open(self) -> None:
        """Wait until the file is open."""
        match self._receive():
            case Opened(cpu_seconds):
                self._cpu_seconds_before = cpu_seconds
                self._is_open = True
                self._pass = None if self._begun is None else object()
            case reply:
                raise _out_of_turn(reply)

    def read_clips(
        self, geometry: ClipGeometry, wanted: Collection[int] | None = None, clips_per_batch: int = CLIPS_PER_BATCH
    ) -> Iterator[ClipBatch]:
        """Yield the clips as ``ClipReader.read_clips`` does; asking for another pass ends this one.

        The pixels are those the decoder wrote, not a copy. They stay what they are for as long as they are kept.

        Raises:
            VideoError: as ``ClipReader.read_clips``; besides DecoderCrashed, and DecodeTimeout also where nothing moves.
        """
        for (batch,) in self._read((geometry,), None if wanted is None else frozenset(wanted), clips_per_batch):
            yield batch
            # A slot that is still known to anybody is not written again.
            del batch

    def read_views(
        self, geometries: Sequence[ClipGeometry], clips_per_batch: int = CLIPS_PER_BATCH
    ) -> Iterator[tuple[ClipBatch, ...]]:
        """Yield all clips in several geometries, as ``ClipReader.read_views`` does.

        Raises:
            VideoError: as ``read_clips``.
        """
        yield from self._read(tuple(geometries), None, clips_per_batch)

    def _read(
        self, geometries: tuple[ClipGeometry, ...], wanted: frozenset[int] | None, clips_per_batch: int
    ) -> Iterator[tuple[ClipBatch, ...]]:
        frames = self.decoder.frames
        if not self._has_begun(geometries, wanted, clips_per_batch):
            self._end_pass()
            self._ask(_plan_pass(self.decoder, geometries, wanted, clips_per_batch))
            self._pass = object()
        this_pass, self._begun = self._pass, None
        while True:
            match self._receive():
                case BatchReady() as ready:
                    # Named nowhere here, for the same reason.
                    yield tuple(
                        ClipBatch(clip_indices=ready.clip_indices, spans=ready.spans, pixels_NTCHW=pixels_NTCHW)
                        for pixels_NTCHW in frames.lend(ready.offset, ready.shapes)
                    )
                case PassEnded():
                    self._pass = None
                    return
                case reply:
                    raise _out_of_turn(reply)
            if self._pass is not this_pass:
                raise RuntimeError("another pass was begun, or the video closed, before this pass had ended")
            for offset in frames.slots_to_fill():
                self.decoder.send(FreeSlot(offset))

    def _has_begun(
        self, geometries: tuple[ClipGeometry, ...], wanted: frozenset[int] | None, clips_per_batch: int
    ) -> bool:
        begun = self._begun
        return begun is not None and (begun.geometries, begun.wanted, begun.clips_per_batch) == (
            geometries,
            wanted,
            clips_per_batch,
        )

    def count_clips(self) -> int:
        """Return how many clips the video has, as ``ClipReader.count_clips`` does.

        Raises:
            VideoError: as ``read_clips``.
        """
        self._end_pass()
        self._ask(CountClips())
        match self._receive():
            case ClipsCounted(clips):
                return clips
            case reply:
                raise _out_of_turn(reply)

    def summary(self) -> DecodeSummary:
        """Return what was known when the latest batch was ready, or the pass ended; of a decoder that died, what it last told.

        The CPU time of a decoder that died is that of its process, from the opening of the video on.
        """
        assert self._summary is not None, "the video was never opened"
        return self._summary

    def close(self) -> bool:
        """Close the file; False if the decoder is no good for another video."""
        if self._death is not None or not self._is_open:
            return self._death is None
        try:
            self._end_pass()
            self._ask(CloseVideo())
            reply = self._receive()
        except VideoError as error:
            logger.warning("a decoder was lost after its video had been read: %s", error)
            return False
        if not isinstance(reply, Closed):
            raise _out_of_turn(reply)
        self._is_open = False
        self.decoder.frames.trim()
        return reply.private_bytes <= self._video.limits.max_memory_bytes / 2

    def kill(self) -> None:
        """Give the video up, and the decoder with it."""
        self._is_open, self._pass = False, None
        self.decoder.kill()

    def _end_pass(self) -> None:
        """Have the decoder leave a pass that nobody followed to its end."""
        self._begun = None
        if self._pass is None:
            return
        self._pass = None
        self._ask(StopReading())
        try:
            while not isinstance(self._receive(), PassEnded):
                pass
        except VideoError:
            # Nobody wants to know what became of the pass, but whether the decoder lives.
            if self._death is not None:
                raise

    def _ask(self, request: Request) -> None:
        if self._death is not None:
            raise self._death
        if not self._is_open:
            # The decoder may be busy with another one.
            raise ValueError("the video is closed")
        self.decoder.send(request)

    def _receive(self) -> Reply:
        """Return the next reply; one that failed is raised."""
        try:
            answer = self.decoder.receive(self._video.uri, self._video.limits)
        except (DecodeTimeout, DecoderCrashed) as death:
            # Without the traceback, which would keep the dead decoder's memory mapped.
            self._death = type(death)(*death.args)
            self.decoder.kill()
            self._charge_death()
            raise
        self._summary = answer.summary or self._summary
        if isinstance(answer.reply, Failed):
            self._pass = None
            raise answer.reply.error
        return answer.reply

    def _charge_death(self) -> None:
        """Count what the decoder spent after its last answer."""
        if self._summary is not None:
            cpu_seconds = max(self.decoder.cpu_seconds - self._cpu_seconds_before, self._summary.cpu_seconds)
            self._summary = replace(self._summary, cpu_seconds=cpu_seconds)


def _plan_pass(
    decoder: DecoderProcess, geometries: tuple[ClipGeometry, ...], wanted: frozenset[int] | None, clips_per_batch: int
) -> ReadClips:
    clips = clips_per_batch if wanted is None else min(clips_per_batch, len(wanted))
    clip_bytes = sum(geometry.frames * 3 * geometry.height * geometry.width for geometry in geometries)
    slots = decoder.frames.lay_out(SLOTS, clips * clip_bytes)
    return ReadClips(geometries=geometries, wanted=wanted, clips_per_batch=clips_per_batch, slots=slots)


def _done(decoder: DecoderProcess) -> Future[DecoderProcess]:
    done: Future[DecoderProcess] = Future()
    done.set_result(decoder)
    return done


def _out_of_turn(reply: Reply) -> RuntimeError:
    return RuntimeError(f"the decoder answers {reply!r}, which nobody asked for")
