"""The videos that ``decode.py`` reads: one moving scene of fixed seed, encoded with the encoders that PyAV brings.

The scene is made to cost a decoder what footage costs it: textures whose spectrum falls as that of natural pictures does
(amplitude 1 / frequency), moved by quarters of a pixel in patches that cross each other, under a little sensor noise. It has
no cut, so that keyframes lie where the settings put them. To keep the encoding short, a file is a part of some seconds whose
packets are written several times, one after another. A video that is in the folder already is not made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

FRAMES_PER_SECOND = 30
SCENE_VERSION = 2
"""Part of the file names: what is made differently gets a new number."""
SEED = 0
TEXTURE_SIZE = 4096
STEPS_PER_PIXEL = 4
PATCHES = 10
NOISE_FIELDS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TestVideo:
    """A file that is read."""

    name: str
    encoder: str
    options: Mapping[str, str]
    width: int
    height: int
    part_frames: int
    parts: int

    @property
    def num_frames(self) -> int:
        """Length in frames."""
        return self.part_frames * self.parts

    @property
    def seconds(self) -> float:
        """Length in seconds."""
        return self.num_frames / FRAMES_PER_SECOND


# B-frames as each encoder uses them by default. The slower of the encoders run at a fast preset: a preset decides how well
# an encoder searches, and changes little of what a decoder does. Keyframes of all but the second every 48 frames.
_ENCODERS: Mapping[str, tuple[str, Mapping[str, str]]] = {
    "h264-gop48": ("libx264", {"preset": "medium", "crf": "23", "g": "48"}),
    "h264-gop250": ("libx264", {"preset": "medium", "crf": "23", "g": "250"}),
    "hevc": ("libx265", {"preset": "medium", "crf": "26", "g": "48", "x265-params": "log-level=error"}),
    "vp9": ("libvpx-vp9", {"crf": "33", "b": "0", "g": "48", "deadline": "realtime", "cpu-used": "6", "row-mt": "1"}),
    "av1": ("libsvtav1", {"preset": "9", "crf": "35", "g": "48"}),
}
# Width, height, frames of a part, parts. The parts are whole groups of 250 pictures; 67 and 17 seconds.
_SIZES = {"480p": (854, 480, 500, 4), "1080p": (1920, 1080, 250, 2)}
TEST_VIDEOS = tuple(
    TestVideo(
        name=f"{size}-{name}",
        encoder=encoder,
        options=options,
        width=width,
        height=height,
        part_frames=part_frames,
        parts=parts,
    )
    for size, (width, height, part_frames, parts) in _SIZES.items()
    for name, (encoder, options) in _ENCODERS.items()
)


def make_video(video: TestVideo, folder: Path, times: int = 1) -> Path:
    """Return the path of the video, ``times`` times as long, in the folder; encode it unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f"{video.name}-{video.part_frames}-v{SCENE_VERSION}.mp4"
    whole = folder / f"{video.name}-{video.num_frames * times}-v{SCENE_VERSION}.mp4"
    if not part.exists():
        _write_whole(part, lambda unfinished: _encode(video, unfinished))
    if not whole.exists():
        _write_whole(whole, lambda unfinished: _repeat(part, video, video.parts * times, unfinished))
    return whole


def _write_whole(path: Path, write: Callable[[Path], None]) -> None:
    unfinished = path.with_suffix(".unfinished")
    write(unfinished)
    unfinished.rename(path)


def _encode(video: TestVideo, path: Path) -> None:
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream(video.encoder, rate=FRAMES_PER_SECOND, options=dict(video.options))
        stream.width, stream.height, stream.pix_fmt = video.width, video.height, "yuv420p"
        for planes in draw_scene(video.width, video.height, video.part_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())


def _repeat(part: Path, video: TestVideo, times: int, path: Path) -> None:
    """Write the packets of the part ``times`` times, one after another."""
    with av.open(str(path), "w", format="mp4") as target:
        stream = None
        for repetition in range(times):
            with av.open(str(part)) as container:
                pattern = container.streams.video[0]
                assert pattern.time_base is not None
                stream = stream or target.add_stream_from_template(pattern, opaque=True)
                shift = int(Fraction(video.part_frames * repetition, FRAMES_PER_SECOND) / pattern.time_base)
                for packet in container.demux(pattern):
                    if packet.dts is not None and packet.pts is not None:
                        packet.dts, packet.pts = packet.dts + shift, packet.pts + shift
                        packet.stream = stream
                        target.mux(packet)


@dataclass(slots=True)
class _Patch:
    """A piece of texture that moves across the picture, and over its own texture; in pixels and pixels a frame."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    centre: NDArray[np.float64]
    velocity: NDArray[np.float64]
    origin: NDArray[np.float64]
    radii: NDArray[np.float64]
    brightness: float


def draw_scene(width: int, height: int, num_frames: int) -> Iterator[NDArray[np.uint8]]:
    """Yield frames as yuv420p planes [H * 3 / 2, W]."""
    random = np.random.default_rng(SEED)
    # The more pixels, the less there is to see in each.
    finest = 0.18 * (480 / height) ** 0.5 / STEPS_PER_PIXEL
    luma, blue, red = (_draw_texture(random, deviation, finest) for deviation in (38.0, 14.0, 14.0))
    noise = [random.normal(0, 1.0, (height + 64, width + 64)).round().astype(np.int16) for _ in range(NOISE_FIELDS)]
    background = _Patch(
        rows=np.arange(height),
        columns=np.arange(width),
        centre=np.zeros(2),
        velocity=np.array([0.1, 0.25]),
        origin=np.zeros(2),
        radii=np.array([height, width], dtype=float),
        brightness=0.0,
    )
    patches = [_draw_patch(random, width, height) for _ in range(PATCHES)]
    for index in range(num_frames):
        brightness = np.empty((height, width), dtype=np.int16)
        chroma = np.empty((2, height // 2, width // 2), dtype=np.uint8)
        for patch in (background, *patches):
            _paint(patch, index, (luma, blue, red), brightness, chroma)
        down, right = random.integers(0, 64, 2)
        brightness += noise[index % NOISE_FIELDS][down : down + height, right : right + width]
        planes = np.empty((height * 3 // 2, width), dtype=np.uint8)
        planes[:height] = brightness.clip(16, 235)
        planes[height:] = chroma.reshape(height // 2, width)
        yield planes


def _draw_texture(random: np.random.Generator, deviation: float, finest: float) -> NDArray[np.uint8]:
    """Return noise whose amplitude falls as 1 / frequency and fades above ``finest``, periodic, in quarters of a pixel."""
    rows, columns = np.fft.fftfreq(TEXTURE_SIZE), np.fft.rfftfreq(TEXTURE_SIZE)
    frequency = np.hypot(rows[:, None], columns[None, :]).astype(np.float32)
    frequency[0, 0] = np.inf
    white = np.fft.rfft2(random.normal(size=(TEXTURE_SIZE, TEXTURE_SIZE)).astype(np.float32)).astype(np.complex64)
    # Flat below five periods, so that no patch is one even field.
    spectrum = white / np.maximum(frequency, 5 / TEXTURE_SIZE) * np.exp(-((frequency / finest) ** 2))
    texture = np.fft.irfft2(spectrum, s=(TEXTURE_SIZE, TEXTURE_SIZE))
    return (128 + texture / texture.std() * deviation).clip(20, 230).astype(np.uint8)


def _draw_patch(random: np.random.Generator, width: int, height: int) -> _Patch:
    radii = random.uniform(0.08, 0.22, 2) * height
    return _Patch(
        rows=np.arange(-int(radii[0]), int(radii[0])),
        columns=np.arange(-int(radii[1]), int(radii[1])),
        centre=random.uniform(0, 1, 2) * (height, width),
        velocity=random.normal(0, 1, 2) * (height / 320, height / 160),
        origin=random.uniform(0, TEXTURE_SIZE / STEPS_PER_PIXEL, 2),
        radii=radii,
        brightness=random.normal(0, 25),
    )


def _paint(
    patch: _Patch,
    index: int,
    textures: tuple[NDArray[np.uint8], ...],
    brightness: NDArray[np.int16],
    chroma: NDArray[np.uint8],
) -> None:
    """Put the patch where it is at this frame; it swings back and forth within the picture, its texture with it."""
    height, width = brightness.shape
    moved = patch.velocity * index
    if patch.brightness:
        place = _bounce(patch.centre + moved, np.array([height, width]))
        whole = place.astype(np.int64)
        start = patch.origin - (place - whole)
    else:
        whole, start = np.zeros(2, dtype=np.int64), patch.origin + moved
    rows, columns = patch.rows + whole[0], patch.columns + whole[1]
    rows, columns = rows[(rows >= 0) & (rows < height)], columns[(columns >= 0) & (columns < width)]
    # Even edges, so that the halved colour planes cover the same area.
    rows, columns = rows[rows[0] % 2 :], columns[columns[0] % 2 :]
    rows, columns = rows[: len(rows) // 2 * 2], columns[: len(columns) // 2 * 2]
    if not len(rows) or not len(columns):
        return
    steps = (np.round((start[0] + rows - whole[0]) * STEPS_PER_PIXEL) % TEXTURE_SIZE).astype(np.int64)
    across = (np.round((start[1] + columns - whole[1]) * STEPS_PER_PIXEL) % TEXTURE_SIZE).astype(np.int64)
    inside = np.ones((len(rows), len(columns)), dtype=bool)
    if patch.brightness:
        down = ((rows - whole[0]) / patch.radii[0]) ** 2
        inside = down[:, None] + ((columns - whole[1]) / patch.radii[1])[None, :] ** 2 < 1
    area = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    shown = textures[0][steps[:, None], across[None, :]].astype(np.int16) + np.int16(patch.brightness)
    np.copyto(brightness[area], shown, where=inside)
    half = np.s_[rows[0] // 2 : rows[-1] // 2 + 1, columns[0] // 2 : columns[-1] // 2 + 1]
    for plane, texture in zip(chroma, textures[1:], strict=True):
        np.copyto(plane[half], texture[steps[::2, None], across[None, ::2]], where=inside[::2, ::2])


def _bounce(place: NDArray[np.float64], size: NDArray[np.int64]) -> NDArray[np.float64]:
    """Reflect a straight path at the edges of the picture."""
    turned = np.mod(place, 2 * size)
    return np.minimum(turned, 2 * size - turned)
