"""What clips of a video ought to be: every packet decoded in order by plain PyAV, nothing skipped, nothing sought.

Slow, and as simple as it can be, for a reader to be measured against. Colour is another matter: pictures are converted
as the reader converts them.
N clips, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition
from av.video.stream import VideoStream
from numpy.typing import NDArray

from cdmodel.decode import ClipReader
from cdmodel.errors import VideoError
from cdmodel.frame_clock import start_clock
from cdmodel.picture_conversion import PictureConverter
from cdmodel.sampling import ClipGeometry, ClipSampling, count_clips, frame_times, nominal_span
from cdmodel.types import ClipSpan

Clips = dict[int, tuple[ClipSpan, NDArray[np.uint8]]]
"""Span and pixels [T, C, H, W] by index."""
MOST_CLIPS = 60
LONG_FRAMES = 3000
REAL_HEIGHT, REAL_WIDTH = 24, 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """All good frames of a video at one size, and when they are shown."""

    starts_seconds: tuple[float, ...]
    pictures_CHW: tuple[NDArray[np.uint8], ...]
    end_seconds: float
    frames_corrupt: int
    packets_damaged: int
    missing_seconds: tuple[float, ...]
    """When the pictures would be shown that never came, or came corrupt; minus infinity where nobody knows."""

    @property
    def is_damaged(self) -> bool:
        """Tell whether anything was passed over."""
        return self.frames_corrupt + self.packets_damaged > 0

    def count_clips(self, sampling: ClipSampling) -> int:
        """Return how many clips there are."""
        return count_clips(self.end_seconds, sampling)

    def clips(self, frames: int, sampling: ClipSampling, wanted: Collection[int] | None = None) -> Clips:
        """Return the clips, each moment showing the last frame that had appeared by then."""
        return {
            index: self._clip(index, frames, sampling)
            for index in range(self.count_clips(sampling))
            if wanted is None or index in wanted
        }

    def is_sure(self, index: int, sampling: ClipSampling) -> bool:
        """Tell whether nothing that a clip might show is missing, and each has a moment of its own: all must see the same."""
        span = nominal_span(index, sampling)
        first = max(0, bisect_right(self.starts_seconds, span.start_seconds) - 1)
        shown = self.starts_seconds[first : bisect_right(self.starts_seconds, span.end_seconds)]
        return (
            span.end_seconds <= self.end_seconds
            and len(set(shown)) == len(shown)
            and not any(
                seconds == -math.inf or shown[0] <= seconds <= span.end_seconds for seconds in self.missing_seconds
            )
        )

    def _clip(self, index: int, frames: int, sampling: ClipSampling) -> tuple[ClipSpan, NDArray[np.uint8]]:
        span = nominal_span(index, sampling)
        end_seconds = min(span.end_seconds, max(self.end_seconds, span.start_seconds))
        pixels_TCHW = np.stack([self.pictures_CHW[number] for number in self._shown(index, frames, sampling)])
        return ClipSpan(start_seconds=span.start_seconds, end_seconds=end_seconds), pixels_TCHW

    def _shown(self, index: int, frames: int, sampling: ClipSampling) -> list[int]:
        times = frame_times(nominal_span(index, sampling), frames)
        return [bisect_right(self.starts_seconds, time) - 1 for time in times]


def decode_reference(file: BinaryIO, height: int, width: int) -> Reference | None:
    """Decode a video from its start; None where it holds no good frame, or cannot be opened."""
    file.seek(0)
    try:
        container = av.open(file, metadata_errors="replace")
    except (av.error.FFmpegError, ValueError, OverflowError):
        return None
    with container:
        stream = _choose_stream(container)
        return (
            None if stream is None else _decode(container, stream, ClipGeometry(frames=1, height=height, width=width))
        )


def _choose_stream(container: av.container.InputContainer) -> VideoStream | None:
    moving = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & Disposition.attached_pic
    ]
    best = container.streams.best("video")
    return next((stream for stream in moving if stream is best), moving[0] if moving else None)


def _decode(container: av.container.InputContainer, stream: VideoStream, geometry: ClipGeometry) -> Reference | None:
    stream.codec_context.thread_count = 1
    stream.codec_context.copy_opaque = True
    clock = start_clock(stream)
    converter = PictureConverter(geometry.height, geometry.width)
    starts_seconds, pictures_CHW = [], []
    frames_corrupt = packets_damaged = 0
    # Stamps of packets whose pictures have not come, by number.
    missing: dict[int, int | None] = {}
    # Which packet was damaged last; None since a keyframe has come that was decoded later.
    damaged_number = None
    for number, packet in enumerate(_packets(container, stream)):
        if packet is None:
            packets_damaged += 1
            break
        packet.opaque = number
        if packet.size:
            missing[number] = packet.pts
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            packets_damaged += 1
            damaged_number = number
            continue
        for frame in frames:
            decoded_number = number if frame.opaque is None else frame.opaque
            if frame.is_corrupt:
                damaged_number = decoded_number
            elif damaged_number is not None and frame.key_frame and decoded_number > damaged_number:
                damaged_number = None
            if damaged_number is not None and decoded_number >= damaged_number:
                # It is corrupt, or predicted from what is.
                frames_corrupt += 1
                continue
            missing.pop(decoded_number, None)
            starts_seconds.append(clock.read(frame.pts, frame.duration))
            pictures_CHW.append(np.empty((3, geometry.height, geometry.width), np.uint8))
            converter.convert_into(pictures_CHW[-1], frame)
    if not pictures_CHW:
        return None
    return Reference(
        starts_seconds=tuple(starts_seconds),
        pictures_CHW=tuple(pictures_CHW),
        end_seconds=starts_seconds[-1] + clock.frame_seconds,
        frames_corrupt=frames_corrupt,
        packets_damaged=packets_damaged,
        missing_seconds=tuple(-math.inf if pts is None else clock.at(pts) for pts in missing.values()),
    )


def _packets(container: av.container.InputContainer, stream: VideoStream) -> Iterator[av.Packet[VideoStream] | None]:
    """Yield the packets, and None where the container breaks off."""
    try:
        yield from container.demux(stream)
    except av.error.FFmpegError:
        yield None


def read_clips(
    reader: ClipReader, geometry: ClipGeometry, wanted: Collection[int] | None = None, clips_per_batch: int = 16
) -> Clips:
    """Return what a reader hands out, clips in order of time and none twice."""
    clips: Clips = {}
    for batch in reader.read_clips(geometry, wanted, clips_per_batch):
        assert len(batch.clip_indices) <= clips_per_batch
        for index, span, pixels_TCHW in zip(batch.clip_indices, batch.spans, batch.pixels_NTCHW, strict=True):
            assert index > max(clips, default=-1)
            clips[index] = (span, pixels_TCHW)
    return clips


def assert_same_clips(found: Clips, expected: Clips, subject: str) -> None:
    """Fail unless indices, spans and every pixel agree."""
    assert list(found) == list(expected), subject
    for index, (span, pixels_TCHW) in expected.items():
        assert found[index][0] == span, f"{subject}, clip {index}"
        differing = [
            number
            for number, (one, other) in enumerate(zip(found[index][1], pixels_TCHW, strict=True))
            if not np.array_equal(one, other)
        ]
        assert not differing, f"{subject}, clip {index}: frames {differing} are others"


def assert_exact(
    name: str,
    file: BinaryIO,
    reference: Reference,
    sampling: ClipSampling,
    frames: int,
    choices: Collection[Collection[float]],
    clips_per_batch: int,
) -> None:
    """Fail unless one reader, asked for each choice in turn, and a fresh one, asked for everything, give the right clips.

    A choice names wanted clips as shares of all. Of a long video only the first clips count as everything.
    """
    height, width = reference.pictures_CHW[0].shape[1:]
    geometry = ClipGeometry(frames=frames, height=height, width=width)
    count = reference.count_clips(sampling)
    reader, fresh = (ClipReader(file, name, sampling) for _ in range(2))
    for shares in choices:
        # One that does not exist is asked for too.
        wanted = {int(share * count) for share in shares} | {count + 3}
        found = read_clips(reader, geometry, wanted, clips_per_batch)
        assert_same_clips(found, reference.clips(frames, sampling, wanted), f"{name}, wanted {sorted(wanted)}")
    everything = range(min(count, MOST_CLIPS))
    found = read_clips(fresh, geometry, None if len(everything) == count else everything, clips_per_batch)
    assert_same_clips(found, reference.clips(frames, sampling, everything), f"{name}, everything")


def find_real_videos(folder: Path) -> list[Path]:
    """Return the files that may be videos."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".csv", ".md"))


def assert_real_video_exact(path: Path, seed: int) -> bool:
    """Fail unless some clips of a video are right; tell whether it has any.

    Raises:
        AssertionError: a clip is wrong, or a video without a good frame is no ``VideoError``.
    """
    draw = Random(seed)
    sampling = ClipSampling(clip_seconds=draw.choice((0.5, 1.0, 2.0)), stride_seconds=draw.choice((0.5, 1.0, 3.0)))
    with path.open("rb") as file:
        reference = decode_reference(file, REAL_HEIGHT, REAL_WIDTH)
        if reference is None:
            assert _is_refused(ClipReader(file, str(path), sampling)), path
            return False
        choices = [
            [draw.random() for _ in range(2)] for _ in range(1 if len(reference.starts_seconds) > LONG_FRAMES else 2)
        ]
        assert_exact(str(path), file, reference, sampling, draw.randint(1, 16), choices, 4)
    return True


def _is_refused(reader: ClipReader) -> bool:
    try:
        read_clips(reader, ClipGeometry(frames=1, height=REAL_HEIGHT, width=REAL_WIDTH))
    except VideoError:
        return True
    return False
