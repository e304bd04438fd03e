"""A registry whose users die at any step, or come all at once: no half bundle is seen, and no move is lost or doubled."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from watched_disk import EFFECTS, Crash, DiesAt, Moment, Step, WatchedDisk, steps_of

from cdmodel.bundle import model_version, read_manifest
from cdmodel.errors import RegistryConflict
from cdmodel.testing import write_tiny_bundle
from storage.registry import open_registry
from tasks.move_alias import Mover, promote_bundle, roll_back

REPOSITORY = Path(__file__).parents[2]
PROCESSES = 50
KILLS = 6


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    for seed in range(2):
        write_tiny_bundle(folder / str(seed), seed=seed)
    return folder / "0", folder / "1"


@pytest.fixture
def in_use(tmp_path: Path, bundles: tuple[Path, Path]) -> Path:
    """A registry with a bundle in production."""
    promote_bundle(str(tmp_path / "in-use"), str(bundles[0]), "production", Mover(moved_by="before"))
    return tmp_path / "in-use"


def _version(folder: Path) -> str:
    return model_version(read_manifest(folder))


def _promote(registry: Path, bundle: Path) -> None:
    promote_bundle(str(registry), str(bundle), "production", Mover(moved_by="somebody"))


def _check(registry: Path, allowed: set[str]) -> None:
    """Every bundle that can be seen is whole, and the alias means one of them."""
    opened = open_registry(str(registry))
    for bundle in opened.bundles():
        assert model_version(read_manifest(Path(bundle.uri))) == bundle.model_version
    move = opened.current("production")
    assert move is not None
    assert move.model_version in allowed
    assert opened.bundle_uri(move.model_version)
    assert [one.number for one in opened.history("production")] == list(range(1, move.number + 1))


def _points(steps: list[Step]) -> list[tuple[int, Moment]]:
    points: list[tuple[int, Moment]] = [(step.number, "before") for step in steps if step.kind in EFFECTS]
    return [*points, *((step.number, "half") for step in steps if step.kind == "write"), (steps[-1].number, "after")]


@pytest.mark.parametrize("lost", [None, "names", "content"], ids=["crash", "names lost", "content lost"])
def test_a_death_at_any_step_of_a_promotion_leaves_no_half_bundle_and_the_next_one_completes_it(
    in_use: Path, bundles: tuple[Path, Path], disk: WatchedDisk, lost: Any
):
    old, new = map(_version, bundles)
    undisturbed = shutil.copytree(in_use, in_use.with_name("undisturbed"))
    steps = steps_of(disk, partial(_promote, undisturbed, bundles[1]))
    assert sum(step.kind == "link" for step in steps) == 4, "three files and a move"
    for number, moment in _points(steps):
        registry = shutil.copytree(in_use, in_use.with_name(f"{number}-{moment}"))
        disk.forget_unflushed()
        with disk.process(DiesAt(number, moment)), pytest.raises(Crash):
            _promote(registry, bundles[1])
        if lost is not None:
            disk.cut_power(lost)
        try:
            _check(registry, {old, new})
            _promote(registry, bundles[1])
            _check(registry, {new})
        except BaseException as error:
            error.add_note(f"after a death {moment} {steps[number - 1]}")
            raise
        shutil.rmtree(registry)


def test_a_death_at_any_step_of_the_first_promotion_is_made_good_by_the_next(
    tmp_path: Path, bundles: tuple[Path, Path], disk: WatchedDisk
):
    steps = steps_of(disk, partial(_promote, tmp_path / "undisturbed", bundles[0]))
    for number, moment in _points(steps):
        registry = tmp_path / f"{number}-{moment}"
        with disk.process(DiesAt(number, moment)), pytest.raises(Crash):
            _promote(registry, bundles[0])
        _promote(registry, bundles[0])
        _check(registry, {_version(bundles[0])})


def test_processes_that_the_kernel_kills_at_a_promotion_leave_a_registry_in_use(
    in_use: Path, bundles: tuple[Path, Path], disk: WatchedDisk
):
    undisturbed = shutil.copytree(in_use, in_use.with_name("undisturbed"))
    steps = [step.number for step in steps_of(disk, partial(_promote, undisturbed, bundles[1])) if step.kind in EFFECTS]
    chosen = steps[:: len(steps) // KILLS][:KILLS]
    killed = [shutil.copytree(in_use, in_use.with_name(f"killed-{number}")) for number in chosen]
    ends = _run(kind="killed", registry=list(map(str, killed)), bundles=[str(bundles[1])], steps=chosen)
    assert ends == [signal.SIGKILL] * KILLS
    for registry in killed:
        _check(registry, set(map(_version, bundles)))
        _promote(registry, bundles[1])
        _check(registry, {_version(bundles[1])})


def test_of_fifty_promotions_at_once_each_wins_one_number_and_the_history_has_all(
    in_use: Path, bundles: tuple[Path, Path]
):
    numbers = _run(kind="promote", registry=str(in_use), bundles=list(map(str, bundles)), processes=PROCESSES)
    assert sorted(numbers) == list(range(2, PROCESSES + 2))
    history = open_registry(str(in_use)).history("production")
    assert [move.number for move in history] == list(range(1, PROCESSES + 2))
    assert {move.moved_by: move.number for move in history[1:]} == {str(i): n for i, n in enumerate(numbers)}
    assert [move.previous for move in history[1:]] == [move.model_version for move in history[:-1]]
    _check(in_use, set(map(_version, bundles)))
    assert {bundle.model_version for bundle in open_registry(str(in_use)).bundles()} == set(map(_version, bundles))


def test_of_fifty_moves_that_follow_the_same_one_exactly_one_wins(in_use: Path, bundles: tuple[Path, Path]):
    answers = _run(kind="move", registry=str(in_use), bundles=[_version(bundles[0])], processes=PROCESSES, after=1)
    assert sorted(answers, key=str) == [2, *[None] * (PROCESSES - 1)]
    assert len(open_registry(str(in_use)).history("production")) == 2


def test_a_rollback_that_lost_a_race_is_refused(in_use: Path, bundles: tuple[Path, Path], monkeypatch):
    _promote(in_use, bundles[1])
    moves = open_registry(str(in_use))
    rollback_version: Callable[..., str | None] = type(moves).rollback_version

    def decide_while_another_moves(*args: Any) -> str | None:
        _promote(in_use, bundles[0])
        return rollback_version(*args)

    monkeypatch.setattr(type(moves), "rollback_version", decide_while_another_moves)
    with pytest.raises(RegistryConflict, match="has moved since"):
        roll_back(str(in_use), "production", Mover(moved_by="late"))
    assert moves.last_number("production") == 3


def _run(**work: object) -> list[Any]:
    process = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("registry_processes.py"))],
        input=json.dumps(work),
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        timeout=120,
        env={"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
    )
    assert process.returncode == 0, process.stderr
    answers = json.loads(process.stdout)
    assert isinstance(answers, list)
    return answers
