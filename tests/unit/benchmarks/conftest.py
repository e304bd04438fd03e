"""Scripts under ``benchmarks/`` as modules: they import one another by their bare names."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark_module(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """Import the module that the test's own module names in ``SCRIPT``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        yield importlib.import_module(request.module.SCRIPT)
