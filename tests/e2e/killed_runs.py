"""Runs of the command whose processes are killed at a moment that can be seen in OUT, and what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from storage.filesystem import open_store
from storage.run_store import committed_shards, iter_shards
from storage.views import run_query
from tasks.verify_output import verify_output

VIDEOS_PER_SHARD = 2
WORKERS = 2
PATIENCE_SECONDS = 200
COMMAND = """
import sys
import storage.publish
storage.publish.ROWS_PER_GROUP, storage.publish.FILE_BYTES = 2, 1
from flows.cli import main
sys.argv[0] = "cdlabel"
main()
"""
"""The command, which publishes files of two rows: publishing one file would be over before it is noticed."""
Moment = Callable[[Path], bool]


def shards_stand(count: int) -> Moment:
    """Return the moment at which so many shards are committed."""
    return lambda out: len(list(out.glob("runs/*/shards/*.parquet"))) >= count


def plan_stands(out: Path) -> bool:
    return any(out.glob("runs/*/decision"))


def file_is_published(out: Path) -> bool:
    return any(out.glob("predictions/*/*/*.parquet"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a command ended."""

    exit_code: int
    stderr: str
    seconds: float
    """From the last thing that was done to it."""


class LabelRun:
    """``cdlabel label`` as a process group of its own, with all that it starts."""

    def __init__(self, corpus: Path, out: Path, environment: dict[str, str], *arguments: str) -> None:
        self.out = out
        command = [sys.executable, "-c", COMMAND, "label", str(corpus), "--out", str(out), *arguments]
        self.process = subprocess.Popen(
            [*command, "--set", f"sharding.videos_per_shard={VIDEOS_PER_SHARD}"],
            env=environment,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._seen: set[psutil.Process] = set()

    def wait_for(self, moment: Moment) -> None:
        """Return within milliseconds after the moment has come."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        looked = 0.0
        while not moment(self.out):
            assert self.process.poll() is None, f"it ended before: {self.process.communicate()[1]}"
            assert time.monotonic() < deadline, "the moment did not come"
            if time.monotonic() - looked > 0.5:
                self.children()
                looked = time.monotonic()
            time.sleep(0.002)

    def children(self) -> list[psutil.Process]:
        """Return all processes below the command."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self._seen |= set(children)
        return children

    def wait_for_workers(self, count: int) -> list[psutil.Process]:
        """Return the worker processes of the local cluster, oldest first, when there are so many."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            workers = workers_among(self.children())
            if len(workers) >= count:
                return workers
            time.sleep(0.02)
        raise AssertionError(f"there never were {count} workers")

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        if self.process.poll() is None:
            self.children()
        (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self, *, within: float = PATIENCE_SECONDS) -> Ended:
        """Wait for the end, and for that of every process that was seen below the command."""
        began = time.monotonic()
        while self.process.poll() is None and time.monotonic() - began < within:
            self.children()
            time.sleep(0.1)
        seconds, exit_code = time.monotonic() - began, self.process.poll()
        left = [_command_of(process) for process in self._outlive(seconds=20)]
        for process in (*self._outlive(seconds=0), self.process):
            process.kill()
        _, stderr = self.process.communicate(timeout=20)
        assert exit_code is not None, f"it did not end within {within} s: {stderr}"
        assert not left, f"outlived the command: {left}"
        assert "Traceback" not in stderr, stderr
        return Ended(exit_code=exit_code, stderr=stderr, seconds=seconds)

    def _outlive(self, *, seconds: float) -> list[psutil.Process]:
        """Return the processes below the command that still run after this time."""
        deadline = time.monotonic() + seconds
        while (alive := [one for one in self._seen if _is_alive(one)]) and time.monotonic() < deadline:
            time.sleep(0.05)
        return alive


def workers_among(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return those that are Dask's workers, oldest first."""
    return sorted((one for one in processes if "spawn_main" in _command_of(one)), key=psutil.Process.create_time)


class CommittedObjects:
    """What stood in OUT at a moment: none of it may change afterwards."""

    def __init__(self, out: Path) -> None:
        self._stood = {path: _contents(path) for path in _objects(out)}

    def assert_unchanged(self) -> None:
        assert {path: _contents(path) for path in self._stood} == self._stood


def lost_attempts(out: Path) -> Counter[str]:
    """Return how many attempts at each shard began that did not become its object: what was labeled again."""
    store = open_store(str(out))
    [run] = (out / "runs").iterdir()
    lost: Counter[str] = Counter()
    for shard in iter_shards(store, run.name):
        attempts = {path.name.partition("-")[0] for path in (run / "attempts" / shard.shard_id).glob("*.json")}
        if len(attempts) > 1:
            lost[shard.shard_id] = len(attempts) - 1
    return lost


def assert_complete(out: Path, *, videos: int) -> None:
    """Every planned video has one row, all of one run, and verify finds nothing."""
    store = open_store(str(out))
    [run] = (out / "runs").iterdir()
    assert len(committed_shards(store, run.name)) == -(-videos // VIDEOS_PER_SHARD)
    sql = "select count(*), count(distinct video_id), count(distinct run_id) from predictions"
    assert run_query(store, sql).rows == ((videos, videos, 1),)
    assert verify_output(str(out)) == ()


def files_under_way(out: Path) -> list[Path]:
    """Return what a writer that was killed has left; ``gc`` deletes it."""
    return [path for path in (out / ".staging").rglob("*") if path.is_file()]


def _objects(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.is_file() and ".staging" not in path.parts]


def _contents(path: Path) -> tuple[int, bytes]:
    return path.stat().st_mtime_ns, path.read_bytes()


def _is_alive(process: psutil.Process) -> bool:
    """Tell whether it runs; one that waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _command_of(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
