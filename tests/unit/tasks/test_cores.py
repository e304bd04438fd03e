"""Cores of a container are those of its quota, not those of its machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tasks.cores import count_cores


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("9900000 100000", 8), ("nonsense", 8), ("", 8)],
)
def test_quota_of_the_second_version(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert count_cores(tmp_path) == cores


@pytest.mark.parametrize(("quota", "cores"), [("-1", 8), ("400000", 4)])
def test_quota_of_the_first_version(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000\n")
    assert count_cores(tmp_path) == cores


def test_no_control_group_is_no_limit(tmp_path: Path) -> None:
    assert count_cores(tmp_path / "missing") == 8
