"""Whatever bytes of a video change, it ends in clips or in a VideoError, soon and in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SEEDS = 12
MOST_SECONDS = 10.0
MOST_MEGABYTES = 1500
NAMES = (
    "closed-groups-b-pyramid.mp4",
    "fragments.mp4",
    "open-groups.mkv",
    "h264.ts",
    "h264.flv",
    "raw.h264",
    "hevc-open-groups.mp4",
    "vp9.webm",
    "av1.mp4",
    "mpeg2.ps",
    "mpeg4-b-frames.avi",
    "motion-jpeg.avi",
    "prores.mov",
    "ffv1.mkv",
    "uneven.gif",
    "interlaced.mp4",
)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_flipped_at_random(name):
    cases = [(name, seed) for seed in range(SEEDS)]
    child = subprocess.run(
        [sys.executable, str(TESTS / "fuzzed_videos.py")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))},
    )
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"{lines[-1:]}\n{child.stderr[-3000:]}"
    outcomes = lines[1::2]
    assert len(outcomes) == SEEDS
    assert max(outcome["cpu_seconds"] for outcome in outcomes) < MOST_SECONDS
    assert max(outcome["peak_megabytes"] for outcome in outcomes) < MOST_MEGABYTES
    assert any(outcome["is_damaged"] for outcome in outcomes)
