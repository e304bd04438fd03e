"""Every real video that can be decoded gives the clips of a plain decode, to the bit; the long ones by ``make test-faults``."""

from __future__ import annotations

from pathlib import Path

import pytest
from reference_reader import assert_real_video_exact, find_real_videos

PARTS = 8
TWINS = ("mp4__long_1080p_videoonly_lowbitrate.mp4",)
"""Long, and the same pictures as in another file."""


LONGEST = (1, 2)
"""Parts with the long videos, which take as much time as all others."""


@pytest.mark.parametrize(
    "part", [pytest.param(part, marks=[pytest.mark.matrix] if part in LONGEST else []) for part in range(PARTS)]
)
def test_clips_of_real_videos(real_videos: Path, part: int) -> None:
    files = [path for path in find_real_videos(real_videos)[part::PARTS] if path.name not in TWINS]
    decoded = sum(assert_real_video_exact(path, seed) for seed, path in enumerate(files))
    assert decoded > len(files) // 2
