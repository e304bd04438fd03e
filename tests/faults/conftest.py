"""The builders of small runs are those of the unit tests; the fixtures are an archive and a watched disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit" / "storage"))

from attempt_rows import publish_in_small_files
from small_archive import Archive, Clock, open_archive
from watched_disk import WatchedDisk

from cdmodel.testing import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    write_tiny_bundle(folder)
    return folder


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[WatchedDisk]:
    """Everything that the storage layer does, step by step."""
    disk = WatchedDisk()
    disk.install(monkeypatch)
    return disk


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    clock.install(monkeypatch)
    return clock


@pytest.fixture
def archive(tmp_path: Path, tiny_bundle: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """Four small videos, in shards of two and published in files of two, and an OUT where nothing stands yet."""
    publish_in_small_files(monkeypatch)
    return open_archive(tmp_path, tiny_bundle, clock)
