"""Processes that label and publish a planned run and are killed on the way: ``python killed_process.py FOLDER < deaths``.

Forks each from one interpreter, which itself does nothing: what they need is imported once, and it is neither torch nor a
decoder. Reads a JSON array of ``Death`` and writes the array of what each process ended with, as ``os.waitpid`` says it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "unit" / "storage")]

import pytest
from attempt_rows import label_pending, publish_in_small_files
from watched_disk import DiesAt, Moment, WatchedDisk

from cdmodel.errors import ErrorKind
from storage.filesystem import open_store
from storage.run_store import read_header
from tasks.finish_run import publish_and_record


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """When a process is to be killed, and what it is at."""

    out: str
    run_id: str
    attempt: int
    now: str
    fails: dict[str, ErrorKind]
    decoder: str
    step: int
    moment: Moment


def main() -> None:
    assert "torch" not in sys.modules
    deaths = [Death(**death) for death in json.load(sys.stdin)]
    json.dump([_status_of(death) for death in deaths], sys.stdout)


def _status_of(death: Death) -> int:
    child = os.fork()
    if child == 0:
        try:
            _label_until_killed(death)
        except BaseException:  # noqa: BLE001 - it must not go on as the parent does
            traceback.print_exc()
        os._exit(3)
    return os.waitpid(child, 0)[1]


def _label_until_killed(death: Death) -> None:
    disk = WatchedDisk()
    patches = pytest.MonkeyPatch()
    disk.install(patches)
    publish_in_small_files(patches)
    store = open_store(death.out)
    with disk.process(DiesAt(death.step, death.moment, lambda: os.kill(os.getpid(), signal.SIGKILL))):
        header = read_header(store, death.run_id)
        label_pending(store, header, death.attempt, datetime.fromisoformat(death.now), death.fails, death.decoder)
        publish_and_record(death.out, death.run_id, config_json="{}", code_version="0")


if __name__ == "__main__":
    main()
