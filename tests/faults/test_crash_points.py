"""A process that dies at any step of its storage leaves nothing that a reader could mistake, and the next one goes on.

Dying after a step leaves the disk as dying before the next one does, so that "before each" and "after the last" are all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import fsspec
import pytest
from small_archive import Archive
from watched_disk import EFFECTS, READS, Crash, DiesAt, Moment, Process, Step, WatchedDisk, steps_of
from witness import Witness, contents_of

import storage.filesystem
from storage.filesystem import STAGING, open_store

PAIRS = 6
EVERY = [3, pytest.param(1, marks=pytest.mark.matrix)]
"""Of the steps: what a first run does at each is tried every day, what is like it by ``make test-faults``."""


@pytest.fixture
def nightly(archive: Archive) -> Archive:
    """The archive on the second night: one run is finished, a video is new and another one changed."""
    archive.label_until_done()
    archive.clock.advance(timedelta(days=1))
    archive.add("new")
    archive.add("a", b"another version")
    return archive


def _points(steps: list[Step]) -> Iterator[tuple[int, Moment]]:
    """Yield when a process can die so that it leaves another disk: dying before a read is dying before what follows."""
    for step in steps:
        if step.kind in EFFECTS:
            yield step.number, "before"
        if step.kind == "write":
            yield step.number, "half"
    yield steps[-1].number, "after"


def _die(disk: WatchedDisk, command: Callable[[], object], number: int, moment: Moment) -> Process:
    fate = DiesAt(number, moment)
    with disk.process(fate) as process, pytest.raises(Crash):
        command()
    assert fate.struck is not None
    assert fate.struck.number == number
    return process


def _dies_and_goes_on(
    disk: WatchedDisk, archive: Archive, witness: Witness, number: int, moment: Moment, resumed: set[str]
) -> bool:
    """Crash, look, and go on; False where it went on from the same objects and folders before, told by ``resumed``."""
    step = _die(disk, archive.label, number, moment).steps[number - 1]
    try:
        witness.look()
        if witness.standing in resumed:
            return False
        resumed.add(witness.standing)
        archive.label_until_done()
        witness.look_at_the_end()
    except BaseException as error:
        error.add_note(f"after a crash {moment} {step}")
        raise
    return True


def test_a_first_run_survives_a_crash_at_every_step(archive: Archive, disk: WatchedDisk):
    steps = steps_of(disk, archive.at(f"{archive.out}-undisturbed").label)
    resumed: set[str] = set()
    # Here before some reads as well: what is left is the same, but the command is at another place.
    reads: list[tuple[int, Moment]] = [(step.number, "before") for step in steps if step.kind in READS]
    for number, moment in [*_points(steps), *reads[::6]]:
        crashing = archive.at(f"{archive.out}-{number}-{moment}")
        _dies_and_goes_on(disk, crashing, Witness(crashing), number, moment, resumed)
    # Every create and every new folder is a state of its own.
    assert len(resumed) > len([step for step in steps if step.kind == "link"])


@pytest.mark.parametrize("every", EVERY)
def test_a_run_on_top_of_another_survives_a_crash_at_every_step(nightly: Archive, disk: WatchedDisk, every: int):
    steps = steps_of(disk, nightly.copied("undisturbed").label)
    resumed: set[str] = set()
    for number, moment in list(_points(steps))[::every]:
        crashing = nightly.copied(f"{number}-{moment}")
        witness = Witness(crashing)
        assert len(witness.look().rows) == 4
        if _dies_and_goes_on(disk, crashing, witness, number, moment, resumed):
            assert len(witness.rows) == 6


def test_going_on_after_a_crash_may_crash_as_well(archive: Archive, disk: WatchedDisk):
    first_points = list(_points(steps_of(disk, archive.at(f"{archive.out}-undisturbed").label)))
    draws = random.Random(5)
    for pair in range(PAIRS):
        number, moment = draws.choice(first_points)
        crashing = archive.at(f"{archive.out}-{pair}")
        witness = Witness(crashing)
        _die(disk, crashing.label, number, moment)
        witness.look()
        if not Path(crashing.out).exists():
            continue
        left = steps_of(disk, crashing.copied(f"left-{pair}").label)
        number, moment = draws.choice(list(_points(left)))
        _dies_and_goes_on(disk, crashing, witness, number, moment, set())


@pytest.mark.parametrize("every", EVERY)
@pytest.mark.parametrize("lost", ["names", "content"])
def test_a_power_cut_takes_nothing_that_was_said_to_stand(
    archive: Archive, disk: WatchedDisk, lost: Literal["names", "content"], every: int
):
    steps = steps_of(disk, archive.at(f"{archive.out}-undisturbed").label)
    resumed: set[str] = set()
    kinds = {"names": ("mkdir", "link", "flush folder"), "content": ("link", "flush folder")}[lost]
    for number, moment in [point for point in _points(steps) if steps[point[0] - 1].kind in kinds][::every]:
        disk.forget_unflushed()
        crashing = archive.at(f"{archive.out}-{number}-{moment}")
        witness = Witness(crashing)
        process = _die(disk, crashing.label, number, moment)
        if not (disk.unflushed_names if lost == "names" else disk.unflushed_content):
            continue  # there is nothing to lose, and a crash is all that it was
        disk.cut_power(lost)
        gone = [name for name in process.confirmed if not Path(name).exists()]
        assert not gone, f"lost after {process.steps[number - 1]}: {gone}"
        witness.look()
        if witness.standing not in resumed:
            resumed.add(witness.standing)
            crashing.label_until_done()
            witness.look_at_the_end()


def test_what_a_dead_process_staged_is_in_the_way_of_nobody(archive: Archive, disk: WatchedDisk):
    Path(archive.out).mkdir()
    for death in range(2):
        steps = steps_of(disk, archive.copied(f"undisturbed-{death}").label)
        write = next(step for step in steps if step.kind == "write")
        _die(disk, archive.label, write.number, "half")
    left = {path.name: path.stat().st_size for path in (Path(archive.out) / STAGING).iterdir()}
    assert len(left) == 2
    archive.label_until_done()
    Witness(archive).look_at_the_end()
    assert {path.name: path.stat().st_size for path in (Path(archive.out) / STAGING).iterdir()} == left


def test_a_process_that_lives_leaves_nothing_staged(archive: Archive):
    archive.label_until_done()
    assert list((Path(archive.out) / STAGING).iterdir()) == []


@pytest.fixture
def bucket() -> Iterator[str]:
    """An object store: an object is one request, a folder is nothing."""
    yield "memory://faults"
    files = fsspec.filesystem("memory")
    if files.exists("/faults"):
        files.rm("/faults", recursive=True)


def test_a_run_on_an_object_store_survives_a_crash_at_every_step(archive: Archive, disk: WatchedDisk, bucket: str):
    steps = steps_of(disk, archive.at(f"{bucket}/undisturbed").label)
    assert {step.kind for step in steps} >= {"put", "delete", "list", "read", "open"}
    resumed: set[str] = set()
    for number, moment in _points(steps):
        crashing = archive.at(f"{bucket}/{number}-{moment}")
        _dies_and_goes_on(disk, crashing, Witness(crashing), number, moment, resumed)


def test_an_object_store_creates_an_object_once(bucket: str):
    store = open_store(bucket)
    assert store.create("a", b"first")
    assert not store.create("a", b"other")
    assert store.read("a") == b"first"


def _create_in_place(target: Path, staging: Path, write: Callable[[Any], None]) -> bool:
    """Do what this project never does: write under the final name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return False
    with target.open("xb") as file:
        write(file)
    return True


def test_these_tests_would_notice_a_writer_in_place(
    archive: Archive, disk: WatchedDisk, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(storage.filesystem, "create_durably", _create_in_place)
    steps = steps_of(disk, archive.at(f"{archive.out}-undisturbed").label)
    noticed = 0
    for number, moment in [(step.number, moment) for step in steps for moment in ("half",) if step.kind == "write"]:
        crashing = replace(archive.at(f"{archive.out}-{number}"))
        try:
            _dies_and_goes_on(disk, crashing, Witness(crashing), number, moment, set())  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - whatever it is that goes wrong
            noticed += 1
    # All but the configuration, which has no form that could be broken.
    assert noticed == len([step for step in steps if step.kind == "write"]) - 1


def test_the_same_run_writes_the_same_bytes_wherever_it_was_interrupted(archive: Archive, disk: WatchedDisk):
    undisturbed = archive.at(f"{archive.out}-undisturbed")
    steps = steps_of(disk, undisturbed.label)
    tables = {name for name in contents_of(open_store(undisturbed.out)) if name.startswith("predictions/")}
    link = next(step for step in steps if step.kind == "link" and "predictions" in step.subject)
    crashing = replace(archive.at(f"{archive.out}-crashing"), attempts=0)
    _die(disk, crashing.label, link.number, "after")
    assert crashing.label()
    mine, theirs = (contents_of(open_store(one.out)) for one in (crashing, undisturbed))
    assert all(mine[name] == theirs[name] for name in tables)
