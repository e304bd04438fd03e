"""The decoders of a worker process: started once, kept for every shard it gets."""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial

from cdmodel.clips import ClipSource
from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_pool import DecoderPool, IsolatedClips
from cdmodel.errors import ConfigError
from cdmodel.gpu_first import ExplainedClips, GpuFirstClips
from cdmodel.nvdec import find_gpu
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.types import VideoRef
from storage.video_file import open_video


def prepare_decoder(limits: DecodeLimits, decoders: int = 1) -> None:
    """Have decoders started by the time the first videos need them, if they are to have processes; returns at once.

    Raises:
        ConfigError: a GPU must decode, and this worker has none.
    """
    if limits.device == "cuda" and isinstance(reason := find_gpu(), str):
        raise ConfigError("decode.device", f'is "cuda", but {reason}; say "auto" where only some workers have one')
    if limits.isolated:
        _worker_decoders().prepare(decoders)


def begin_clips(
    video: VideoRef, sampling: ClipSampling, limits: DecodeLimits, first_pass: Sequence[ClipGeometry]
) -> IsolatedClips | None:
    """Have a decoder open a video and begin its first pass, for ``open_clips``; None where only that can begin it.

    Raises:
        RunError: this machine starts no decoder.
    """
    if not limits.isolated or limits.device != "cpu":
        return None
    return _worker_decoders().begin(partial(open_video, video), video.uri, sampling, limits, first_pass)


@contextmanager
def open_clips(
    video: VideoRef, sampling: ClipSampling, limits: DecodeLimits, begun: IsolatedClips | None = None
) -> Iterator[ClipSource]:
    """Open a video for reading its clips, on the device and in the process that the limits say, unless it was ``begun``.

    Raises:
        VideoError: it cannot be opened; the clips' methods raise the same errors.
        RunError: this machine starts no decoder.
    """
    if begun is not None:
        with _worker_decoders().reading(begun) as clips:
            yield clips
        return
    open_on_cpu = partial(_open_on_cpu, video, sampling, limits)
    if limits.device == "cpu":
        with open_on_cpu() as clips:
            yield clips
        return
    gpu = find_gpu()
    if isinstance(gpu, str):
        with open_on_cpu() as clips:
            yield ExplainedClips(clips, gpu)
        return
    with (
        open_video(video) as file,
        GpuFirstClips(file, video.uri, sampling, limits, limits.device, gpu, open_on_cpu) as gpu_clips,
    ):
        yield gpu_clips


@contextmanager
def _open_on_cpu(video: VideoRef, sampling: ClipSampling, limits: DecodeLimits) -> Iterator[ClipSource]:
    """Open a video in a process of its own or in this one."""
    if limits.isolated:
        with _worker_decoders().read(partial(open_video, video), video.uri, sampling, limits) as clips:
            yield clips
    else:
        with open_video(video) as file:
            yield ClipReader(file, video.uri, sampling, limits)


@lru_cache(maxsize=1)
def _worker_decoders() -> DecoderPool:
    decoders = DecoderPool()
    atexit.register(decoders.close)
    return decoders
