"""Frames of a video at a steady rate and a common size, to be put together with frames of other videos.

Knows nothing of labels. Time is resampled as everywhere else: a moment shows the last frame that appeared before it.
H height, W width, C channels (RGB).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from io import RawIOBase
from itertools import islice
from typing import BinaryIO

import av
import numpy as np
from numpy.typing import NDArray

from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.sampling import ClipGeometry, ClipSampling

Frame = NDArray[np.uint8]
"""RGB, uint8 [H, W, C]."""

MAX_OVERHANG = 8
"""A picture is scaled to at most this many times the wanted width or height before its middle is cut out: what is more
oblong than that is squeezed, so that a strip of a picture cannot ask for gigabytes."""
SEARCHED_SECONDS = 60.0
"""How far into a video a passage is looked for, unless the passage is longer: an archive's videos may last for hours."""


def read_frames(
    file: BinaryIO | RawIOBase, uri: str, *, height: int, width: int, frames_per_second: int, limits: DecodeLimits
) -> Generator[Frame]:
    """Yield the video's frames, one for every 1 / ``frames_per_second`` of its duration, rounded; at least one.

    The picture is shown upright, with square pixels, and fills the wanted size: scaled with its proportions kept, what
    hangs over cut away evenly on both sides. No bars are added, since bars would tell a model which source a moment of a
    composite came from before it looked at the picture.

    Args:
        file: seekable, belongs to the caller and must stay open until the last frame.
        uri: names the video in errors.
        height: of the frames.
        width: of the frames.
        frames_per_second: of the result.
        limits: when to give up.

    Raises:
        VideoError: as ``ClipReader.read_clips`` raises them.
    """
    frame_seconds = 1 / frames_per_second
    sampling = ClipSampling(clip_seconds=frame_seconds, stride_seconds=frame_seconds)
    reader = ClipReader(file, uri, sampling, limits)
    # One clip first: what is wrong with the video is told by the reader, in the words used everywhere.
    next(reader.read_clips(ClipGeometry(frames=1, height=1, width=1), wanted=(0,)))
    scaled_height, scaled_width = _covering_size(_display_shape(file, reader), height, width)
    top, left = (scaled_height - height) // 2, (scaled_width - width) // 2
    for batch in reader.read_clips(ClipGeometry(frames=1, height=scaled_height, width=scaled_width)):
        for pixels_TCHW in batch.to_host():
            pixels_CHW = pixels_TCHW[0, :, top : top + height, left : left + width]
            yield np.ascontiguousarray(pixels_CHW.transpose(1, 2, 0))


def draw_passage(
    frames: Iterable[Frame], *, clips: int, frames_per_clip: int, frames_per_second: int, random: np.random.Generator
) -> list[Frame]:
    """Return a passage of ``clips`` whole clips from a random place, at a multiple of clips from the video's start.

    A video with fewer clips gives those it has; one shorter than a clip is repeated at its last frame up to one clip.
    Reads in one pass, no further than ``SEARCHED_SECONDS`` or the passage's own length, and holds two passages.
    """
    wanted = clips * frames_per_clip
    recent: deque[Frame] = deque(maxlen=wanted)
    passage: list[Frame] = []
    passages_seen = 0
    for number, frame in enumerate(islice(frames, max(wanted, round(SEARCHED_SECONDS * frames_per_second))), start=1):
        recent.append(frame)
        if number >= wanted and number % frames_per_clip == 0:
            passages_seen += 1
            # Reservoir sampling: after n passages each has been kept with probability 1 / n.
            if random.random() * passages_seen < 1:
                passage = list(recent)
    return passage or _whole_clips(list(recent), frames_per_clip)


def _whole_clips(frames: list[Frame], frames_per_clip: int) -> list[Frame]:
    whole = len(frames) // frames_per_clip * frames_per_clip
    return frames[:whole] if whole else frames + frames[-1:] * (frames_per_clip - len(frames))


def _display_shape(file: BinaryIO | RawIOBase, reader: ClipReader) -> tuple[float, float]:
    """Return height and width of the picture as it is shown, in any unit: turned, and with square pixels."""
    facts = reader.summary().facts
    file.seek(0)
    with av.open(file, mode="r", metadata_errors="replace") as container:
        streams = [stream for stream in container.streams.video if stream.codec_context is not None]
        # The reader has chosen one of them; pictures of the same coded size are as good as the same.
        stream = next(
            (s for s in streams if (s.codec_context.height, s.codec_context.width) == (facts.height, facts.width)),
            streams[0],
        )
        pixel_aspect = float(stream.sample_aspect_ratio or 1)
        try:
            frame = next(container.decode(stream))
        except (av.error.FFmpegError, StopIteration):
            # The reader knows how to pass over a damaged start.
            return float(facts.height or 1), (facts.width or 1) * pixel_aspect
    shape = float(frame.height), frame.width * pixel_aspect
    return shape[::-1] if frame.rotation % 180 == 90 else shape


def _covering_size(shape: tuple[float, float], height: int, width: int) -> tuple[int, int]:
    scale = max(height / shape[0], width / shape[1])
    scaled_height, scaled_width = round(scale * shape[0]), round(scale * shape[1])
    return (
        min(max(scaled_height, height), MAX_OVERHANG * height),
        min(max(scaled_width, width), MAX_OVERHANG * width),
    )
