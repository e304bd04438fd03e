"""The decoders of a worker process: started once, kept for every shard it gets."""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache, partial

from cdmodel.clips import ClipSource
from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_pool import DecoderPool
from cdmodel.sampling import ClipSampling
from cdmodel.types import VideoRef
from storage.video_file import open_video


def prepare_decoder(limits: DecodeLimits) -> None:
    """Have a decoder started by the time the first video needs it, if it is to have a process; returns at once."""
    if limits.isolated:
        _worker_decoders().prepare()


@contextmanager
def open_clips(video: VideoRef, sampling: ClipSampling, limits: DecodeLimits) -> Iterator[ClipSource]:
    """Open a video for reading its clips, in a process of its own or in this one as the limits say.

    Raises:
        VideoError: it cannot be opened; the clips' methods raise the same errors.
        RunError: this machine starts no decoder.
    """
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
