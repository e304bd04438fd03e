"""What a command takes with every process it starts, whoever waits for them: wall and CPU seconds.

Linux only. The measuring process becomes the one to which orphans fall (``PR_SET_CHILD_SUBREAPER``), so that servers and workers
that leave their parents are waited for too, and the system adds up what each has used, to the last tick. It does not where a
parent refuses to hear of its children's end, as Ray's does of its workers: what was last seen of every process, in looks
at short intervals, is added up beside it. Neither sum can be too large, so the larger one counts; what is lost are a
process's last moments, in favour of whoever ignores its children.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

PR_SET_CHILD_SUBREAPER = 36
WAIT_SECONDS = 0.01
LOOK_SECONDS = 0.2
LEAVE_SECONDS = 60.0
"""How long what a command leaves behind has to end by itself."""

ProcessKey = tuple[int, float]
"""Process id and when it was started: ids come again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What a command took."""

    wall_seconds: float
    """Until the command itself ended."""
    cpu_seconds: float
    """User and system, of the command and all that it started."""


class CommandFailed(Exception):
    """A measured command ended with an error."""


def tree_cpu_seconds(waited_seconds: float, last_seen_seconds: Mapping[ProcessKey, float]) -> float:
    """Return the CPU seconds of a tree from two sums that can only be too small.

    Args:
        waited_seconds: of all processes that were waited for, their own children that they waited for included.
        last_seen_seconds: of every process ever seen, by itself, at the last look at it.
    """
    return max(waited_seconds, sum(last_seen_seconds.values()))


def marginal_seconds(few: tuple[int, float], many: tuple[int, float]) -> float:
    """Return what one more video takes, from two runs (videos, seconds): start-up cancels out."""
    if few[0] == many[0]:
        raise ValueError(f"both runs have {few[0]} videos: nothing can be told from their difference")
    return (many[1] - few[1]) / (many[0] - few[0])


def run_tree(command: Sequence[str], environment: Mapping[str, str], output: Path) -> Spent:
    """Run the command, wait for it and all that it started, and return what that took; stdout goes to the file.

    What has not ended some seconds after the command is killed. The caller must have no other children.

    Raises:
        CommandFailed: with the end of what it said.
    """
    _become_subreaper()
    errors = output.with_suffix(".log")
    with output.open("wb") as stdout, errors.open("wb") as stderr:
        began = time.perf_counter()
        process = subprocess.Popen(command, env=dict(environment), stdout=stdout, stderr=stderr)
    watch = _Watch()
    while process.pid not in watch.ended:
        watch.step()
        time.sleep(WAIT_SECONDS)
    wall_seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(watch.ended[process.pid])
    watch.see_off()
    if process.returncode:
        said = errors.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise CommandFailed(f"{' '.join(command[:6])} ... ended with {process.returncode}: {said}")
    return Spent(wall_seconds=wall_seconds, cpu_seconds=tree_cpu_seconds(watch.waited_seconds, watch.last_seen_seconds))


class _Watch:
    """Waits for the children of this process and looks at what they have started."""

    def __init__(self) -> None:
        self.waited_seconds = 0.0
        self.last_seen_seconds: dict[ProcessKey, float] = {}
        self.ended: dict[int, int] = {}
        """Exit status by process id."""
        self._looked_at = 0.0

    def step(self) -> bool:
        """Take in what has ended and, from time to time, what is running; return whether there is any child left."""
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._look()
        while True:
            try:
                process_id, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not process_id:
                return True
            self.ended[process_id] = status
            self.waited_seconds += usage.ru_utime + usage.ru_stime

    def see_off(self) -> None:
        """Return once nothing is left of the command."""
        deadline = time.monotonic() + LEAVE_SECONDS
        while self.step():
            if time.monotonic() > deadline:
                for left in psutil.Process().children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        print(f"killed what was left: {left.pid} {left.name()}", file=sys.stderr)
                        left.kill()
            time.sleep(WAIT_SECONDS)

    def _look(self) -> None:
        self._looked_at = time.monotonic()
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self.last_seen_seconds[process.pid, process.create_time()] = times.user + times.system


def _become_subreaper() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")
