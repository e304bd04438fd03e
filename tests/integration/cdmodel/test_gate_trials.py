"""A few trials of benchmarks/gate_trials.py: real students, trained on sound and on broken data, put to the gate."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("gate_trials")


@pytest.mark.matrix
@pytest.mark.timeout(3600)
def test_poisoned_cycles_are_stopped_and_a_good_one_passes(trials: ModuleType, tmp_path: Path):
    """The first four ways to go wrong, and four good cycles, of which chance may keep one."""
    pool = trials.load_pool(tmp_path, 3)
    found = trials.run_trials(pool, range(8), 3, quiet=True)
    poisoned = [trial for trial in found if trial["poison"]]
    assert len(poisoned) == 4
    assert [trial["poison"] for trial in poisoned if trial["promoted"]] == []
    assert sum(bool(trial["promoted"]) for trial in found if not trial["poison"]) >= 3
