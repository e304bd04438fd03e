"""How a command ends on Ctrl-C, SIGTERM and SIGHUP: one line, in bounded time, with every process that it started.

The first signal unwinds the command as an exception, so that temporary files go and the cluster is closed; a second one,
or an unwinding that takes too long, ends it at once. Both are safe: what is committed is complete objects.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import NoReturn

import psutil

INTERRUPTED = "interrupted; what is committed is kept, the same command goes on"
UNWINDING_SECONDS = 10.0
"""How long the first signal may take to end the command, unless it needs longer."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(KeyboardInterrupt):
    """The command was told to end. No ``Exception``: nothing on the way out takes it for a failure of its own."""


class _State:
    signal_number: int | None = None
    hides_stderr = False
    stderr = 2
    """The terminal, whatever became of the place where others write."""
    catching = False
    unwinding_seconds = UNWINDING_SECONDS


def catch_signals(*, debug: bool = False) -> None:
    """Have the signals end this process as described above. ``debug`` keeps stderr open for what is said on the way."""
    _State.hides_stderr = not debug
    _State.catching = True
    keep_catching_signals()


def keep_catching_signals() -> None:
    """Take the signals back from a library that has put its own handlers in; does nothing where we caught none."""
    if _State.catching and threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            # nohup, and a shell that starts a job in the background, have signals ignored on purpose.
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _on_signal)


def unwind_within(seconds: float) -> None:
    """Allow that much time between the first signal and the end, to a command that waits for others to end."""
    _State.unwinding_seconds = seconds


def was_interrupted() -> bool:
    """Tell whether a signal has come."""
    return _State.signal_number is not None


def say_on_the_way_out(text: str) -> None:
    """Write a line to the terminal: not through sys.stderr, which the interrupted code may be in the middle of writing to."""
    os.write(_State.stderr, f"{text}\n".encode())


def exit_code() -> int:
    """Return what a shell reports for a process that this signal ended: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_State.signal_number or signal.SIGINT)


def end_now() -> NoReturn:
    """Kill every process below this one and leave, without waiting for anybody."""
    for child in psutil.Process().children(recursive=True):
        try:
            child.kill()
        except psutil.NoSuchProcess:
            continue
    os._exit(exit_code())


def _on_signal(number: int, _: FrameType | None) -> None:
    if _State.signal_number is not None:
        end_now()
    _State.signal_number = number
    say_on_the_way_out(f"\ncdlabel: {INTERRUPTED}" if sys.stderr.isatty() else f"cdlabel: {INTERRUPTED}")
    if _State.hides_stderr:
        # Dask and Prefect complain of each other's end, each in its own threads.
        _State.stderr = os.dup(2)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        os.close(null)
    timer = threading.Timer(_State.unwinding_seconds, end_now)
    timer.daemon = True
    timer.start()
    raise Interrupted
