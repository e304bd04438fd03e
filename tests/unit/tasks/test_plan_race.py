"""Two commands plan overlapping videos at the same instant, in every order that their decisive steps can have."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cdmodel.bundle import DEMO_BUNDLE
from cdmodel.errors import ConfigError
from storage.filesystem import open_store
from storage.plan_decision import decide_plan, read_decision
from storage.run_store import create_plan, iter_shards, list_runs
from tasks.plan_run import open_run, preview_run
from tasks.run_request import LabelingPlan, NothingToDo, RunRequest
from tasks.sharding import ShardingSettings

PATIENCE_SECONDS = 20.0
STEPS = 4
"""List the runs, write the plan, list again, decide."""
ORDERS = [
    "".join("A" if step in of_a else "B" for step in range(2 * STEPS)) for of_a in combinations(range(2 * STEPS), STEPS)
]
_turns = threading.local()


class TurnTakingFilesystem(MemoryFileSystem):
    """A bucket in memory where a planner waits for its turn before every step that another one can see or be seen by."""

    protocol = "turns"
    store: dict[str, object] = {}  # noqa: RUF012 - as in the class above, which it replaces
    pseudo_dirs = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("turns://").strip("/")

    def ls(self, path, detail=True, **kwargs):
        if path.endswith("/runs"):
            _wait_for_turn()
        return super().ls(path, detail=detail, **kwargs)

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        if path.endswith(("plan.parquet", "decision")):
            _wait_for_turn()
        return super().pipe_file(path, value, mode=mode, **kwargs)


def _wait_for_turn() -> None:
    planner = getattr(_turns, "planner", None)
    if planner is not None:
        planner.waits.set()
        assert planner.goes_on.wait(PATIENCE_SECONDS)
        planner.goes_on.clear()


class Planner(threading.Thread):
    """A command that plans, and stops before every step."""

    def __init__(self, request: RunRequest) -> None:
        super().__init__(daemon=True)
        self.request = request
        self.waits, self.goes_on = threading.Event(), threading.Event()
        self.plan: LabelingPlan | NothingToDo | None = None
        self.start()
        assert self.waits.wait(PATIENCE_SECONDS)

    def run(self) -> None:
        _turns.planner = self
        try:
            self.plan = open_run(self.request, pause=lambda _: None)
        finally:
            _turns.planner = None
            self.done = True
            self.waits.set()

    done = False

    def take_step(self) -> None:
        if not self.done:
            self.waits.clear()
            self.goes_on.set()
            assert self.waits.wait(PATIENCE_SECONDS)


@pytest.fixture(scope="module", autouse=True)
def _protocol() -> None:
    fsspec.register_implementation("turns", TurnTakingFilesystem, clobber=True)


@pytest.fixture
def wanted(tmp_path: Path) -> RunRequest:
    TurnTakingFilesystem.store.clear()
    for number in range(7):
        (tmp_path / f"{number}.mp4").write_bytes(b"video")
    return RunRequest(
        source=str(tmp_path),
        out="turns://bucket/out",
        bundle=str(DEMO_BUNDLE),
        sharding=ShardingSettings(videos_per_shard=2),
        config_toml="# settings\n",
    )


def _race(order: str, first: RunRequest, second: RunRequest) -> tuple[Planner, Planner]:
    planners = {"A": Planner(first), "B": Planner(second)}
    for name in order:
        planners[name].take_step()
    for planner in planners.values():
        while not planner.done:
            planner.take_step()
    return planners["A"], planners["B"]


def _planned(run_id: str) -> list[str]:
    store = open_store("turns://bucket/out")
    assert read_decision(store, run_id) == "open"
    return [Path(video.uri).stem for shard in iter_shards(store, run_id) for video in shard.videos]


def _open_plans() -> list[list[str]]:
    return [_planned(run.header.run_id) for run in list_runs(open_store("turns://bucket/out"))]


@pytest.mark.parametrize("order", ORDERS)
def test_overlapping_work_is_shared_out_in_any_order_of_steps(wanted: RunRequest, order: str):
    first, second = (replace(wanted, source=f"{wanted.source}/[{part}].mp4") for part in ("0-4", "2-6"))
    planners = _race(order, first, second)
    assert sorted(video for plan in _open_plans() for video in plan) == list("0123456")
    assert all(isinstance(planner.plan, LabelingPlan) for planner in planners)


@pytest.mark.parametrize("order", ORDERS)
def test_the_same_work_is_planned_once_in_any_order_of_steps(wanted: RunRequest, order: str):
    _race(order, wanted, wanted)
    assert [sorted(plan) for plan in _open_plans()] == [list("0123456")]


def _undecided(request: RunRequest) -> str:
    """Write a plan as a command does that dies before it has decided."""
    plan = preview_run(request)
    assert isinstance(plan, LabelingPlan)
    assert plan.shards is not None
    assert create_plan(open_store(request.out), plan.header, plan.shards, "")
    return plan.header.run_id


def test_a_plan_whose_planner_died_is_opened_by_the_same_command(wanted: RunRequest):
    run_id = _undecided(wanted)
    plan = open_run(wanted)
    assert isinstance(plan, LabelingPlan)
    assert (plan.header.run_id, plan.resumed) == (run_id, True)
    assert len(_planned(run_id)) == 7


def test_a_withdrawn_plan_is_no_run_and_its_name_is_not_used_again(wanted: RunRequest):
    store, run_id = open_store(wanted.out), _undecided(wanted)
    decide_plan(store, run_id, "withdrawn")
    assert list_runs(store) == ()
    plan = open_run(wanted)
    assert isinstance(plan, LabelingPlan)
    assert plan.header.run_id == f"{run_id}-2"
    with pytest.raises(ConfigError, match="was withdrawn"):
        open_run(replace(wanted, run_id=run_id))


def test_the_first_decision_holds(wanted: RunRequest):
    store = open_store(wanted.out)
    assert decide_plan(store, "r", "withdrawn") == "withdrawn"
    assert decide_plan(store, "r", "open") == "withdrawn"
