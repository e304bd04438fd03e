"""A video that had the wanted size already came out with its last columns unwritten, at widths such as 24 or 120."""

from __future__ import annotations

import io

import numpy as np
import pytest

from cdmodel.decode import ClipReader
from cdmodel.encode import encode_mp4
from cdmodel.sampling import ClipGeometry, ClipSampling


@pytest.mark.parametrize("width", [18, 24, 34, 40, 120, 136])
def test_every_column_of_a_picture_that_needs_no_scaling_is_written(width):
    video = encode_mp4([np.full((32, width, 3), 90, np.uint8)] * 8, 8)
    reader = ClipReader(io.BytesIO(video), "flat", ClipSampling())
    pixels = np.concatenate(
        [batch.pixels_NTCHW for batch in reader.read_clips(ClipGeometry(frames=8, height=32, width=width))]
    )
    assert int(pixels.min()) >= 80
    assert int(pixels.max()) <= 100
