"""Processes that use one registry at the same instant, or are killed at it: ``python registry_processes.py < work``.

Forks each from one interpreter, which itself does nothing. Reads a JSON object (see ``main``) and writes a JSON array with
one answer per process.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.append(str(Path(__file__).parent))

import pytest
from watched_disk import DiesAt, WatchedDisk

from cdmodel.errors import RegistryConflict
from storage.registry import open_registry
from tasks.move_alias import Mover, promote_bundle


def main() -> None:
    assert "torch" not in sys.modules
    work = json.load(sys.stdin)
    registry, bundles = work["registry"], work["bundles"]
    match work["kind"]:
        case "promote":
            answers = _all_at_once(work["processes"], lambda index: _promote(registry, bundles, index))
        case "move":
            answers = _all_at_once(work["processes"], lambda index: _move(registry, bundles, index, work["after"]))
        case "killed":
            answers = [_killed(place, bundles[0], step) for place, step in zip(registry, work["steps"], strict=True)]
    json.dump(answers, sys.stdout)


def _all_at_once(processes: int, work: Callable[[int], int | None]) -> list[int | None]:
    gate, opens = os.pipe()
    answers = []
    for index in range(processes):
        answer, says = os.pipe()
        if os.fork() == 0:
            os.close(opens)
            os.read(gate, 1)  # until the parent closes its end
            os.write(says, json.dumps(work(index)).encode())
            os._exit(0)
        os.close(says)
        answers.append(answer)
    os.close(opens)
    texts = [os.read(answer, 100) for answer in answers]
    for _ in answers:
        os.wait()
    return [json.loads(text) for text in texts]


def _promote(registry: str, bundles: list[str], index: int) -> int:
    return promote_bundle(registry, bundles[index % len(bundles)], "production", Mover(moved_by=f"{index}")).number


def _move(registry: str, bundles: list[str], index: int, after: int) -> int | None:
    try:
        return open_registry(registry).move("production", bundles[0], after=after, moved_by=f"{index}").number
    except RegistryConflict:
        return None


def _killed(registry: str, bundle: str, step: int) -> int:
    child = os.fork()
    if child == 0:
        disk = WatchedDisk()
        disk.install(pytest.MonkeyPatch())
        with disk.process(DiesAt(step, "before", lambda: os.kill(os.getpid(), signal.SIGKILL))):
            promote_bundle(registry, bundle, "production", Mover(moved_by="killed"))
        os._exit(0)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    main()
