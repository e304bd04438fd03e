"""The rules of docs and pyproject that no unit test sees: who may import whom, and what an import may cost."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PACKAGES = PYPROJECT["tool"]["setuptools"]["packages"]
HEAVY = ("torch", "av", "prefect", "distributed", "dask", "scipy", "sklearn")


def _run(code: str) -> str:
    # From the root, which holds the configuration of import-linter.
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_import_contract_of_pyproject_is_kept():
    pytest.importorskip("importlinter", reason="import-linter is not installed; it comes with the extra dev")
    output = _run("from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))")
    assert "0 broken" in output
    assert f"{len(PYPROJECT['tool']['importlinter']['contracts'])} kept" in output


@pytest.mark.parametrize(
    "modules",
    [
        "cdmodel, storage",
        "storage.views",
        "cdmodel.types, cdmodel.errors, cdmodel.cost",
        "cdmodel.bundle, cdmodel.risk",
        "tasks.plan_run",
    ],
)
def test_reading_tables_and_facts_and_planning_loads_nothing_heavy(modules):
    loaded = _run(f"import sys, {modules}; print([name for name in {HEAVY} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_a_worker_needs_no_orchestrator_and_no_statistics_and_the_choice_of_a_teacher_no_transformers():
    unwanted = ("prefect", "distributed", "scipy", "sklearn", "transformers")
    modules = "tasks.label_shard, cdmodel.teacher_source"
    loaded = _run(f"import sys, {modules}; print([name for name in {unwanted} if name in sys.modules])")
    assert loaded.strip() == "[]"


def test_every_package_is_installed_by_name():
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found == set(PACKAGES) == set(PYPROJECT["tool"]["importlinter"]["root_packages"])


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_says_what_it_is_for_and_ships_its_types(package):
    text = (ROOT / package / "__init__.py").read_text()
    assert text.startswith('"""')
    assert (ROOT / package / "py.typed").exists()
    assert "py.typed" in PYPROJECT["tool"]["setuptools"]["package-data"][package]


def test_no_test_file_shares_its_name_with_another():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
