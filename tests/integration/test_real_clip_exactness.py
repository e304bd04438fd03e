"""Every real video that can be decoded gives the clips of a plain decode, to the bit."""

from __future__ import annotations

import pytest
from reference_reader import assert_real_video_exact, find_real_videos

PARTS = 8


@pytest.mark.parametrize("part", range(PARTS))
def test_clips_of_real_videos(real_videos, part):
    files = find_real_videos(real_videos)[part::PARTS]
    decoded = sum(assert_real_video_exact(path, seed) for seed, path in enumerate(files))
    assert decoded > len(files) // 2
