"""The clips of a video from a GPU's decoder, as far as it can be relied on, and from the CPU otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Literal

from cdmodel.clips import ClipBatch, ClipSource
from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decode_plan import GpuLost
from cdmodel.decode_survey import DecodeSummary
from cdmodel.errors import DecodeError
from cdmodel.gpu_choice import look_at, refuse_gpu
from cdmodel.open_stream import VideoBytes, open_stream
from cdmodel.picture_source import PictureSource
from cdmodel.sampling import ClipGeometry, ClipSampling

OpenOnCpu = Callable[[], AbstractContextManager[ClipSource]]
"""Opens the same video for the CPU."""
_Read = Callable[[ClipSource, int], Iterator[tuple[ClipBatch, ...]]]
"""Reads clips, at least those behind a certain one."""


class ExplainedClips:
    """Clips from the CPU, which say why they are not from a GPU."""

    def __init__(self, clips: ClipSource, reason: str) -> None:
        self._clips = clips
        self._reason = reason

    def read_clips(
        self, geometry: ClipGeometry, wanted: Collection[int] | None = None, clips_per_batch: int = 16
    ) -> Iterator[ClipBatch]:
        """Yield the clips in order of time."""
        return self._clips.read_clips(geometry, wanted, clips_per_batch)

    def read_views(
        self, geometries: Sequence[ClipGeometry], clips_per_batch: int = 16
    ) -> Iterator[tuple[ClipBatch, ...]]:
        """Yield all clips, each in every one of the geometries."""
        return self._clips.read_views(geometries, clips_per_batch)

    def count_clips(self) -> int:
        """Return how many clips the video has."""
        return self._clips.count_clips()

    def summary(self) -> DecodeSummary:
        """Return what is known of the video so far, and what it took."""
        return _explain(self._clips.summary(), self._reason)


class GpuFirstClips:
    """Decides at the first pass whether the GPU decodes a video; where it fails later, the CPU goes on from that clip.

    Use as a context manager: it may open the video a second time.

    Args:
        file: the video, for the GPU; belongs to the caller.
        uri: names the video in errors.
        sampling: where the clips lie.
        limits: when to give up; the CPU starts with a new deadline.
        device: how eagerly the GPU is taken.
        gpu: the GPU.
        open_on_cpu: called once, if the GPU does not take the video or not all of it.
    """

    def __init__(
        self,
        file: VideoBytes,
        uri: str,
        sampling: ClipSampling,
        limits: DecodeLimits,
        device: Literal["cuda", "auto"],
        gpu: PictureSource,
        open_on_cpu: OpenOnCpu,
    ) -> None:
        self._file = file
        self._uri = uri
        self._sampling = sampling
        self._device = device
        self._on_gpu = ClipReader(file, uri, sampling, limits, pictures=gpu)
        self._open_on_cpu = open_on_cpu
        self._on_cpu: ClipSource | None = None
        self._has_chosen = False
        self._reason: str | None = None
        self._resources = ExitStack()

    def __enter__(self) -> GpuFirstClips:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.__exit__(kind, error, traceback)

    def read_clips(
        self, geometry: ClipGeometry, wanted: Collection[int] | None = None, clips_per_batch: int = 16
    ) -> Iterator[ClipBatch]:
        """Yield the clips in order of time, on the device that decoded them.

        Raises:
            VideoError: as ``ClipReader.read_clips``.
        """

        def read(clips: ClipSource, latest: int) -> Iterator[tuple[ClipBatch, ...]]:
            rest = None if wanted is None else [index for index in wanted if index > latest]
            return map(_alone, clips.read_clips(geometry, rest, clips_per_batch))

        for (batch,) in self._read((geometry,), read):
            yield batch
            # Neither here nor below may a batch be kept while the next one is made: it may be the decoder's own memory.
            del batch

    def read_views(
        self, geometries: Sequence[ClipGeometry], clips_per_batch: int = 16
    ) -> Iterator[tuple[ClipBatch, ...]]:
        """Yield all clips, each in every one of the geometries, from one pass.

        Raises:
            ValueError: one of several geometries shows keyframes only.
            VideoError: as ``ClipReader.read_clips``.
        """
        return self._read(geometries, lambda clips, _: clips.read_views(geometries, clips_per_batch))

    def _read(self, geometries: Sequence[ClipGeometry], read: _Read) -> Iterator[tuple[ClipBatch, ...]]:
        """Yield what the GPU gives of a pass, and the rest of it, if any, from the CPU."""
        self._choose(geometries)
        latest = -1
        if self._reason is None:
            try:
                for views in read(self._on_gpu, latest):
                    yield views
                    latest = views[0].clip_indices[-1]
                    del views
                return
            except (GpuLost, DecodeError) as lost:
                self._reason = lost.reason
        for views in read(self._cpu(), latest):
            rest = tuple(filter(None, (batch.after(latest) for batch in views)))
            del views
            if rest:
                yield rest
            del rest

    def count_clips(self) -> int:
        """Return how many clips the video has, from its packets: no picture is decoded for it on a GPU.

        Raises:
            VideoError: as ``ClipReader.count_clips``.
        """
        if self._reason is None:
            try:
                return self._on_gpu.count_clips()
            except (GpuLost, DecodeError) as lost:
                self._has_chosen = True
                self._reason = lost.reason
        return self._cpu().count_clips()

    def summary(self) -> DecodeSummary:
        """Return what is known of the video so far, and what it took on both. Never raises."""
        on_gpu = self._on_gpu.summary()
        if self._reason is None:
            return on_gpu
        if self._on_cpu is None:
            return _explain(on_gpu, self._reason)
        on_cpu = self._on_cpu.summary()
        return replace(
            _explain(on_cpu, self._reason),
            frames_decoded=on_cpu.frames_decoded + on_gpu.frames_decoded,
            frames_used=on_cpu.frames_used + on_gpu.frames_used,
            packets_read=on_cpu.packets_read + on_gpu.packets_read,
            bytes_read=on_cpu.bytes_read + on_gpu.bytes_read,
            read_requests=on_cpu.read_requests + on_gpu.read_requests,
            cpu_seconds=on_cpu.cpu_seconds + on_gpu.cpu_seconds,
        )

    def _choose(self, geometries: Sequence[ClipGeometry]) -> None:
        """Decide from the header and from what the first pass wants, for all passes: they must agree on what they see."""
        if self._has_chosen:
            return
        with open_stream(self._file, self._uri) as opened:
            densest = max(geometries, key=lambda geometry: geometry.frames)
            self._reason = refuse_gpu(look_at(opened), densest, self._sampling, self._device)
        self._has_chosen = True

    def _cpu(self) -> ClipSource:
        if self._on_cpu is None:
            self._on_cpu = self._resources.enter_context(self._open_on_cpu())
        return self._on_cpu


def _alone(batch: ClipBatch) -> tuple[ClipBatch]:
    return (batch,)


def _explain(summary: DecodeSummary, reason: str) -> DecodeSummary:
    """Return the summary with why no GPU was used before whatever else was given up."""
    reasons = [reason] if summary.fallback_reason is None else [reason, summary.fallback_reason]
    return replace(summary, fallback_reason="; ".join(reasons))
