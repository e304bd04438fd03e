"""Colours and orientation of what a model sees, against the definitions of the standards.

H height, W width, C channels.
"""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray
from odd_videos import SIZE, Recipe, draw_number, encode, odd_video

from cdmodel.picture_conversion import PictureConverter
from cdmodel.sampling import ClipGeometry

LUMA_WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 7: (0.212, 0.087), 9: (0.2627, 0.0593)}
"""Weights of red and blue by tag of the matrix (ITU-T H.273, MatrixCoefficients)."""
BT601, BT709, BT2020, UNTAGGED = 6, 1, 9, 2
LIMITED, FULL, UNKNOWN_RANGE = 1, 2, 0
COLOURS = ((81, 90, 160), (145, 70, 60), (200, 128, 128), (60, 160, 110), (18, 128, 128), (230, 120, 135))
"""Y, Cb and Cr of eight bits."""
SCALED = ClipGeometry(frames=1, height=24, width=32)
UNSCALED = ClipGeometry(frames=1, height=48, width=64)
TOLERANCE = 2


def _convert(frame: VideoFrame, geometry: ClipGeometry) -> NDArray[np.uint8]:
    """Return what a converter of its own makes of a frame."""
    return _convert_with(PictureConverter(geometry.height, geometry.width), frame, geometry.height, geometry.width)


def _convert_with(converter: PictureConverter, frame: VideoFrame, height: int, width: int) -> NDArray[np.uint8]:
    pixels_CHW = np.empty((3, height, width), np.uint8)
    converter.convert_into(pixels_CHW, frame)
    return pixels_CHW


def _flat_frame(pix_fmt: str, colour: tuple[int, ...], matrix: int, color_range: int) -> VideoFrame:
    """Return a frame of one colour, given by its eight-bit components."""
    frame = VideoFrame(*SIZE, pix_fmt)
    deep = pix_fmt.endswith("10le")
    for plane, level in zip(frame.planes, colour, strict=False):
        np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8)[:] = 4 * level if deep else level
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


def _to_rgb(colour: tuple[float, ...], matrix: int, color_range: int) -> NDArray[np.float64]:
    """Return red, green and blue, 0 to 255, of eight-bit components (ITU-R BT.601, BT.709 and BT.2020)."""
    luma, blue_difference, red_difference = colour
    if color_range == FULL:
        y, cb, cr = luma / 255, (blue_difference - 128) / 255, (red_difference - 128) / 255
    else:
        y, cb, cr = (luma - 16) / 219, (blue_difference - 128) / 224, (red_difference - 128) / 224
    red_weight, blue_weight = LUMA_WEIGHTS[matrix]
    red, blue = y + 2 * (1 - red_weight) * cr, y + 2 * (1 - blue_weight) * cb
    green = (y - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    return np.clip(np.array((red, green, blue)) * 255, 0, 255)


def _assert_colour(pixels_CHW: NDArray[np.uint8], expected_C: NDArray[np.float64]) -> None:
    np.testing.assert_allclose(pixels_CHW.min(axis=(1, 2)), expected_C, atol=TOLERANCE)
    np.testing.assert_allclose(pixels_CHW.max(axis=(1, 2)), expected_C, atol=TOLERANCE)


@pytest.mark.parametrize("geometry", [SCALED, UNSCALED], ids=["scaled", "unscaled"])
@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "yuva420p"]
)
@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_a_tagged_matrix_and_range_are_respected(pix_fmt, matrix, color_range, geometry):
    shared = PictureConverter(geometry.height, geometry.width)
    for colour in COLOURS:
        pixels_CHW = _convert_with(
            shared, _flat_frame(pix_fmt, colour, matrix, color_range), geometry.height, geometry.width
        )
        _assert_colour(pixels_CHW, _to_rgb(colour, matrix, color_range))


@pytest.mark.parametrize(
    ("pix_fmt", "color_range"), [("yuv420p", LIMITED), ("yuv444p10le", LIMITED), ("yuvj420p", FULL), ("yuvj444p", FULL)]
)
def test_without_tags_it_is_bt601_and_the_range_of_the_pixel_format(pix_fmt, color_range):
    for colour in COLOURS:
        frame = _flat_frame(pix_fmt, colour, UNTAGGED, UNKNOWN_RANGE)
        _assert_colour(_convert(frame, SCALED), _to_rgb(colour, BT601, color_range))


@pytest.mark.parametrize("pix_fmt", ["gray", "gray10le"])
@pytest.mark.parametrize(("tagged", "meant"), [(LIMITED, LIMITED), (FULL, FULL), (UNKNOWN_RANGE, FULL)])
def test_grey_is_stretched_where_it_is_tagged_as_limited(pix_fmt, tagged, meant):
    for level in (16, 60, 128, 235):
        frame = _flat_frame(pix_fmt, (level,), UNTAGGED, tagged)
        _assert_colour(_convert(frame, SCALED), _to_rgb((level, 128, 128), BT601, meant))


@pytest.mark.parametrize(("tag", "meant"), [(3, BT601), (8, BT601), (10, BT2020), (14, BT601), (99, BT601)])
def test_a_matrix_that_cannot_be_converted_is_no_reason_to_refuse_a_video(tag, meant):
    for colour in COLOURS:
        frame = _flat_frame("yuv420p", colour, tag, LIMITED)
        _assert_colour(_convert(frame, SCALED), _to_rgb(colour, meant, LIMITED))
        assert frame.colorspace == tag


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv444p", "yuv422p10le"])
@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020])
def test_gradients_keep_their_colours(pix_fmt, matrix):
    frame = VideoFrame(*SIZE, pix_fmt)
    deep = pix_fmt.endswith("10le")
    expected_YWC = []
    for plane, (first, last) in zip(frame.planes, ((40, 200), (110, 150), (160, 100)), strict=True):
        ramp_W = np.linspace(first, last, plane.width)
        rows = np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8).reshape(plane.height, -1)
        rows[:, : plane.width] = np.rint(ramp_W * (4 if deep else 1))
        expected_YWC.append(np.linspace(first, last, SIZE[0]))
    frame.colorspace, frame.color_range = matrix, LIMITED
    pixels_CHW = _convert(frame, UNSCALED)
    expected_CW = np.stack([_to_rgb(colour, matrix, LIMITED) for colour in zip(*expected_YWC, strict=True)], axis=1)
    # Chroma of half the width is sited a little aside, and the ramp ends at the border.
    inside = np.s_[:, 10, 4:-4]
    np.testing.assert_allclose(pixels_CHW[inside], expected_CW[:, 4:-4], atol=2 * TOLERANCE)


def test_a_shared_converter_follows_every_change_of_size_format_and_tags():
    shared = PictureConverter(SCALED.height, SCALED.width)
    for size in (SIZE, (96, 80), (65, 49), SIZE):
        for pix_fmt, matrix, color_range in (
            ("yuv420p", BT601, LIMITED),
            ("yuv420p", BT709, LIMITED),
            ("yuv420p", BT709, FULL),
            ("yuv444p10le", BT2020, LIMITED),
            ("yuv420p", 3, LIMITED),
            ("yuv420p", UNTAGGED, UNKNOWN_RANGE),
        ):
            drawn = VideoFrame.from_ndarray(draw_number(5, *size), format="rgb24")
            frame = VideoReformatter().reformat(drawn, format=pix_fmt)
            frame.colorspace, frame.color_range = matrix, color_range
            alone = _convert(frame, SCALED)
            np.testing.assert_array_equal(_convert_with(shared, frame, SCALED.height, SCALED.width), alone)


@pytest.mark.parametrize("name", ["grows.h264", "changes-format.h264"])
def test_the_tags_and_the_size_that_change_in_a_stream_change_what_follows(name):
    first, last = _first_and_last(odd_video(name))
    for frame, number in ((first, 0), (last, 53)):
        expected_HWC = draw_number(number, frame.width, frame.height)
        difference = np.abs(_unscaled(frame).astype(int) - expected_HWC.transpose(2, 0, 1))
        assert difference[1].mean() < 12


def _first_and_last(content: bytes) -> tuple[VideoFrame, VideoFrame]:
    with av.open(io.BytesIO(content)) as container:
        first, *_, last = container.decode(video=0)
    return first, last


def _unscaled(frame: VideoFrame) -> NDArray[np.uint8]:
    return _convert(frame, ClipGeometry(frames=1, height=frame.height, width=frame.width))


CORNERS = np.array([[220, 150], [40, 95]], np.uint8)
"""Levels of the four quarters of a picture as it should be seen: top left is the brightest, bottom left the darkest."""


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska"])
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_a_picture_is_seen_upright_however_it_is_stored(degrees, mirrored, container):
    # The display turns what is stored counter-clockwise, then mirrors it: stored is the reverse of both.
    seen = CORNERS[:, ::-1] if mirrored else CORNERS
    stored = np.rot90(seen, -degrees // 90)
    frame = _first_and_last(_encode_quarters(stored, degrees, mirrored, container))[0]
    pixels_CHW = _convert(frame, ClipGeometry(frames=1, height=16, width=16))
    quarters = pixels_CHW[0].reshape(2, 8, 2, 8)[:, 2:6, :, 2:6].mean(axis=(1, 3))
    np.testing.assert_allclose(quarters, CORNERS, atol=4)


def _encode_quarters(levels: NDArray[np.uint8], degrees: int, mirrored: bool, container: str) -> bytes:
    sink = io.BytesIO()
    with av.open(sink, mode="w", format=container) as output:
        stream = output.add_stream("libx264", rate=10, options={"crf": "4", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        if degrees or mirrored:
            stream.set_display_rotation(degrees, hflip=mirrored)
        pixels_HW = np.kron(levels, np.ones((SIZE[1] // 2, SIZE[0] // 2), np.uint8))
        for _ in range(2):
            output.mux(stream.encode(VideoFrame.from_ndarray(np.stack([pixels_HW] * 3, axis=-1), format="rgb24")))
        output.mux(stream.encode(None))
    return sink.getvalue()


def test_the_shape_of_pixels_makes_no_difference():
    plain = encode(Recipe(options={"crf": "4"}, frames=2))
    wide = encode(Recipe(options={"crf": "4", "x264-params": "sar=16/11"}, frames=2))
    (first, _), (stretched, _) = _first_and_last(plain), _first_and_last(wide)
    np.testing.assert_array_equal(_convert(first, SCALED), _convert(stretched, SCALED))


@pytest.mark.parametrize("name", ["interlaced.mp4", "interlaced-mpeg2.ts"])
def test_fields_are_taken_as_the_decoder_wove_them(name):
    frame, _ = _first_and_last(odd_video(name))
    assert frame.interlaced_frame
    progressive = VideoFrame.from_ndarray(frame.to_ndarray(), format=frame.format.name)
    progressive.colorspace, progressive.color_range = frame.colorspace, frame.color_range
    np.testing.assert_array_equal(_convert(frame, SCALED), _convert(progressive, SCALED))
