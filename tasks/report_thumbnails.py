"""One small picture per video, for reports: decoded where a decoder may be killed, within a time, and never an error.

The picture is the middle of the clip that counts most in the answer, at a keyframe, so that little is decoded.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdmodel.decode_limits import DecodeLimits
from cdmodel.errors import LabelingError
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.types import ClipRecord
from tasks.report_facts import UncertainVideo
from tasks.worker_decoder import open_clips

WIDTH, HEIGHT = 320, 200
"""The box that a picture fits in, in pixels: sharp at 160 on a screen of double density."""
JPEG_QUALITY = 72
SECONDS_PER_VIDEO = 8.0
SECONDS_IN_ALL = 45.0
"""After this no other video is begun: a report must not wait for an archive that does not answer."""
LONGEST_STRIDE_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A picture of a video."""

    jpeg: bytes
    width: int
    height: int
    at_seconds: float
    """Middle of the clip that it is taken from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoThumbnail:
    """Why there is no picture."""

    reason: str


def make_thumbnails(videos: Sequence[UncertainVideo]) -> tuple[Thumbnail | NoThumbnail, ...]:
    """Return a picture of each video, or why there is none; blocks for ``SECONDS_IN_ALL`` and one video at most."""
    deadline = time.monotonic() + SECONDS_IN_ALL
    pictures: list[Thumbnail | NoThumbnail] = []
    for video in videos:
        if time.monotonic() > deadline:
            pictures.append(NoThumbnail(reason="the time for pictures was up"))
        else:
            pictures.append(_thumbnail(video))
    return tuple(pictures)


def _thumbnail(video: UncertainVideo) -> Thumbnail | NoThumbnail:
    sampling, clip_index, at_seconds = _moment(video.clips)
    width, height = _fitted(video.width, video.height)
    limits = DecodeLimits(deadline_seconds=SECONDS_PER_VIDEO, stall_seconds=SECONDS_PER_VIDEO)
    geometry = ClipGeometry(frames=1, height=height, width=width, keyframes_only=True)
    try:
        with open_clips(video.video, sampling, limits) as clips:
            for batch in clips.read_clips(geometry, {clip_index}, clips_per_batch=1):
                pixels_CHW = batch.to_host()[0, 0]
                return Thumbnail(jpeg=_jpeg(pixels_CHW), width=width, height=height, at_seconds=at_seconds)
    except LabelingError as error:
        return NoThumbnail(reason=error.reason)
    return NoThumbnail(reason="the video has no such moment any more")


def _moment(clips: Sequence[ClipRecord]) -> tuple[ClipSampling, int, float]:
    """Return a sampling, and the index in it, of the clip that counts most; the video's first second without clips."""
    if not clips:
        return ClipSampling(), 0, 0.5
    clip = max(clips, key=lambda clip: (clip.weight, -clip.clip_index))
    seconds = max(clip.end_seconds - clip.start_seconds, 0.04)
    at_seconds = clip.start_seconds + seconds / 2
    index = math.ceil(clip.start_seconds / LONGEST_STRIDE_SECONDS)
    stride_seconds = clip.start_seconds / index if index else seconds
    return ClipSampling(clip_seconds=seconds, stride_seconds=stride_seconds), index, at_seconds


def _fitted(width: int | None, height: int | None) -> tuple[int, int]:
    """Return the largest size of the same shape within the box, in even numbers; the box for an unknown shape."""
    if not width or not height:
        return WIDTH, HEIGHT
    scale = min(WIDTH / width, HEIGHT / height)
    return max(2, round(width * scale / 2) * 2), max(2, round(height * scale / 2) * 2)


def _jpeg(pixels_CHW: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0)))
    picture.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return file.getvalue()
