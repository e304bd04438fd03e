"""The fields of an interlaced picture were scaled one by one, so that every other row of a small one was of another moment."""

from __future__ import annotations

import io

import av
import numpy as np
from av.video.frame import VideoFrame

from cdmodel.decode import ClipReader
from cdmodel.sampling import ClipGeometry, ClipSampling


def test_fields_of_two_moments_blend_in_a_small_picture():
    reader = ClipReader(io.BytesIO(_encode_bright_and_dark_field()), "fields", ClipSampling())
    [batch] = reader.read_clips(ClipGeometry(frames=1, height=16, width=16))
    rows_H = batch.pixels_NTCHW[0, 0, :, 2:-2, 2:-2].astype(int).mean(axis=(0, 2))
    assert np.abs(np.diff(rows_H)).max() < 10


def _encode_bright_and_dark_field() -> bytes:
    pixels_HWC = np.full((64, 64, 3), 40, np.uint8)
    pixels_HWC[::2] = 200
    sink = io.BytesIO()
    with av.open(sink, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "4", "x264-params": "interlaced=1"})
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        container.mux(stream.encode(VideoFrame.from_ndarray(pixels_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return sink.getvalue()
