from __future__ import annotations

import io
from dataclasses import replace

import pytest
from odd_videos import odd_video

from cdmodel.gpu_choice import CodedVideo, look_at, refuse_gpu
from cdmodel.open_stream import open_stream
from cdmodel.sampling import ClipGeometry, ClipSampling

FULL_HD = CodedVideo(codec="h264", pixel_format="yuv420p", width=1920, height=1080, has_gpu_decoder=True)
DENSE = ClipGeometry(frames=8, height=112, width=112)
SPARSE = ClipGeometry(frames=2, height=112, width=112)
EVERY_SECOND = ClipSampling()


@pytest.mark.parametrize(
    ("changes", "geometry", "always", "if_worthwhile"),
    [
        ({}, DENSE, None, None),
        ({"pixel_format": "yuvj420p"}, DENSE, None, None),
        ({"pixel_format": "yuv420p10le"}, DENSE, "h264 of yuv420p10le", "h264 of yuv420p10le"),
        ({"pixel_format": "yuv444p"}, DENSE, "h264 of yuv444p", "h264 of yuv444p"),
        ({"pixel_format": None}, DENSE, "h264 of None", "h264 of None"),
        ({"codec": "hevc", "pixel_format": "yuv420p10le"}, DENSE, None, None),
        ({"codec": "vp9", "pixel_format": "yuv420p10le"}, DENSE, None, None),
        ({"codec": "av1", "pixel_format": "yuv420p10le"}, DENSE, None, None),
        ({"codec": "mpeg2video"}, DENSE, None, None),
        ({"codec": "mpeg4"}, DENSE, None, None),
        ({"codec": "vc1"}, DENSE, None, None),
        ({"codec": "mjpeg", "pixel_format": "yuvj420p"}, DENSE, "mjpeg has no decoder", "mjpeg has no decoder"),
        ({"codec": "libdav1d", "has_gpu_decoder": False}, DENSE, "libdav1d has no", "libdav1d has no"),
        ({"width": 1919}, DENSE, "odd number", "odd number"),
        ({"height": 1081}, DENSE, "odd number", "odd number"),
        ({"width": 1280, "height": 720}, DENSE, None, None),
        ({"width": 854, "height": 480}, DENSE, None, "854 x 480 are not worth"),
        ({}, SPARSE, None, "2 frames of a second are not worth"),
        ({}, replace(DENSE, keyframes_only=True), "keyframes alone", "keyframes alone"),
    ],
)
def test_what_a_gpu_is_asked_to_decode(changes, geometry, always, if_worthwhile):
    video = replace(FULL_HD, **changes)
    for device, reason in (("cuda", always), ("auto", if_worthwhile)):
        refusal = refuse_gpu(video, geometry, EVERY_SECOND, device)
        assert refusal == reason if reason is None else reason in refusal


def test_how_dense_a_pattern_is_depends_on_the_stride():
    assert refuse_gpu(FULL_HD, SPARSE, ClipSampling(clip_seconds=0.5, stride_seconds=0.5), "auto") is None
    assert refuse_gpu(FULL_HD, DENSE, ClipSampling(clip_seconds=1, stride_seconds=10), "auto") is not None


def _look(content: bytes) -> CodedVideo:
    with open_stream(io.BytesIO(content), "test:video") as opened:
        return look_at(opened)


def test_a_header_is_told_from_a_real_video():
    seen = _look(odd_video("closed-groups-b-pyramid.mp4"))
    assert seen == replace(FULL_HD, width=64, height=48)


def test_av1_is_known_to_be_decoded_by_a_library_of_the_cpu():
    seen = _look(odd_video("av1.mp4"))
    assert (seen.codec, seen.has_gpu_decoder) == ("libdav1d", False)
