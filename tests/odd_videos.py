"""Odd little videos, each made when it is first asked for: every codec, container and clock a reader must cope with.

A video's name is that of a file. Every frame shows its number, and no two are alike. Same call, same video.
H height, W width, C channels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, partial

import av
import numpy as np
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream
from numpy.typing import NDArray

SIZE = (64, 48)
FRAMES_PER_SECOND = 10
NUMBER_BITS = 8
MILLISECOND = Fraction(1, 1000)
X264 = {"preset": "veryfast", "crf": "20", "g": "8", "bf": "2", "threads": "1"}
X265 = {"preset": "ultrafast", "crf": "24"}
X265_PARAMS = "log-level=none:pools=none:frame-threads=1:keyint=8:min-keyint=4:bframes=3:b-adapt=0"
VP9 = {"deadline": "realtime", "cpu-used": "8", "g": "12", "b": "200k"}
AV1 = {"preset": "13", "g": "12", "crf": "40", "svtav1-params": "lp=1"}
PLAIN = {"g": "8"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a video is encoded and wrapped."""

    codec: str = "libx264"
    container: str = "mp4"
    frames: int = 24
    size: tuple[int, int] = SIZE
    """Width and height."""
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=dict)
    """Of the encoder."""
    muxing: dict[str, str] = field(default_factory=dict)
    """Of the container."""
    stamps_ms: Sequence[int] | None = None
    """When each frame is shown; evenly spaced without."""
    first_number: int = 0
    """Of the first frame's picture."""
    prepare: Callable[[VideoStream], None] | None = None
    """Called before the first frame is encoded."""
    seekable: bool = True
    """Whether the container may go back and fill in its index."""


def odd_video(name: str) -> bytes:
    """Return one of the videos whose names are ``ODD_VIDEOS``."""
    return _made(name)


def draw_number(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return a picture [H, W, C] of a number: its bits as blocks over a gradient that moves from one to the next."""
    columns_W, rows_H = np.arange(width), np.arange(height)
    pixels_HWC = np.empty((height, width, 3), np.uint8)
    pixels_HWC[..., 0] = (5 * columns_W + 23 * number) % 200 + 28
    pixels_HWC[..., 1] = ((3 * rows_H + 11 * number) % 200 + 28)[:, np.newaxis]
    pixels_HWC[..., 2] = 40 + 3 * number % 160
    block = max(width // NUMBER_BITS, 1)
    for bit in range(NUMBER_BITS):
        pixels_HWC[height // 3 : 2 * height // 3, bit * block : (bit + 1) * block] = 220 if number >> bit & 1 else 30
    return pixels_HWC


def encode(recipe: Recipe) -> bytes:
    """Return the bytes of a video."""
    sink = io.BytesIO()
    target = sink if recipe.seekable else _Pipe(sink)
    with av.open(target, mode="w", format=recipe.container, options=recipe.muxing) as container:
        stream = _add_stream(container, recipe)
        for packet in _encode_frames(stream, recipe):
            container.mux(packet)
    return sink.getvalue()


def remux(
    content: bytes,
    container: str,
    change: Callable[[int, Packet[VideoStream]], bool] | None = None,
    muxing: dict[str, str] | None = None,
) -> bytes:
    """Return the same packets in another container, in their order, those for which ``change`` says no left out.

    ``change`` may alter a packet, and is given its number.
    """
    sink = io.BytesIO()

    def open_again(url: str, flags: int, options: dict[str, str]) -> io.BytesIO:
        # Moving the index to the front reads back what has been written so far.
        return io.BytesIO(sink.getvalue())

    with (
        av.open(io.BytesIO(content)) as source,
        av.open(sink, mode="w", format=container, options=muxing, io_open=open_again) as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        packets = (packet for packet in source.demux(video=0) if packet.size)
        for number, packet in enumerate(packets):
            if change is None or change(number, packet):
                packet.stream = stream
                target.mux(packet)
    return sink.getvalue()


class _Pipe:
    """A file that can only be written to the end."""

    def __init__(self, sink: io.BytesIO) -> None:
        self._sink = sink

    def write(self, data: bytes) -> int:
        return self._sink.write(data)


def _add_stream(container: av.container.OutputContainer, recipe: Recipe) -> VideoStream:
    stream = container.add_stream(recipe.codec, rate=FRAMES_PER_SECOND, options=recipe.options)
    assert isinstance(stream, VideoStream)
    stream.width, stream.height = recipe.size
    stream.pix_fmt = recipe.pix_fmt
    stream.codec_context.thread_count = 1
    if recipe.stamps_ms is not None:
        stream.codec_context.time_base = MILLISECOND
    if recipe.prepare is not None:
        recipe.prepare(stream)
    return stream


def _encode_frames(stream: VideoStream, recipe: Recipe) -> Iterator[Packet[VideoStream]]:
    reformatter = VideoReformatter()
    for number in range(recipe.frames):
        pixels_HWC = draw_number(recipe.first_number + number, *recipe.size)
        drawn = VideoFrame.from_ndarray(pixels_HWC, format="rgb24")
        frame = reformatter.reformat(drawn, format=recipe.pix_fmt, threads=1)
        if recipe.stamps_ms is None:
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
        else:
            frame.pts, frame.time_base = recipe.stamps_ms[number], MILLISECOND
        yield from stream.encode(frame)
    yield from stream.encode(None)


def _x264(options: str = "", **changes: object) -> Callable[[], bytes]:
    """Return the making of a video by x264 with more of its own parameters."""
    extra = {"x264-params": options} if options else {}
    return _video(options=X264 | extra, **changes)


def _x265(options: str = "", **changes: object) -> Callable[[], bytes]:
    params = f"{X265_PARAMS}:{options}" if options else X265_PARAMS
    return _video(codec="libx265", options=X265 | {"x265-params": params}, **changes)


def _video(**changes: object) -> Callable[[], bytes]:
    recipe = Recipe(**changes)  # type: ignore[arg-type]
    return partial(encode, recipe)


def _remuxed(
    make: Callable[[], bytes],
    container: str,
    change: Callable[[int, Packet[VideoStream]], bool] | None = None,
    **muxing: str,
) -> Callable[[], bytes]:
    return lambda: remux(make(), container, change, muxing)


def _joined(*makes: Callable[[], bytes]) -> Callable[[], bytes]:
    return lambda: b"".join(make() for make in makes)


def _shifted(ticks: int) -> Callable[[int, Packet[VideoStream]], bool]:
    """Return a change that moves every stamp."""

    def shift(number: int, packet: Packet[VideoStream]) -> bool:
        if packet.pts is not None:
            packet.pts += ticks
        if packet.dts is not None:
            packet.dts += ticks
        return True

    return shift


def _after_second_keyframe() -> Callable[[int, Packet[VideoStream]], bool]:
    """Return a change that begins the stream with its second group of pictures, whose first pictures need the first."""
    keyframes = 0

    def keep(number: int, packet: Packet[VideoStream]) -> bool:
        nonlocal keyframes
        keyframes += packet.is_keyframe
        return keyframes >= 2

    return keep


def _cut_open_group(make: Callable[[], bytes], container: str) -> Callable[[], bytes]:
    # The change counts, so each making has its own.
    return lambda: remux(make(), container, _after_second_keyframe(), {})


def _share_stamps(number: int, packet: Packet[VideoStream]) -> bool:
    """Give every third packet the stamp of the one before it."""
    ticks = 100 * (number - (number % 3 == 2))
    packet.time_base, packet.pts, packet.dts = MILLISECOND, ticks, ticks
    return True


def _turned(degrees: int, *, hflip: bool = False, vflip: bool = False) -> Callable[[VideoStream], None]:
    return lambda stream: stream.set_display_rotation(degrees, hflip=hflip, vflip=vflip)


def _tagged(colorspace: int, color_range: int) -> Callable[[VideoStream], None]:
    def tag(stream: VideoStream) -> None:
        stream.codec_context.colorspace, stream.codec_context.color_range = colorspace, color_range

    return tag


def _two_streams(container_format: str, first: Recipe, second: Recipe) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, mode="w", format=container_format) as container:
        streams = [(_add_stream(container, recipe), recipe) for recipe in (first, second)]
        packets = [packet for stream, recipe in streams for packet in _encode_frames(stream, recipe)]
        packets.sort(key=lambda packet: float((packet.dts or 0) * packet.time_base))
        container.mux(packets)
    return sink.getvalue()


def _with_cover(container_format: str) -> bytes:
    """Return a video with a picture on its cover, which is a video stream too, and the first."""

    def mark(stream: VideoStream) -> None:
        stream.disposition = Disposition.attached_pic

    cover = Recipe(codec="mjpeg", pix_fmt="yuvj420p", size=(120, 160), frames=1, first_number=99, prepare=mark)
    return _two_streams(container_format, cover, Recipe(options=X264))


def _with_attached_cover() -> bytes:
    cover = encode(Recipe(codec="mjpeg", container="mjpeg", pix_fmt="yuvj420p", size=(120, 160), frames=1))
    sink = io.BytesIO()
    recipe = Recipe(options=X264)
    with av.open(sink, mode="w", format="matroska") as container:
        stream = _add_stream(container, recipe)
        container.add_attachment("cover.jpg", "image/jpeg", cover)
        for packet in _encode_frames(stream, recipe):
            container.mux(packet)
    return sink.getvalue()


def _eight_k() -> bytes:
    """Return two flat frames of 7680 x 4320."""
    sink = io.BytesIO()
    with av.open(sink, mode="w", format="mp4") as container:
        recipe = Recipe(size=(7680, 4320), options={"preset": "ultrafast", "threads": "1"})
        stream = _add_stream(container, recipe)
        frame = VideoFrame(*recipe.size, "yuv420p")
        for number, level in enumerate((60, 180)):
            for plane in frame.planes:
                np.frombuffer(memoryview(plane), np.uint8)[:] = level
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return sink.getvalue()


def _every(step_ms: int, frames: int, start_ms: int = 0) -> list[int]:
    return [start_ms + step_ms * number for number in range(frames)]


UNEVEN_MS = (0, 30, 40, 50, 400, 420, 900, 910, 920, 1500, 1501, 1502, 1900, 2400, 2450, 2460, 3300, 3310)
GAP_MS = (*_every(100, 12), *_every(100, 12, 6200))

_CLOSED = _x264("open-gop=0:b-pyramid=normal:bframes=3")
_OPEN = _x264("open-gop=1:bframes=3:b-adapt=0", frames=30)
_OPEN_TS = _x264("open-gop=1:bframes=3:b-adapt=0", frames=30, container="mpegts")
_SIMPLE = _x264("bframes=0")
_LONG_FRAMES = 300
_LONG = _x264("open-gop=1:bframes=3:keyint=12", frames=_LONG_FRAMES)
_RAW = _x264(container="h264", frames=14)
_RAW_LARGER = _x264(container="h264", frames=14, size=(96, 80), first_number=40)
_TS = _x264(container="mpegts")
_MPEG2 = partial(_video, codec="mpeg2video", options=PLAIN | {"bf": "2", "q": "4"})

ODD_VIDEOS: dict[str, Callable[[], bytes]] = {
    # Groups of pictures.
    "closed-groups-b-pyramid.mp4": _CLOSED,
    "open-groups.mp4": _OPEN,
    "open-groups.mkv": _remuxed(_OPEN, "matroska"),
    "begins-in-an-open-group.mkv": _cut_open_group(_OPEN, "matroska"),
    "begins-in-an-open-group.ts": _cut_open_group(_OPEN_TS, "mpegts"),
    "begins-in-an-open-group.mp4": _cut_open_group(_OPEN, "mp4"),
    "intra-refresh.mp4": _x264("intra-refresh=1:keyint=8:bframes=0", frames=30),
    "one-endless-group.mp4": _x264("keyint=infinite:scenecut=0", frames=40),
    "only-keyframes.mp4": _x264("keyint=1"),
    "many-references.mp4": _x264("ref=6:bframes=5:b-adapt=0:weightp=2:keyint=24", frames=40),
    # Codecs.
    "hevc-open-groups.mp4": _x265("open-gop=1", frames=30),
    "hevc-closed-groups.mp4": _x265("open-gop=0", frames=20),
    "hevc-open-groups.mkv": _x265("open-gop=1", container="matroska", frames=20),
    "hevc-begins-in-an-open-group.ts": _cut_open_group(
        _x265("open-gop=1:repeat-headers=1", frames=30, container="mpegts"), "mpegts"
    ),
    "hevc-ten-bit.mp4": _x265("open-gop=1", pix_fmt="yuv420p10le", frames=20),
    "hevc-four-two-two.mkv": _x265(container="matroska", pix_fmt="yuv422p", frames=12),
    "hevc-grey.mkv": _x265("range=limited", container="matroska", pix_fmt="gray", frames=12),
    "vp9.webm": _video(codec="libvpx-vp9", container="webm", options=VP9, frames=20),
    "vp9-hidden-frames.webm": _video(
        codec="libvpx-vp9",
        container="webm",
        options={
            "deadline": "good",
            "cpu-used": "5",
            "auto-alt-ref": "1",
            "lag-in-frames": "12",
            "g": "16",
            "b": "99k",
        },
        frames=30,
    ),
    "vp9-transparent.webm": _video(
        codec="libvpx-vp9", container="webm", options=VP9 | {"auto-alt-ref": "0"}, pix_fmt="yuva420p", frames=16
    ),
    "vp9.mp4": _video(codec="libvpx-vp9", options=VP9, frames=16),
    "av1.mp4": _video(codec="libsvtav1", options=AV1, frames=20),
    "av1-ten-bit.mkv": _video(codec="libsvtav1", container="matroska", options=AV1, pix_fmt="yuv420p10le", frames=16),
    "mpeg2.ts": _MPEG2(container="mpegts"),
    "mpeg2.ps": _MPEG2(container="mpeg"),
    "mpeg4-b-frames.avi": _video(codec="mpeg4", container="avi", options=PLAIN | {"bf": "2", "q": "4"}),
    "mpeg4-longer.avi": _video(codec="mpeg4", container="avi", options=PLAIN | {"q": "2"}, frames=80),
    "mpeg4.mp4": _video(codec="mpeg4", options=PLAIN | {"q": "4"}),
    "h264.avi": _x264("bframes=0", container="avi"),
    "h264-b-frames.avi": _x264(container="avi"),
    "motion-jpeg.avi": _video(codec="mjpeg", container="avi", pix_fmt="yuvj420p", options={"q": "4"}),
    "motion-jpeg.mov": _video(codec="mjpeg", container="mov", pix_fmt="yuvj422p", options={"q": "4"}),
    "prores.mov": _video(codec="prores_ks", container="mov", pix_fmt="yuv422p10le", frames=12),
    "ffv1.mkv": _video(codec="ffv1", container="matroska", options=PLAIN),
    "ffv1-grey.mkv": _video(codec="ffv1", container="matroska", pix_fmt="gray", options=PLAIN, frames=12),
    "flv1.flv": _video(codec="flv", container="flv", options=PLAIN | {"q": "4"}),
    "h264.flv": _x264(container="flv"),
    "uneven.gif": _video(
        codec="gif", container="gif", pix_fmt="rgb8", frames=6, stamps_ms=(0, 100, 150, 700, 1900, 2000)
    ),
    "png.mov": _video(codec="png", container="mov", pix_fmt="rgb24", frames=12),
    # Containers.
    "h264.ts": _TS,
    "hevc.ts": _x265(container="mpegts", frames=20),
    "fragments.mp4": _x264(muxing={"movflags": "frag_keyframe+empty_moov+default_base_moof"}),
    "index-first.mp4": _remuxed(_x264("bframes=3:keyint=12", frames=80), "mp4", movflags="faststart"),
    "no-index.mkv": _x264(container="matroska", seekable=False),
    "no-index.webm": _video(codec="libvpx-vp9", container="webm", options=VP9, frames=16, seekable=False),
    "h264.mov": _x264(container="mov"),
    "h264.nut": _x264(container="nut"),
    "raw.h264": _x264(container="h264"),
    "raw-no-reordering.h264": _x264("bframes=0", container="h264"),
    "raw.hevc": _x265(container="hevc", frames=20),
    "vp9.ivf": _video(codec="libvpx-vp9", container="ivf", options=VP9, frames=16),
    # Of half a minute, so that a reader may find it worth while to seek.
    "long.mp4": _LONG,
    "long.mkv": _remuxed(_LONG, "matroska"),
    "long-fragments.mp4": _remuxed(_LONG, "mp4", movflags="frag_keyframe+empty_moov+default_base_moof"),
    "long-edit.mp4": _remuxed(_LONG, "mp4", _shifted(-35_000), avoid_negative_ts="disabled"),
    "long-no-index.mkv": _x264("keyint=12", frames=_LONG_FRAMES, container="matroska", seekable=False),
    "long.ts": _x264("open-gop=1:bframes=3:keyint=12", frames=_LONG_FRAMES, container="mpegts"),
    "long.flv": _remuxed(_LONG, "flv"),
    "long-hevc.mp4": _x265("open-gop=1", frames=_LONG_FRAMES),
    "long-hevc.mkv": _x265("open-gop=0", frames=_LONG_FRAMES, container="matroska"),
    "long-vp9.webm": _video(codec="libvpx-vp9", container="webm", options=VP9, frames=_LONG_FRAMES),
    "long-av1.mp4": _video(codec="libsvtav1", options=AV1, frames=_LONG_FRAMES),
    "long-mpeg2.ps": _MPEG2(container="mpeg", frames=_LONG_FRAMES),
    "long-mpeg4.avi": _video(
        codec="mpeg4", container="avi", options=PLAIN | {"bf": "2", "q": "4"}, frames=_LONG_FRAMES
    ),
    "long-uneven.mp4": _x264(
        "keyint=12", frames=_LONG_FRAMES, stamps_ms=[97 * number + 10 * (number % 7) for number in range(_LONG_FRAMES)]
    ),
    "long-intra-refresh.mp4": _x264("intra-refresh=1:keyint=12:bframes=0", frames=_LONG_FRAMES),
    "long-interlaced.ts": _x264("interlaced=1:keyint=12", size=(64, 64), frames=_LONG_FRAMES, container="mpegts"),
    # Clocks.
    "uneven.mp4": _x264(stamps_ms=UNEVEN_MS, frames=len(UNEVEN_MS)),
    "uneven.mkv": _x264(stamps_ms=UNEVEN_MS, frames=len(UNEVEN_MS), container="matroska"),
    "gap.mp4": _x264(stamps_ms=GAP_MS, frames=len(GAP_MS)),
    "gap.ts": _x264(stamps_ms=GAP_MS, frames=len(GAP_MS), container="mpegts"),
    "starts-at-100-s.mp4": _x264(stamps_ms=_every(100, 24, 100_000)),
    "starts-at-100-s.mkv": _x264(stamps_ms=_every(100, 24, 100_000), container="matroska"),
    "starts-at-100-s.ts": _x264(stamps_ms=_every(100, 24, 100_000), container="mpegts"),
    "starts-before-zero.mkv": _remuxed(_CLOSED, "matroska", _shifted(-5000), avoid_negative_ts="disabled"),
    "edit-cuts-the-start.mp4": _remuxed(_CLOSED, "mp4", _shifted(-8000), avoid_negative_ts="disabled"),
    "edit-cuts-the-start-no-reordering.mp4": _remuxed(_SIMPLE, "mp4", _shifted(-8000), avoid_negative_ts="disabled"),
    "clock-set-back.ts": _joined(
        _x264(stamps_ms=_every(100, 16, 100_000), frames=16, container="mpegts"),
        _x264(frames=16, container="mpegts", first_number=40),
    ),
    "clock-set-forth.ts": _joined(
        _x264(frames=16, container="mpegts"),
        _x264(stamps_ms=_every(100, 16, 1_000_000), frames=16, container="mpegts", first_number=40),
    ),
    "shared-stamps.mkv": _remuxed(_SIMPLE, "matroska", _share_stamps),
    # Streams.
    "small-and-large.mp4": lambda: _two_streams(
        "mp4", Recipe(options=X264, size=(32, 32), first_number=60), Recipe(options=X264, size=(128, 96))
    ),
    "small-and-large.mkv": lambda: _two_streams(
        "matroska", Recipe(options=X264, size=(32, 32), first_number=60), Recipe(options=X264, size=(128, 96))
    ),
    "cover-first.mp4": lambda: _with_cover("mp4"),
    "cover-attached.mkv": _with_attached_cover,
    "grows.h264": _joined(_RAW, _RAW_LARGER),
    "grows.ts": _joined(
        _x264(container="mpegts", frames=14),
        _x264(container="mpegts", frames=14, size=(96, 80), first_number=40, stamps_ms=_every(100, 14, 1400)),
    ),
    "changes-format.h264": _joined(_RAW, _x264(container="h264", frames=14, pix_fmt="yuv444p", first_number=40)),
    # Pictures.
    "turned-90.mp4": _x264(prepare=_turned(90)),
    "turned-180.mov": _x264(container="mov", prepare=_turned(180)),
    "turned-270.mkv": _x264(container="matroska", prepare=_turned(270)),
    "mirrored.mp4": _x264(prepare=_turned(0, hflip=True)),
    "wide-pixels.mp4": _x264("sar=16/11"),
    "interlaced.mp4": _x264("interlaced=1", size=(64, 64)),
    "interlaced-mpeg2.ts": _MPEG2(
        container="mpegts",
        size=(64, 64),
        prepare=lambda stream: stream.codec_context.options.update(flags="ilme+ildct"),
    ),
    "full-range-bt709.mp4": _x264(prepare=_tagged(1, 2)),
    "limited-bt601.mkv": _x264(container="matroska", prepare=_tagged(6, 1)),
    "bt2020-ten-bit.mkv": _x264(container="matroska", pix_fmt="yuv420p10le", prepare=_tagged(9, 1)),
    "four-two-two.mp4": _x264(pix_fmt="yuv422p"),
    "four-four-four.mp4": _x264(pix_fmt="yuv444p"),
    "grey.mp4": _x264(pix_fmt="gray"),
    "ten-bit.mp4": _x264(pix_fmt="yuv420p10le"),
    "odd-size.mkv": _video(codec="ffv1", container="matroska", size=(65, 49), options=PLAIN),
    "odd-size.mp4": _x264(size=(65, 49), pix_fmt="yuv444p"),
    "one-pixel.mkv": _video(codec="ffv1", container="matroska", size=(1, 1), pix_fmt="yuv444p", frames=1),
    "one-frame.mp4": _x264(frames=1),
    "two-frames.mp4": _x264(frames=2),
    "eight-k.mp4": _eight_k,
}
"""Every odd video by its name, unmade."""


@cache
def _made(name: str) -> bytes:
    return ODD_VIDEOS[name]()
