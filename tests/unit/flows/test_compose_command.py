"""``cdlabel compose`` in this process: what it prints, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cdmodel.encode import encode_mp4
from flows.cli import app
from flows.command import EXIT_USAGE

SMALL = ("--set", "height=16", "--set", "width=16", "--set", "frames_per_second=4", "--set", "shortest_seconds=1")


@pytest.fixture
def footage(tmp_path: Path) -> Path:
    for number in range(8):
        for folder in ("trimmed/wave", "others"):
            path = tmp_path / folder / f"{number}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_mp4([np.full((16, 16, 3), 20 * number, dtype=np.uint8)] * 8, 4))
    (tmp_path / "trimmed" / "wave" / "broken.mp4").write_bytes(b"no video")
    return tmp_path


def _compose(footage: Path, *options: str):
    places = (str(footage / "trimmed"), "--backgrounds", str(footage / "others"), "--out", str(footage / "out"))
    return CliRunner().invoke(app, ["compose", *places, *SMALL, *options])


def test_it_prints_what_it_made_and_what_it_left_out(footage):
    finished = _compose(footage, "--distractors", "0.5", "--json")
    assert finished.exit_code == 0, finished.output
    facts = json.loads(finished.stdout)
    assert (facts["videos"], facts["distractors"]) == (8, 0.5)
    assert [Path(video["uri"]).name for video in facts["videos_skipped"]] == ["broken.mp4"]
    assert "broken.mp4" in finished.stderr
    assert (footage / "out" / "segments.csv").exists()


def test_bad_arguments_end_in_one_line(footage):
    finished = _compose(footage, "--distractors", "1.5")
    assert finished.exit_code == EXIT_USAGE
    assert finished.stderr.startswith("cdlabel: ")
    assert len(finished.stderr.splitlines()) == 1
    assert "distractors" in finished.stderr
    assert not (footage / "out").exists()
