"""Clocks that jump by days, differ between machines or pass midnight: the plan's date holds, and nothing is done twice."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from interleaving import interleave
from small_archive import START, Archive
from watched_disk import Crash, DiesAt, Step, WatchedDisk, steps_of
from witness import Seen, Witness

from storage.filesystem import open_store
from storage.run_record import RunRecord
from storage.run_store import committed_shards, iter_shards, list_runs
from storage.views import run_query
from tasks.run_request import LabelingPlan, NothingToDo

JUMPS = {"days ahead": timedelta(days=9), "days back": timedelta(days=-9), "over midnight": timedelta(hours=13)}
ORDERS = 8
jumps = pytest.mark.parametrize("jump", JUMPS.values(), ids=JUMPS)


def _dates(archive: Archive) -> list[str]:
    return sorted(path.name.removeprefix("run_date=") for path in (Path(archive.out) / "predictions").iterdir())


def _rows_of(seen: Seen, run_id: str) -> int:
    return sum(row[2] == run_id for row in seen.rows)


@jumps
def test_a_run_keeps_the_date_of_its_plan_however_the_clock_jumps(archive: Archive, jump: timedelta):
    witness = Witness(archive)
    plan = archive.open()
    assert isinstance(plan, LabelingPlan)
    archive.clock.advance(jump)
    archive.label_pending(plan.header)
    witness.look()
    archive.clock.advance(jump)
    record = archive.publish(plan.header.run_id)
    assert _dates(archive) == [f"{START:%Y-%m-%d}"]
    assert (record.started_at, record.ended_at) == (START, START + 2 * jump)
    archive.clock.advance(jump)
    assert isinstance(archive.label(), NothingToDo)
    assert len(witness.look_at_the_end().rows) == 4


@pytest.mark.parametrize("jump", [JUMPS["days back"], JUMPS["over midnight"]], ids=["days back", "over midnight"])
def test_a_run_that_died_is_resumed_under_its_date_after_any_jump(archive: Archive, disk: WatchedDisk, jump: timedelta):
    """It dies after each of its creates; the plan is the second one, and before it there is nothing to resume."""
    steps = steps_of(disk, archive.at(f"{archive.out}-undisturbed").label)
    links = [step for step in steps if step.kind == "link"]
    for link in links:
        one = archive.at(f"{archive.out}-{link.number}")
        witness = Witness(one)
        with disk.process(DiesAt(link.number, "after")), pytest.raises(Crash):
            one.label()
        one.clock.advance(jump)
        one.label_until_done()
        assert _dates(one) == [f"{START if link is not links[0] else START + jump:%Y-%m-%d}"]
        assert len(list_runs(open_store(one.out))) == 1
        witness.look_at_the_end()
        one.clock.advance(-jump)


@jumps
def test_runs_on_both_sides_of_a_jump_are_two_runs(archive: Archive, jump: timedelta):
    witness = Witness(archive)
    first = archive.label()
    archive.clock.advance(jump)
    archive.add("new")
    second = archive.label()
    assert isinstance(first, RunRecord)
    assert isinstance(second, RunRecord)
    seen = witness.look_at_the_end()
    assert [_rows_of(seen, run.run_id) for run in (first, second)] == [4, 1]
    assert _dates(archive) == sorted({f"{START:%Y-%m-%d}", f"{START + jump:%Y-%m-%d}"})


def test_the_same_videos_on_the_same_date_again_are_another_run(archive: Archive):
    """A video that changes and changes back, while the clock goes a day ahead and comes back."""
    names = set()
    for content, step in ((b"video", 0), (b"another version", 1), (b"the third version", -1)):
        archive.add("a", content)
        archive.clock.advance(timedelta(days=step))
        record = archive.label()
        assert isinstance(record, RunRecord)
        names.add(record.run_id)
    assert len(names) == 3
    assert len(Witness(archive).look().rows) == 4 + 1 + 1


def _decides(step: Step) -> bool:
    """Tell whether another planner can see a step, or what it was told by."""
    return step.kind == "link" or (step.kind == "children" and step.subject == "runs")


@pytest.mark.parametrize("overlap", ["the same videos", "some of the videos"])
def test_planners_on_both_sides_of_midnight_share_the_videos_out(archive: Archive, disk: WatchedDisk, overlap: str):
    """The run's name holds the date, so that the same plan has two names, and each planner one of its own."""
    archive.clock.advance(timedelta(hours=12, seconds=-1))
    draws = random.Random(7)
    for number in range(ORDERS):
        one = archive.at(f"{archive.out}-{number}")
        before, after = one.at(one.out), one.at(one.out)
        if overlap == "some of the videos":
            before.request = replace(before.request, source=f"{archive.films}/[ab]*.mp4")
            after.request = replace(after.request, source=f"{archive.films}/[bc]*.mp4")

        def plan(side: Archive, step: timedelta) -> LabelingPlan | NothingToDo:
            side.clock.skew(step)
            return side.open()

        results = interleave(
            disk,
            [lambda: plan(before, timedelta()), lambda: plan(after, timedelta(seconds=2))],  # noqa: B023
            [draws.randrange(2) for _ in range(30)],
            counts=_decides,
        )
        assert all(isinstance(result, LabelingPlan | NothingToDo) for result in results), results
        store = open_store(one.out)
        planned = Counter(
            Path(video.uri).stem
            for run in list_runs(store)
            for shard in iter_shards(store, run.header.run_id)
            for video in shard.videos
        )
        assert planned == Counter({"a": 1, "b": 1, "broken": 1, "c": 1}), number


def test_workers_whose_clocks_differ_by_days_commit_as_any(archive: Archive):
    plan = archive.open()
    assert isinstance(plan, LabelingPlan)
    store = open_store(archive.out)
    archive.clock.advance(timedelta(days=-400))
    archive.label_pending(plan.header)
    archive.clock.advance(timedelta(days=400))
    assert len(committed_shards(store, plan.header.run_id)) == plan.header.shards
    record = archive.publish(plan.header.run_id)
    assert record.ended_at == START
    Witness(archive).look_at_the_end()


@pytest.mark.xfail(
    strict=True,
    reason="latest is the row with the greatest labeled_at, and that is the clock of the machine that labeled: after a "
    "clock was set back, the row of the version that a video had before stays the latest until the clock has caught up",
)
def test_the_latest_row_is_of_the_latest_version_after_the_clock_was_set_back(archive: Archive):
    archive.label()
    archive.clock.advance(timedelta(days=-1))
    archive.add("a", b"another version")
    record = archive.label()
    assert isinstance(record, RunRecord)
    answer = run_query(open_store(archive.out), "select run_id from latest where uri like '%/a.mp4'")
    assert answer.rows == ((record.run_id,),)
