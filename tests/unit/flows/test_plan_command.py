"""What ``plan`` says, and what is refused before any work."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cdmodel.cost_estimate import Estimate
from flows.cli import app
from flows.estimate_text import estimate_text
from tasks.sample_run import RunEstimate

NOTHING = Estimate(value=0.0, low=0.0, high=0.0)
ESTIMATE = RunEstimate(
    videos=1000,
    sampled_videos=20,
    sampled_failures=0,
    workers=4,
    wall_seconds=Estimate(value=7200.0, low=6000.0, high=9000.0),
    cpu_seconds=Estimate(value=100.0, low=90.0, high=110.0),
    gpu_seconds=NOTHING,
    teacher_seconds=NOTHING,
    student_flops=Estimate(value=2e12, low=1e12, high=3e12),
    teacher_flops=Estimate(value=5e15, low=4e15, high=6e15),
    audit_flops=NOTHING,
    usd=None,
    budget_share=1.0,
    stage_seconds={
        "decode": Estimate(value=75.0, low=1.0, high=2.0),
        "teacher": Estimate(value=25.0, low=1.0, high=2.0),
    },
    slowest_stage="decode",
    startup_seconds=30.0,
    publish_seconds=1.5,
    peak_memory_bytes=2_500_000_000,
)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        (folder / name).write_bytes(b"no video")
    return folder


def test_a_sample_of_one_video_is_refused_before_any_work(videos: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["plan", str(videos), "--out", str(tmp_path / "out"), "--sample", "1"])
    assert result.exit_code == 2
    assert "--sample: must be at least 2" in result.stderr
    assert result.stdout == ""


def test_a_run_whose_device_has_no_price_is_refused_before_anything_is_written(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cdmodel.models.name_local_device", lambda: "cuda:NVIDIA L4")
    prices = ["--set", "prices.usd_per_cpu_hour=0.04", "--set", "prices.devices.cuda:A100=2"]
    result = CliRunner().invoke(app, ["label", str(videos), "--out", str(tmp_path / "out"), *prices])
    assert result.exit_code == 2
    assert 'no price for "cuda:NVIDIA L4", only for cpu, cuda:A100' in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_estimate_is_readable() -> None:
    assert estimate_text(ESTIMATE).splitlines() == [
        "estimated from 20 of 1,000 videos; 95% intervals over which videos were drawn",
        "wall time      2.0 h  (100.0 min to 2.5 h)",
        "CPU time       100.0 s  (90.0 s to 110.0 s)",
        "GPU time       0.0 s  (0.0 s to 0.0 s)",
        "student        2.00 TFLOPs  (1.00 TFLOPs to 3.00 TFLOPs)",
        "teacher        5.00 PFLOPs  (4.00 PFLOPs to 6.00 PFLOPs)",
        "memory         2.50 GB at most in the sample, all workers together",
        "slowest stage  decode (decode 75%, teacher 25%)",
        "wall time is with 4 workers; 30.0 s of it to start, 1.5 s to publish",
    ]


def test_an_estimate_names_failures_prices_and_the_audit_where_there_are_any() -> None:
    audited = replace(ESTIMATE, sampled_failures=2, usd=Estimate(value=1.0, low=0.5, high=2.0), audit_flops=NOTHING)
    lines = estimate_text(replace(audited, audit_flops=Estimate(value=3e9, low=1e9, high=5e9))).splitlines()
    assert lines[0].startswith("estimated from 20 of 1,000 videos, 2 of them failed;")
    assert "price          $1.00  ($0.50 to $2.00)" in lines
    assert "audit          3.00 GFLOPs  (1.00 GFLOPs to 5.00 GFLOPs)" in lines
