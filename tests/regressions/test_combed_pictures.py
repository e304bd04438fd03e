"""The fields of an interlaced picture were scaled one by one, so that every other row of a small one was of another moment."""

from __future__ import annotations

import io

import numpy as np
from odd_videos import odd_video

from cdmodel.decode import ClipReader
from cdmodel.sampling import ClipGeometry, ClipSampling


def test_neighbouring_rows_of_an_interlaced_picture_are_of_one_moment():
    rows = []
    for name in ("interlaced.mp4", "long.mp4"):
        reader = ClipReader(io.BytesIO(odd_video(name)), name, ClipSampling())
        [batch, *_] = reader.read_clips(ClipGeometry(frames=2, height=12, width=12))
        rows.append(batch.pixels_NTCHW[0, 0].astype(int).mean(axis=(0, 2)))
    interlaced, progressive = rows
    # The same drawing: rows that alternate would be as far from it as the two fields from one another.
    np.testing.assert_allclose(interlaced, progressive, atol=12)
