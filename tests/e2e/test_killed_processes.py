"""A night in which everything dies: the same command goes on each time, and in the morning every video has one row."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.generate_corpus import generate_corpus

VIDEOS = 32
SETTINGS = ("--set", "sharding.videos_per_shard=2", "--workers", "2")
SOON_SECONDS = 200.0
INTERRUPTED = "cdlabel: interrupted; what is committed is kept, the same command goes on\n"


@dataclass
class Command:
    """``cdlabel label`` under way, in a session of its own as a terminal would give it."""

    process: subprocess.Popen[str]
    out: Path

    def shards(self) -> list[Path]:
        return list(self.out.glob("runs/*/shards/*.parquet"))

    def wait_for_shards(self, more_than: int) -> None:
        _wait_until(lambda: len(self.shards()) > more_than or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[1]

    def below(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def workers(self) -> list[psutil.Process]:
        """The workers are the processes that have decoders, or will have."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("night") / "kinetic"
    generate_corpus(str(folder), videos=VIDEOS, seed=6, distractors=0.5, on_progress=lambda _: None)
    return folder / "videos"


@contextmanager
def _labeling(films: Path, out: Path, environment: dict[str, str]) -> Iterator[Command]:
    command = [sys.executable, "-m", "flows", "label", str(films), "--out", str(out), *SETTINGS]
    process = subprocess.Popen(
        command, env=environment, start_new_session=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield Command(process, out)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.timeout(600)  # four commands, each of which starts a cluster
def test_every_video_has_one_row_after_a_night_of_deaths(
    films: Path, environment: dict[str, str], cdlabel: Callable[..., Any], rows: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    seen: dict[Path, tuple[int, bytes]] = {}

    with _labeling(films, out, environment) as command:
        command.wait_for_shards(more_than=0)
        below = command.below()
        command.process.send_signal(signal.SIGTERM)
        _, errors = command.process.communicate(timeout=SOON_SECONDS)
        assert command.process.returncode == 128 + signal.SIGTERM, errors
        assert errors.endswith(INTERRUPTED)
        assert "Traceback" not in errors
        assert _still_alive(below) == []
        seen |= _contents(command.shards())

    with _labeling(films, out, environment) as command:
        command.wait_for_shards(more_than=len(seen))
        below = command.below()
        os.killpg(command.process.pid, signal.SIGINT)
        _, errors = command.process.communicate(timeout=SOON_SECONDS)
        assert command.process.returncode == 128 + signal.SIGINT, errors
        assert errors.endswith(INTERRUPTED)
        assert "Traceback" not in errors
        assert _still_alive(below) == []
        seen |= _contents(command.shards())

    with _labeling(films, out, environment) as command:
        command.wait_for_shards(more_than=len(seen))
        below = command.below()
        command.process.kill()
        command.process.wait()
        # Workers find out by themselves that nobody is left to work for.
        assert _still_alive(below) == []
        seen |= _contents(command.shards())

    with _labeling(films, out, environment) as command:
        command.wait_for_shards(more_than=len(seen))
        for worker in command.workers():
            worker.kill()
        _, errors = command.process.communicate(timeout=SOON_SECONDS)
        assert command.process.returncode == 0, errors
        assert "going on with" in errors

    assert _contents(seen) == seen, "what was committed is never written again"
    assert rows(
        out, "select count(*) as n, count(distinct video_id) as ids, count(distinct run_id) as runs from predictions"
    ) == [{"n": VIDEOS, "ids": VIDEOS, "runs": 1}]
    assert json.loads(cdlabel("verify", out, "--json").stdout)["ok"]
    assert rows(out, "select retry_cost > 0 as lost from runs") == [{"lost": True}]
    assert _states_of_flow_runs(environment) == {"COMPLETED": 1, "CRASHED": 3}


def _contents(shards: Sequence[Path] | dict[Path, Any]) -> dict[Path, tuple[int, bytes]]:
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in shards}


def _still_alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return those that are alive after the time that a process may take to notice."""
    _, alive = psutil.wait_procs(processes, timeout=20)
    return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def _states_of_flow_runs(environment: dict[str, str]) -> dict[str, int]:
    script = (
        "import collections, json; from prefect.client.orchestration import get_client\n"
        "with get_client(sync_client=True) as client:\n"
        "    print(json.dumps(collections.Counter(run.state_type.value for run in client.read_flow_runs())))"
    )
    told = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    states: dict[str, int] = json.loads(told.stdout)
    return states


def _wait_until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SOON_SECONDS
    while not happens():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
