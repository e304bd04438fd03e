"""Conversion as on a device, against the CPU's; and what this machine says of its GPU.

H height, W width, C channels.
"""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch
from av.codec.hwaccel import HWAccel
from av.video.frame import VideoFrame
from fake_gpu import DeviceFrame
from numpy.typing import NDArray
from odd_videos import odd_video

from cdmodel.decode import ClipReader
from cdmodel.decode_plan import GpuLost
from cdmodel.encode import encode_mp4
from cdmodel.nvdec import DeviceConverter, NvdecPictures, find_gpu
from cdmodel.open_stream import open_stream
from cdmodel.picture_conversion import PictureConverter
from cdmodel.sampling import ClipGeometry, ClipSampling

BT601, BT709, BT2020, UNTAGGED = 6, 1, 9, 2
LIMITED, FULL, UNKNOWN_RANGE = 1, 2, 0
LEVELS = 2
CPU = torch.device("cpu")
ON_CUDA = torch.cuda.is_available()


def _smooth_frame(pix_fmt: str, matrix: int, color_range: int, size: tuple[int, int] = (96, 64)) -> VideoFrame:
    """Return a picture of slow waves, all of whose colours can be shown."""
    frame = VideoFrame(*size, pix_fmt)
    deep = pix_fmt.endswith("10le")
    for number, plane in enumerate(frame.planes):
        rows_HW = np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8).reshape(plane.height, -1)
        y_H1 = (np.arange(plane.height)[:, None] + 0.5) / plane.height
        x_1W = (np.arange(plane.width)[None, :] + 0.5) / plane.width
        wave_HW = np.sin(2 * np.pi * (x_1W + (0.3 + number) * y_H1) + number)
        level_HW = (126 + 60 * wave_HW) if number == 0 else (128 + 20 * wave_HW)
        rows_HW[:, : plane.width] = np.rint(level_HW * (4 if deep else 1))
    frame.colorspace, frame.color_range = matrix, color_range
    return frame


def _on_cpu(frame: VideoFrame, height: int, width: int) -> NDArray[np.int16]:
    converter = PictureConverter(height, width)
    pixels_CHW = converter.allocate((3, height, width))
    converter.convert_into(pixels_CHW, frame)
    return pixels_CHW.astype(np.int16)


def _on_device(frame: object, height: int, width: int, codec: str = "vp9") -> NDArray[np.int16]:
    converter = DeviceConverter(height, width, codec, CPU)
    pixels_CHW = converter.allocate((3, height, width))
    converter.convert_into(pixels_CHW, frame)
    return pixels_CHW.numpy().astype(np.int16)


def _furthest(one: NDArray[np.int16], other: NDArray[np.int16]) -> int:
    return int(np.abs(one - other).max())


@pytest.mark.parametrize("size", [(24, 32), (64, 96), (100, 150), (50, 33)])
@pytest.mark.parametrize("color_range", [LIMITED, FULL, UNKNOWN_RANGE])
@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020, UNTAGGED, 0, 4, 7, 8, 10])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
def test_a_device_shows_what_the_cpu_shows_within_a_few_levels(pix_fmt, matrix, color_range, size):
    frame = _smooth_frame(pix_fmt, matrix, color_range)
    expected = _on_cpu(frame, *size)
    assert np.ptp(expected) > 100
    assert _furthest(_on_device(DeviceFrame(frame), *size), expected) <= LEVELS


def test_the_matrix_and_the_range_make_a_difference_that_the_comparison_would_see():
    pictures = [
        _on_device(DeviceFrame(_smooth_frame("yuv420p", matrix, color_range)), 24, 32)
        for matrix, color_range in ((BT601, LIMITED), (BT709, LIMITED), (BT601, FULL))
    ]
    assert _furthest(pictures[0], pictures[1]) > LEVELS
    assert _furthest(pictures[0], pictures[2]) > LEVELS


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("level", [0, 16, 235, 255])
@pytest.mark.parametrize("color_range", [LIMITED, FULL])
def test_black_and_white_are_met_exactly(pix_fmt, level, color_range):
    frame = VideoFrame(16, 16, pix_fmt)
    deep = pix_fmt.endswith("10le")
    for plane, code in zip(frame.planes, (level, 128, 128), strict=True):
        highest = deep and code == 255 and color_range == FULL
        memory = np.frombuffer(memoryview(plane), np.uint16 if deep else np.uint8)
        memory[:] = 1023 if highest else code * 4 if deep else code
    frame.color_range = color_range
    shown = level if color_range == FULL else {0: 0, 16: 0, 235: 255, 255: 255}[level]
    assert _furthest(_on_device(DeviceFrame(frame), 8, 8), np.int16(shown)) <= (
        1 if deep and color_range == FULL else 0
    )


def _first_frame(content: bytes) -> VideoFrame:
    with av.open(io.BytesIO(content)) as container:
        return next(container.decode(video=0))


@pytest.mark.parametrize("name", ["turned-90.mp4", "turned-180.mov", "turned-270.mkv", "mirrored.mp4"])
def test_turned_and_mirrored_pictures_are_upright(name):
    frame = _first_frame(odd_video(name))
    expected = _on_cpu(frame, 40, 56)
    assert _furthest(expected, expected[..., ::-1]) > 50
    assert _furthest(_on_device(DeviceFrame(frame), 40, 56, "h264"), expected) <= LEVELS


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("closed-groups-b-pyramid.mp4", "h264"),
        ("full-range-bt709.mp4", "h264"),
        ("hevc-open-groups.mp4", "hevc"),
        ("mpeg2.ts", "mpeg2video"),
        ("mpeg4-b-frames.avi", "mpeg4"),
        ("vp9.webm", "vp9"),
    ],
)
def test_chroma_lies_where_each_codec_has_it(name, codec):
    frame = _first_frame(odd_video(name))
    expected = _on_cpu(frame, 24, 32)
    assert _furthest(_on_device(DeviceFrame(frame), 24, 32, codec), expected) <= LEVELS
    elsewhere = "h264" if codec == "vp9" else "vp9"
    assert _furthest(_on_device(DeviceFrame(frame), 24, 32, elsewhere), expected) > 4 * LEVELS


def test_frames_that_the_cpu_has_decoded_are_refused():
    with pytest.raises(GpuLost, match="does not take this video"):
        _on_device(_smooth_frame("nv12", UNTAGGED, LIMITED), 8, 8)


def test_formats_that_are_not_known_are_refused():
    frame = DeviceFrame(_smooth_frame("yuv420p", UNTAGGED, LIMITED))
    frame.sw_format = av.VideoFormat("yuv444p")
    with pytest.raises(GpuLost, match="pictures of yuv444p"):
        _on_device(frame, 8, 8)


def test_a_device_that_fails_is_lost_and_says_why():
    class BrokenPlane:
        def __dlpack__(self) -> object:
            raise NotImplementedError("DLPack export is only implemented for CUDA hw frames")

    frame = DeviceFrame(_smooth_frame("yuv420p", UNTAGGED, LIMITED))
    frame.planes = (BrokenPlane(), BrokenPlane())
    with pytest.raises(GpuLost, match=r"the GPU cannot convert a picture \(DLPack export is only"):
        _on_device(frame, 8, 8)


@pytest.mark.skipif(ON_CUDA, reason="this machine has a CUDA device")
def test_without_a_gpu_one_sentence_says_so():
    assert find_gpu() == "this worker sees no CUDA device"


@pytest.mark.skipif(ON_CUDA, reason="this machine has a CUDA device")
def test_a_container_that_cannot_be_opened_for_a_gpu_says_so():
    content = encode_mp4([np.zeros((48, 64, 3), np.uint8)] * 4, 4)
    accelerated = HWAccel("cuda", allow_software_fallback=True, is_hw_owned=True)
    with (
        pytest.raises(GpuLost, match="the GPU's decoder cannot be opened"),
        open_stream(io.BytesIO(content), "test:video", accelerated),
    ):
        pass


@pytest.mark.gpu
@pytest.mark.skipif(not ON_CUDA, reason="needs a CUDA device")
def test_a_real_gpu_shows_what_the_cpu_shows():
    y_H11, x_1W1 = np.mgrid[0:720, 0:1280][..., None] / 720
    phases = np.array([0.0, 1.0, 2.0])
    frames = [
        np.rint(127 + 90 * np.sin(3 * x_1W1 + 2 * y_H11 + phases + 0.1 * number)).astype(np.uint8)
        for number in range(50)
    ]
    content = encode_mp4(frames, 25)
    gpu = find_gpu()
    assert isinstance(gpu, NvdecPictures)
    geometry = ClipGeometry(frames=8, height=112, width=112)
    on_gpu = ClipReader(io.BytesIO(content), "test:video", ClipSampling(), pictures=gpu)
    on_cpu = ClipReader(io.BytesIO(content), "test:video", ClipSampling())
    for found, expected in zip(on_gpu.read_clips(geometry), on_cpu.read_clips(geometry), strict=True):
        assert isinstance(found.pixels_NTCHW, torch.Tensor)
        assert found.pixels_NTCHW.is_cuda
        assert (found.clip_indices, found.spans) == (expected.clip_indices, expected.spans)
        assert np.abs(found.to_host().astype(np.int16) - expected.to_host()).max() <= LEVELS
    assert on_gpu.summary().mode == "nvdec"
    assert on_gpu.summary().fallback_reason is None
