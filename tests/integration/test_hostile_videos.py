"""Whatever a file holds, it ends in clips or in a VideoError, soon and in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lying_videos import HUGE, LARGE

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
def test_bytes_flipped_at_random(name: str) -> None:
    child = _run("fuzzed_videos.py", json.dumps([(name, seed) for seed in range(SEEDS)]))
    lines = [json.loads(line) for line in child.stdout.splitlines()]
    assert child.returncode == 0, f"{lines[-1:]}\n{child.stderr[-3000:]}"
    outcomes = lines[1::2]
    assert len(outcomes) == SEEDS
    assert max(outcome["cpu_seconds"] for outcome in outcomes) < MOST_SECONDS
    assert max(outcome["peak_megabytes"] for outcome in outcomes) < MOST_MEGABYTES
    assert any(outcome["is_damaged"] for outcome in outcomes)


@pytest.mark.parametrize(
    ("promise", "number", "outcomes"),
    [
        ("promise_png", HUGE, {"decode_error", "too_large", "unreadable"}),
        ("promise_gif", 65_000, {"decode_error", "too_large", "unreadable"}),
        ("promise_h264", HUGE, {"decode_error", "too_large", "unreadable"}),
        ("promise_png", LARGE, {"too_large"}),
        ("promise_gif", LARGE, {"too_large"}),
        ("promise_h264", LARGE, {"too_large"}),
        # What the container says of the size is of no consequence.
        ("promise_ivf", 65_000, {"2 clips"}),
        ("promise_frames", 10**6, {"decode_error"}),
        ("promise_frames", 10**9, {"decode_error", "no_frames"}),
    ],
)
def test_a_header_that_promises_more_than_there_is(promise: str, number: int, outcomes: set[str]) -> None:
    child = _run("lying_videos.py", "", promise, str(number))
    assert child.returncode == 0, child.stderr[-3000:]
    told = json.loads(child.stdout)
    assert told["outcome"] in outcomes
    assert told["cpu_seconds"] < MOST_SECONDS
    assert told["megabytes"] < MOST_MEGABYTES


def _run(script: str, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a script of the tests in a process of its own, which may crash or hang."""
    return subprocess.run(
        [sys.executable, str(TESTS / script), *arguments],
        input=text,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=TESTS.parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))},
    )
