"""A cycle of retraining that dies at any step, is gone on with, or meets another one. Training and judging are stood in for."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from watched_disk import EFFECTS, Crash, DiesAt, WatchedDisk, moments_of, steps_of

from cdmodel.bundle import model_version, read_manifest, write_manifest
from cdmodel.errors import RegistryError, SourceError
from cdmodel.gate_facts import GateCheck, GateDecision
from cdmodel.testing import write_tiny_bundle
from storage.cycle_store import AUDITS, COMPOSITION, EXAMPLES, newest_cycles
from storage.filesystem import Store, open_store
from storage.registry import Registry, open_registry
from storage.run_layout import RETRAIN_PREFIX
from storage.run_record import read_run_row
from tasks import retrain_cycle
from tasks.record_cycle import record_cycle
from tasks.retrain_cycle import CoolingDown, Cycle, collect, judge, open_cycle, promote, train
from tasks.retrain_request import RetrainRequest, RetrainSettings

NOW = datetime(2026, 12, 1, 6, tzinfo=UTC)
CHECK = GateCheck(
    name="accuracy_not_worse", on="benchmark", value=0.0, limit=-0.03, passed=True, decides=True, words="+0.0"
)


class Stage:
    """Stands in for what takes long: examples that are two files, a candidate that is a copy, a gate that is told."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.first, self.second = folder / "first", folder / "second"
        write_tiny_bundle(self.first)
        shutil.copytree(self.first, self.second)
        write_manifest(self.second, replace(read_manifest(self.second), provenance={"made": "anew"}))
        self.passes = True
        self.trainings = 0

    def begin_registry(self) -> Registry:
        registry = open_registry(str(self.folder / "models"), create=True)
        added = registry.add(self.first)
        registry.move("production", added.model_version, after=0, moved_by="test", reason="the first")
        return registry

    def collect_examples(self, request: Any, store: Store, now: datetime) -> None:
        for name, content in ((EXAMPLES, b"rows"), (AUDITS, b"rows"), (COMPOSITION, b'{"roots": ["/"]}')):
            store.create(name, content)

    def train_bundle(self, dataset: str, out: str, *_: Any, **__: Any) -> None:
        self.trainings += 1
        shutil.copytree(self.second, out)

    def judge_candidate(self, candidate: Path, production: Path, *_: Any, **__: Any) -> GateDecision:
        return GateDecision(
            verdict="promote" if self.passes else "keep",
            route="better" if self.passes else None,
            reason="better" if self.passes else "no better",
            candidate=model_version(read_manifest(candidate)),
            production=model_version(read_manifest(production)),
            checks=(CHECK,),
        )

    def request(self, **settings: Any) -> RetrainRequest:
        registry = str(self.folder / "models")
        return RetrainRequest(
            out=str(self.folder / "out"), settings=RetrainSettings(registry=registry, warm_start=False, **settings)
        )

    def turn(self, now: datetime = NOW) -> None:
        """Do what the flow does."""
        cycle = self.open(now)
        collect(cycle)
        candidate = train(cycle, self.folder / "work", lambda _: None)
        decision = judge(cycle, candidate, lambda _: None)
        record_cycle(cycle, candidate, decision, promote(cycle, candidate, decision, "test", now))

    def open(self, now: datetime = NOW, **settings: Any) -> Cycle:
        cycle = open_cycle(self.request(**settings), now)
        assert isinstance(cycle, Cycle)
        return cycle


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    found = Stage(tmp_path)
    for name in ("collect_examples", "train_bundle", "judge_candidate"):
        monkeypatch.setattr(retrain_cycle, name, getattr(found, name))
    return found


def test_a_cycle_promotes_what_passes_and_keeps_what_does_not(stage: Stage) -> None:
    registry = stage.begin_registry()
    stage.passes = False
    stage.turn()
    assert [move.model_version for move in registry.history("production")] == [version_of(stage.first)]
    assert current(registry, "candidate") == version_of(stage.second)
    stage.passes = True
    stage.turn(NOW + timedelta(hours=1))
    assert current(registry, "production") == version_of(stage.second)
    endings = [cycle.outcome() for cycle in newest_cycles(registry.store)]
    assert [ending.ending for ending in endings if ending] == ["promoted", "kept"]
    move = registry.history("production")[-1]
    assert (move.moved_by, move.reason, move.metrics) == ("test", "better", {"accuracy_not_worse (benchmark)": 0.0})


def test_a_cycle_that_dies_at_any_step_is_gone_on_with_and_ends_as_if_nothing_had_been(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = WatchedDisk()
    disk.install(monkeypatch)
    stage.begin_registry()
    steps = steps_of(disk, stage.turn)
    expected = state_of(stage.folder)
    effects = [step for step in steps if step.kind in EFFECTS]
    assert len(effects) > 20
    for step in effects:
        for moment in moments_of(step):
            for name in ("models", "out", "work"):
                shutil.rmtree(stage.folder / name, ignore_errors=True)
            registry = stage.begin_registry()
            with pytest.raises(Crash), disk.process(DiesAt(step.number, moment)):
                stage.turn()
            check_bundles(registry)
            stage.turn()
            found = state_of(stage.folder)
            assert found == expected, f"{step}, {moment}"


def test_production_that_moved_meanwhile_is_left_alone_and_the_reason_is_told(stage: Stage) -> None:
    registry = stage.begin_registry()
    cycle = stage.open()
    collect(cycle)
    candidate = train(cycle, stage.folder / "work", lambda _: None)
    decision = judge(cycle, candidate, lambda _: None)
    registry.move("production", version_of(stage.first), after=1, moved_by="somebody", reason="again")
    outcome = promote(cycle, candidate, decision, "test", NOW)
    assert outcome.ending == "refused"
    assert "production has moved since the cycle began" in outcome.reason
    assert current(registry, "production") == version_of(stage.first)


def test_other_settings_or_another_production_end_an_unfinished_cycle(stage: Stage) -> None:
    registry = stage.begin_registry()
    first = stage.open()
    assert stage.open().resumed
    second = stage.open(NOW + timedelta(minutes=1), cooldown_hours=1.0)
    assert not second.resumed
    ended = first.record.outcome()
    assert ended is not None
    assert (ended.ending, ended.reason) == ("abandoned", "a cycle with other settings was begun")
    registry.move("production", version_of(stage.first), after=1, moved_by="somebody", reason="again")
    third = stage.open(NOW + timedelta(minutes=2), cooldown_hours=1.0)
    assert not third.resumed
    assert third.begun.production_move == 2
    ended = second.record.outcome()
    assert ended is not None
    assert ended.reason == "production has moved since it began"


def test_an_alarm_waits_for_the_cool_down_and_nobody_else_does(stage: Stage) -> None:
    stage.begin_registry()
    stage.turn()
    request = stage.request(cooldown_hours=5.0)
    later = NOW + timedelta(hours=4)
    waiting = open_cycle(request, later, obeys_cooldown=True)
    assert isinstance(waiting, CoolingDown)
    assert waiting.until == NOW + timedelta(hours=5)
    assert isinstance(open_cycle(request, later), Cycle)


def test_nothing_to_learn_from_ends_the_cycle_with_the_reason(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.begin_registry()

    def refuse(request: Any, store: Store, now: datetime) -> None:
        raise SourceError("out", "no audits yet")

    monkeypatch.setattr(retrain_cycle, "collect_examples", refuse)
    cycle = stage.open()
    with pytest.raises(SourceError, match="no audits yet"):
        collect(cycle)
    ended = cycle.record.outcome()
    assert ended is not None
    assert (ended.ending, ended.reason) == ("refused", "out: no audits yet")


def test_a_registry_without_a_first_bundle_says_how_to_name_one(stage: Stage) -> None:
    open_registry(str(stage.folder / "models"), create=True)
    with pytest.raises(RegistryError, match="cdlabel models promote"):
        stage.open()


def version_of(folder: Path) -> str:
    return model_version(read_manifest(folder))


def current(registry: Registry, alias: str) -> str | None:
    move = registry.current(alias)
    return None if move is None else move.model_version


def check_bundles(registry: Registry) -> None:
    """Whatever can be seen can be loaded, and an alias names something that can be seen."""
    for bundle in registry.bundles():
        assert version_of(Path(bundle.uri)) == bundle.model_version
    for move in registry.aliases():
        assert registry.bundle(move.model_version)


def state_of(folder: Path) -> dict[str, Any]:
    """Return what a turn of the loop has come to."""
    registry = open_registry(str(folder / "models"))
    [cycle] = newest_cycles(registry.store)
    outcome = cycle.outcome()
    row = read_run_row(open_store(str(folder / "out")), f"{RETRAIN_PREFIX}{cycle.cycle_id}")
    strip: Callable[[str], list[tuple[str, str | None]]] = lambda alias: [  # noqa: E731
        (move.model_version, move.previous) for move in registry.history(alias)
    ]
    return {
        "cycle": cycle.cycle_id,
        "ending": outcome and outcome.ending,
        "production": strip("production"),
        "candidate": strip("candidate"),
        "row": (row.status, row.model_version, row.flow),
        "bundles": sorted(bundle.model_version for bundle in registry.bundles()),
    }
