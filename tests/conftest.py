"""Markers by folder, the real videos, and quiet defaults for servers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flows.embedded_prefect import use_embedded_prefect

ROOT = Path(__file__).parent.parent
FAST_PLACES = ("unit", "property", "regressions", "faults", "test_architecture.py")

use_embedded_prefect("CRITICAL")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        place = item.path.relative_to(ROOT / "tests").parts[0]
        item.add_marker("fast" if place in FAST_PLACES else place)


@pytest.fixture(scope="session")
def real_videos() -> Path:
    """The folder of real videos; its tests are skipped where it is absent."""
    folder = Path(os.environ.get("CDLABEL_TEST_VIDEOS") or ROOT.parent / "shared" / "videos").resolve()
    if not (folder / "actions").is_dir():
        pytest.skip(f"no real videos at {folder}; set CDLABEL_TEST_VIDEOS")
    return folder


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The folder of real pretrained weights; its tests are skipped where it is absent."""
    folder = Path(os.environ.get("CDLABEL_TEST_WEIGHTS") or ROOT.parent / "shared" / "weights").resolve()
    if not folder.is_dir():
        pytest.skip(f"no real weights at {folder}; set CDLABEL_TEST_WEIGHTS")
    return folder
