"""Whoever else labels the same shard or publishes the same run at the same time: one object, one answer for all."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest
from attempt_rows import context_of
from interleaving import interleave
from small_archive import Archive
from watched_disk import EFFECTS, Crash, Fate, Step, WatchedDisk, steps_of
from witness import Witness, contents_of

from cdmodel.types import ShardReceipt
from storage.filesystem import open_store
from storage.run_layout import shard_name
from storage.run_record import RunRecord
from storage.run_store import RunHeader, commit_shard, committed_shards, iter_shards
from tasks.run_request import LabelingPlan, NothingToDo

SCHEDULES = 5
ONE_ORDER_OF = 6


def _links(step: Step) -> bool:
    return step.kind in ("link", "put")


def _has_effect(step: Step) -> bool:
    return step.kind in EFFECTS


def _planned(archive: Archive) -> RunHeader:
    plan = archive.open()
    assert isinstance(plan, LabelingPlan)
    return plan.header


def _random_order(seed: int, processes: int = 2) -> Iterator[int]:
    draws = random.Random(seed)
    return (draws.randrange(processes) for _ in range(200))


def _orders(first: int, second: int) -> Iterator[list[int]]:
    """Yield every order in which two processes can take so many steps each."""
    for chosen in combinations(range(first + second), first):
        yield [0 if position in chosen else 1 for position in range(first + second)]


@pytest.mark.parametrize("seed", range(SCHEDULES))
def test_a_shard_labeled_twice_at_the_same_time_is_one_object(archive: Archive, disk: WatchedDisk, seed: int):
    store, header = open_store(archive.out), _planned(archive)
    shard = next(iter_shards(store, header.run_id))

    def attempt(number: int) -> ShardReceipt:
        rows, context = archive.outcomes(shard, number), context_of(header, shard, number)
        return commit_shard(store, rows, context, archive.clock.now)

    witness = Witness(archive)
    commands = [lambda: attempt(1), lambda: attempt(2), lambda: attempt(3)]
    receipts = interleave(disk, commands, _random_order(seed, 3), counts=_has_effect, between=witness.look)
    assert all(receipt == receipts[0] for receipt in receipts), receipts
    assert isinstance(receipts[0], ShardReceipt)
    assert committed_shards(store, header.run_id) == {shard.shard_id}
    archive.attempts = 3
    archive.label_until_done()
    rows = [row for row in witness.look_at_the_end().rows if row[3] == shard.shard_id]
    assert {row[4] for row in rows} == {receipts[0].attempt_id}


def test_the_schedules_let_each_attempt_win(archive: Archive, disk: WatchedDisk):
    header = _planned(archive)
    shard = next(iter_shards(open_store(archive.out), header.run_id))
    winners = set()
    for order in _orders(2, 2):
        other = archive.copied("".join(map(str, order)))
        store = open_store(other.out)

        def attempt(number: int) -> str:
            rows, context = other.outcomes(shard, number), context_of(header, shard, number)  # noqa: B023
            return commit_shard(store, rows, context, other.clock.now).attempt_id  # noqa: B023

        winner, same = interleave(disk, [lambda: attempt(1), lambda: attempt(2)], order, counts=_links)
        assert winner == same
        winners.add(winner)
    assert winners == {"attempt-1", "attempt-2"}


def test_a_zombie_that_wakes_after_its_successor_changes_nothing(archive: Archive, disk: WatchedDisk):
    """Stopped before any step that counts, woken when the run is long finished by another process."""
    steps = [step for step in steps_of(disk, archive.at(f"{archive.out}-undisturbed").label) if _has_effect(step)]
    for sleeps_at in range(1, len(steps) + 1, 4):
        one = archive.at(f"{archive.out}-{sleeps_at}")
        witness = Witness(one)
        finished: list[dict[str, bytes]] = []

        def successor() -> object:
            result = one.label()  # noqa: B023
            finished.append(contents_of(open_store(one.out)))  # noqa: B023
            return result

        order = [0] * sleeps_at
        zombie, living = interleave(disk, [one.label, successor], order + [1] * 200, counts=_has_effect)
        assert isinstance(living, RunRecord | NothingToDo)
        # One that slept before its plan was decided plans anew, and finds everything done.
        assert zombie == living or NothingToDo in (type(zombie), type(living)), (sleeps_at, zombie)
        assert contents_of(open_store(one.out)) == finished[0]
        witness.look_at_the_end()


def _labeled(archive: Archive) -> RunHeader:
    header = _planned(archive)
    archive.label_pending(header)
    return header


def test_two_publishers_of_a_run_write_it_once_in_whatever_order(archive: Archive, disk: WatchedDisk):
    """Orders in which two processes can take the four creates of publishing: two files, the row, the marker.

    All 35 that begin with the one were tried; every sixth is kept.
    """
    header = _labeled(archive)
    creates = [step for step in steps_of(disk, lambda: archive.copied("one").publish(header.run_id)) if _links(step)]
    assert len(creates) == 4
    # The two are alike, so that it does not matter who begins.
    for order in [order for order in _orders(4, 4) if order[0] == 0][::ONE_ORDER_OF]:
        one = archive.copied("".join(map(str, order)))
        witness = Witness(one)
        commands = [lambda: one.publish(header.run_id)] * 2  # noqa: B023
        first, second = interleave(disk, commands, order, counts=_links, between=witness.look)
        assert isinstance(first, RunRecord)
        assert first == second
        witness.look_at_the_end()


@pytest.mark.parametrize("seed", range(2))
def test_two_whole_commands_at_once_share_one_run(archive: Archive, disk: WatchedDisk, seed: int):
    witness = Witness(archive)
    results = interleave(
        disk, [archive.label, archive.label], _random_order(seed), counts=_has_effect, between=witness.look
    )
    assert all(isinstance(result, RunRecord | NothingToDo) for result in results), results
    assert len(witness.look_at_the_end().runs) == 1


class _DiesAfterCreate(Fate):
    """Dies right after its n-th create, whoever's object stands then."""

    def __init__(self, number: int) -> None:
        self._left = number

    def before(self, step: Step) -> None:
        if self._left == 0:
            raise Crash
        if step.kind == "link":
            self._left -= 1


def test_a_publisher_goes_on_where_another_one_died(archive: Archive, disk: WatchedDisk):
    """The one dies after each of its four creates, while the other one is before each of its own."""
    header = _labeled(archive)
    for dies_after in range(1, 5):
        for ahead in range(4):
            one = archive.copied(f"{dies_after}-{ahead}")
            witness = Witness(one)
            died, record = interleave(
                disk,
                [lambda: one.publish(header.run_id)] * 2,  # noqa: B023
                [1] * (ahead + 1) + [0] * 10,
                counts=_links,
                between=witness.look,
                fates=[_DiesAfterCreate(dies_after)],
            )
            assert isinstance(died, Crash)
            assert isinstance(record, RunRecord)
            witness.look_at_the_end()


def test_a_shard_of_other_work_under_the_same_name_is_refused_by_both(archive: Archive, disk: WatchedDisk):
    store, header = open_store(archive.out), _labeled(archive)
    names = [shard_name(header.run_id, shard.shard_id) for shard in iter_shards(store, header.run_id)]
    first, second = (Path(store.uri_of(name)) for name in names)
    first.write_bytes(second.read_bytes())
    commands = [lambda: archive.publish(header.run_id)] * 2
    for error in interleave(disk, commands, [0, 1] * 4, counts=_has_effect):
        assert str(first) in str(error)
