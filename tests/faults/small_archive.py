"""A small archive and the label command on it, in one process: what the flow does, without Prefect and Dask."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attempt_rows import label_pending, outcomes_of

import tasks.finish_run
import tasks.plan_run
from cdmodel.decoder_name import DECODER_NAME
from cdmodel.errors import ErrorKind
from cdmodel.types import Shard, VideoOutcome
from storage.filesystem import open_store
from storage.run_record import RunRecord
from storage.run_store import RunHeader
from tasks.finish_run import publish_and_record
from tasks.plan_run import open_run
from tasks.run_request import LabelingPlan, NothingToDo, RunRequest
from tasks.sharding import ShardingSettings

START = datetime(2026, 11, 23, 12, tzinfo=UTC)


class Clock:
    """The clock of the tasks. It stands still unless it is set, so that the same run writes the same bytes."""

    def __init__(self) -> None:
        self._now = START
        self._skew = threading.local()

    @property
    def now(self) -> datetime:
        return self._now + getattr(self._skew, "step", timedelta())

    def advance(self, step: timedelta) -> None:
        """Set it forward, or back."""
        self._now += step

    def skew(self, step: timedelta) -> None:
        """Let it be wrong on the machine that this thread stands for."""
        self._skew.step = step

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the tasks read this clock."""
        clock = self

        class ClockDatetime(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return clock.now

        monkeypatch.setattr(tasks.plan_run, "datetime", ClockDatetime)
        monkeypatch.setattr(tasks.finish_run, "datetime", ClockDatetime)


@dataclass
class Archive:
    """A folder of videos, and an OUT. Every command is an attempt of its own, and its rows say which."""

    films: Path
    request: RunRequest
    clock: Clock
    attempts: int = 0
    fails: dict[str, ErrorKind] = field(default_factory=lambda: {"broken": "unreadable"})
    """Names of the videos that cannot be labeled, and why."""

    @property
    def out(self) -> str:
        return self.request.out

    def at(self, out: str) -> Archive:
        """Return the same archive labeled into another OUT."""
        return replace(self, request=replace(self.request, out=out))

    def copied(self, name: str) -> Archive:
        """Return the same archive with a copy of its OUT; what is done to one does nothing to the other."""
        other = self.at(str(Path(self.out).with_name(name)))
        shutil.copytree(self.out, other.out)
        return other

    def add(self, name: str, content: bytes = b"video") -> None:
        """Put a new video into the archive, or another version of one."""
        (self.films / f"{name}.mp4").write_bytes(content)

    def label(self, request: RunRequest | None = None) -> RunRecord | NothingToDo:
        """Do what ``cdlabel label`` does, once; or what is asked for instead."""
        plan = self.open(request)
        if isinstance(plan, NothingToDo):
            return plan
        self.label_pending(plan.header)
        return self.publish(plan.header.run_id)

    def label_until_done(self) -> None:
        """Run the command until there is nothing left to do."""
        for _ in range(3):
            if isinstance(self.label(), NothingToDo):
                return
        raise AssertionError("three commands in a row found something to do")

    def open(self, request: RunRequest | None = None) -> LabelingPlan | NothingToDo:
        return open_run(request or self.request, pause=lambda _: None)

    def label_pending(self, header: RunHeader) -> None:
        """Label the shards that are not committed."""
        label_pending(open_store(self.out), header, self.next_attempt(), self.clock.now, self.fails, DECODER_NAME)

    def publish(self, run_id: str) -> RunRecord:
        return publish_and_record(self.out, run_id, config_json="{}", code_version="0")

    def next_attempt(self) -> int:
        self.attempts += 1
        return self.attempts

    def outcomes(self, shard: Shard, attempt: int) -> list[VideoOutcome]:
        return outcomes_of(shard, attempt, self.clock.now, self.fails, DECODER_NAME)


def open_archive(folder: Path, bundle: Path, clock: Clock) -> Archive:
    """Return an archive of four videos, in shards of two."""
    films = folder / "films"
    films.mkdir()
    request = RunRequest(
        source=str(films),
        out=str(folder / "out"),
        bundle=str(bundle),
        sharding=ShardingSettings(videos_per_shard=2),
        config_toml="# settings\n",
    )
    archive = Archive(films=films, request=request, clock=clock)
    for name in ("a", "b", "broken", "c"):
        archive.add(name)
    return archive
