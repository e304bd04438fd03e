"""A command that is told to end, as a process of its own that does nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

UNWINDS = """
import os, subprocess, sys, time
from flows.command import one_line_errors, say

@one_line_errors
def command():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        print(child.pid, flush=True)
        time.sleep(60)
    finally:
        time.sleep({unwinding})
        child.kill()

command()
"""
SAYS_ITS_LAST = UNWINDS.format(unwinding=0).replace(
    "child.kill()", "say('it stands in FILE'); os.write(2, b'complaint of a library'); child.kill()"
)
IGNORES_HANGUPS = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=str
)
def test_a_signal_unwinds_the_command_and_names_itself_in_the_exit_code(number: signal.Signals, exit_code: int) -> None:
    process, child = start(UNWINDS.format(unwinding=0))
    process.send_signal(number)
    assert end_of(process) == (exit_code, 1)
    wait_until_gone(child)


def test_what_a_command_says_on_its_way_out_is_heard_and_what_others_write_is_not() -> None:
    process, _ = start(SAYS_ITS_LAST)
    with process:
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=20)
    assert stderr.splitlines()[1:] == ["it stands in FILE"]


def test_a_second_ctrl_c_ends_a_command_that_takes_its_time_with_all_that_it_started() -> None:
    process, child = start(UNWINDS.format(unwinding=30))
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "interrupted" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    assert end_of(process)[0] == 130
    assert time.monotonic() - began < 5
    wait_until_gone(child)


def test_a_command_under_nohup_does_not_end_with_its_terminal() -> None:
    process, _ = start(IGNORES_HANGUPS + UNWINDS.format(unwinding=0))
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert end_of(process) == (143, 1)


def start(script: str) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Return the command, which has got to its work, and the process that it has started."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, psutil.Process(int(process.stdout.readline()))


def wait_until_gone(process: psutil.Process) -> None:
    """Return when the process has ended, whether somebody has reaped it or not."""
    deadline = time.monotonic() + 5
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.01)


def end_of(process: subprocess.Popen[str]) -> tuple[int, int]:
    """Return the exit code, and how often it said that it was interrupted."""
    with process:
        _, stderr = process.communicate(timeout=20)
    assert "Traceback" not in stderr
    return process.returncode, stderr.count("interrupted")
