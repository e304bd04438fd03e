"""Opens a container and chooses the video stream to read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import RawIOBase
from typing import BinaryIO

import av
from av.codec.hwaccel import HWAccel
from av.packet import Packet
from av.stream import Discard
from av.video.stream import VideoStream

from cdmodel.decode_limits import DecodeLimits
from cdmodel.decode_plan import GpuLost
from cdmodel.decode_survey import StreamSurvey
from cdmodel.errors import NoVideoStream, UnsupportedCodec, VideoTooLarge, VideoUnreadable
from cdmodel.types import VideoFacts

VideoBytes = BinaryIO | RawIOBase
"""A seekable binary file."""


@dataclass(frozen=True, slots=True)
class OpenStream:
    """One video stream of an open container."""

    container: av.container.InputContainer
    stream: VideoStream
    declared: VideoFacts
    """What the container says of it."""


@contextmanager
def open_stream(file: VideoBytes, uri: str, hwaccel: HWAccel | None = None) -> Iterator[OpenStream]:
    """Open the container from its start; it is closed at the end, the file is not.

    With ``hwaccel`` the stream is decoded by that device if it can be, else by the CPU: its frames tell.

    Raises:
        VideoUnreadable: it is no container that libav knows, or its header is damaged.
        NoVideoStream: it holds no moving picture.
        UnsupportedCodec: nobody here decodes it.
        GpuLost: the device of ``hwaccel`` cannot be used.
    """
    with _open_container(file, uri, hwaccel) as container:
        stream = _choose_stream(container, uri)
        for other in container.streams:
            if other is not stream:
                other.discard = Discard.all
        stream.codec_context.thread_count = 1
        declared = VideoFacts(
            duration_seconds=_declared_seconds(stream),
            fps=float(stream.average_rate) if stream.average_rate else None,
            width=stream.codec_context.width or None,
            height=stream.codec_context.height or None,
            codec=stream.codec_context.name,
        )
        yield OpenStream(container, stream, declared)


def read_packets(
    opened: OpenStream, survey: StreamSurvey, on_packet: Callable[[], None]
) -> Iterator[Packet[VideoStream]]:
    """Yield the stream's packets in the order they are stored in, from where the container stands; empty ones are left out.

    A container that breaks off ends the stream: what came before it is good.
    """
    try:
        for packet in opened.container.demux(opened.stream):
            if packet.size:
                on_packet()
                yield packet
        survey.ended = True
    except MemoryError:
        raise
    except av.error.FFmpegError:
        survey.packets_damaged += 1


def check_size(uri: str, width: int, height: int, limits: DecodeLimits) -> None:
    """Raise VideoTooLarge for a picture beyond the limit."""
    if width * height > limits.max_frame_pixels:
        raise VideoTooLarge(uri, f"{width} x {height} exceeds decode.max_frame_pixels = {limits.max_frame_pixels}")


def _open_container(file: VideoBytes, uri: str, hwaccel: HWAccel | None) -> av.container.InputContainer:
    file.seek(0)
    try:
        # Metadata in an unknown encoding is no reason to refuse the pictures.
        return av.open(file, mode="r", metadata_errors="replace", hwaccel=hwaccel)
    except MemoryError:
        raise
    except av.error.FFmpegError as error:
        if hwaccel is not None:
            raise GpuLost(f"the GPU's decoder cannot be opened ({error.strerror})") from error
        raise VideoUnreadable(uri, f"the container cannot be opened ({error.strerror})") from error
    except (ValueError, OverflowError) as error:
        # Headers that PyAV itself chokes on, such as text that is not what it claims to be.
        raise VideoUnreadable(uri, f"the container's header is damaged ({error})") from error


def _choose_stream(container: av.container.InputContainer, uri: str) -> VideoStream:
    streams = [stream for stream in container.streams.video if not _is_cover(stream)]
    if not streams:
        raise NoVideoStream(uri, "the container holds no video stream")
    decodable = [stream for stream in streams if stream.codec_context is not None]
    if not decodable:
        raise UnsupportedCodec(uri, "no decoder for the video stream")
    best = container.streams.best("video")
    return best if best in decodable else decodable[0]


def _is_cover(stream: VideoStream) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _declared_seconds(stream: VideoStream) -> float | None:
    """Return the stream's own length; that of a container may be that of its sound."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska has the stamp of its end as a tag: 00:01:02.500000000
    match = re.fullmatch(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)", stream.metadata.get("DURATION", "").strip("\0 "))
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    start_seconds = float((stream.start_time or 0) * (stream.time_base or 0))
    return int(hours) * 3600 + int(minutes) * 60 + float(seconds) - start_seconds
