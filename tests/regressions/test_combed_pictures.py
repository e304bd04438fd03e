"""The fields of an interlaced picture were scaled one by one, so that every other row of a small one was of another moment."""

from __future__ import annotations

import io

import av
import numpy as np
from odd_videos import odd_video

from cdmodel.decode import ClipReader
from cdmodel.sampling import ClipGeometry, ClipSampling

ROWS = 16


def test_a_small_interlaced_picture_is_the_mean_of_the_woven_rows():
    content = odd_video("interlaced.mp4")
    with av.open(io.BytesIO(content)) as container:
        frame = next(container.decode(video=0))
        assert frame.interlaced_frame
        luma_HW = frame.to_ndarray()[: frame.height, : frame.width].astype(float)
    reader = ClipReader(io.BytesIO(content), "interlaced", ClipSampling(clip_seconds=0.1))
    [batch, *_] = reader.read_clips(ClipGeometry(frames=1, height=ROWS, width=16))
    rows = batch.pixels_NTCHW[0, 0].astype(float).mean(axis=(0, 2))
    woven_rows = luma_HW.reshape(ROWS, -1).mean(axis=1)
    assert np.corrcoef(rows, woven_rows)[0, 1] > 0.97
