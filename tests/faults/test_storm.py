"""Everything at once, in an order that a seed draws: whatever happens, the witness is content after every action."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

import pytest
from attempt_rows import context_of
from interleaving import interleave
from small_archive import Archive
from watched_disk import EFFECTS, Crash, DiesAt, DiskFails, Fate, Moment, Step, WatchedDisk
from witness import Witness

from cdmodel.errors import ErrorKind, StorageError, UsageError
from storage.filesystem import open_store
from storage.plan_decision import read_decision
from storage.run_record import RunRecord
from storage.run_store import RunState, commit_shard, iter_shards, list_runs, read_receipt
from tasks.run_request import NothingToDo, RetrySettings

SEEDS = range(4)
ACTIONS = 14
STEPS_OF_A_RUN = 70
WRITES = ("mkdir", "create file", "write", "fsync", "link", "flush folder")
MOMENTS: tuple[Moment, ...] = ("before", "half", "after")
TRANSIENT: tuple[ErrorKind, ...] = ("not_found", "storage_error")


@dataclass
class Storm:
    """One archive and all that befalls it."""

    archive: Archive
    disk: WatchedDisk
    draws: random.Random
    witness: Witness
    videos: list[str] = field(default_factory=lambda: ["a", "b", "broken", "c"])
    told: list[str] = field(default_factory=list)
    """What was done, in order."""

    def act(self) -> None:
        """Do one thing, drawn at random, and look."""
        action = self.draws.choice(ACTIONS_OF_A_STORM)
        self.told.append(action.__name__)
        self.archive.clock.advance(timedelta(minutes=self.draws.choice((1, 60, 1440))))
        action(self)
        self.witness.look()

    def settle(self) -> None:
        """Let the weather clear: what is unfinished is gone on with by name, and then there is nothing left to do."""
        self.told.append("settle")
        self.archive.fails = {"broken": "unreadable"}
        for run in self.runs():
            if not run.finished:
                self.archive.clock.advance(timedelta(minutes=1))
                self.archive.label(replace(self.archive.request, run_id=run.header.run_id))
        self.archive.clock.advance(timedelta(minutes=1))
        self.archive.label_until_done()
        assert all(run.finished for run in self.runs())

    def runs(self) -> tuple[RunState, ...]:
        return list_runs(open_store(self.archive.out))

    def label(self) -> None:
        assert isinstance(self.archive.label(), RunRecord | NothingToDo)

    def crash(self) -> None:
        try:
            with self.disk.process(self._death()):
                self.archive.label()
        except Crash:
            self.told[-1] += " (dead)"

    def disk_refuses(self) -> None:
        code = self.draws.choice((errno.ENOSPC, errno.EIO, errno.EROFS))
        try:
            with self.disk.process(DiskFails(self.draws.randint(1, STEPS_OF_A_RUN), code, WRITES)):
                self.archive.label()
        except (StorageError, UsageError):
            self.told[-1] += " (refused)"

    def two_commands(self) -> None:
        order = [self.draws.randrange(2) for _ in range(150)]
        fates = [self._death() if self.draws.random() < 0.4 else Fate()]
        results = interleave(
            self.disk, [self.archive.label] * 2, order, counts=_has_effect, between=self._look_now_and_then, fates=fates
        )
        self.told[-1] += f" {[type(result).__name__ for result in results]}"
        assert all(isinstance(result, RunRecord | NothingToDo | Crash) for result in results), results

    def zombie(self) -> None:
        """An attempt that began long ago commits its shard, whatever has become of the run."""
        store = open_store(self.archive.out)
        known = [run.header for run in self.runs() if read_decision(store, run.header.run_id) == "open"]
        if known:
            header = self.draws.choice(known)
            shard = self.draws.choice(list(iter_shards(store, header.run_id)))
            attempt = self.archive.next_attempt()
            rows, context = self.archive.outcomes(shard, attempt), context_of(header, shard, attempt)
            receipt = commit_shard(store, rows, context, self.archive.clock.now)
            assert receipt == read_receipt(store, header.run_id, shard.shard_id)

    def new_video(self) -> None:
        self.videos.append(f"new-{len(self.videos)}")
        self.archive.add(self.videos[-1])

    def video_changes(self) -> None:
        self.archive.add(self.draws.choice(self.videos), b"v" * self.draws.randint(1, 1000))

    def video_fails_for_a_while(self) -> None:
        self.archive.fails[self.draws.choice(self.videos)] = self.draws.choice(TRANSIENT)

    def videos_recover(self) -> None:
        self.archive.fails = {"broken": "unreadable"}

    def retry(self) -> None:
        finished = [run.header.run_id for run in self.runs() if run.finished]
        if finished:
            reasons = self.draws.choice(((), TRANSIENT))
            wanted = RetrySettings(run_id=self.draws.choice(finished), reasons=reasons)
            result = self.archive.label(replace(self.archive.request, retry=wanted))
            assert isinstance(result, RunRecord | NothingToDo)

    def _death(self) -> DiesAt:
        return DiesAt(self.draws.randint(1, STEPS_OF_A_RUN), self.draws.choice(MOMENTS))

    def _look_now_and_then(self) -> None:
        if self.draws.random() < 0.1:
            self.witness.look()


ACTIONS_OF_A_STORM: tuple[Callable[[Storm], None], ...] = (
    Storm.label,
    Storm.crash,
    Storm.crash,
    Storm.crash,
    Storm.disk_refuses,
    Storm.two_commands,
    Storm.zombie,
    Storm.zombie,
    Storm.new_video,
    Storm.video_changes,
    Storm.video_fails_for_a_while,
    Storm.videos_recover,
    Storm.retry,
)


def _has_effect(step: Step) -> bool:
    return step.kind in EFFECTS


@pytest.mark.parametrize("seed", SEEDS)
def test_the_promise_holds_in_a_storm(archive: Archive, disk: WatchedDisk, seed: int):
    storm = Storm(archive, disk, random.Random(seed), Witness(archive))
    try:
        for _ in range(ACTIONS):
            storm.act()
        storm.settle()
        storm.witness.look_at_the_end()
    except BaseException as error:
        error.add_note(f"seed {seed}: {', '.join(storm.told)}")
        raise
