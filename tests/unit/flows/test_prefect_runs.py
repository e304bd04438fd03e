"""Which processes count as dead, so that their flow runs may be closed."""

from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from flows.prefect_runs import is_known_alive, is_known_dead, process_identity


def test_a_process_that_runs_is_alive() -> None:
    assert not is_known_dead(process_identity())


def test_a_process_that_has_ended_is_dead() -> None:
    command = "from flows.prefect_runs import process_identity; print(process_identity())"
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert is_known_dead(ended.stdout.strip())


@pytest.mark.parametrize(("part", "dead"), [(0, False), (1, False), (2, True), (4, True)])
def test_another_machine_may_live_and_another_boot_or_start_time_is_dead(part: int, dead: bool) -> None:
    parts = process_identity().split(" ")
    parts[part] = "other"
    assert is_known_dead(" ".join(parts)) is dead


def test_a_run_without_our_tag_is_never_closed() -> None:
    assert not is_known_dead("")


def test_another_process_of_this_machine_is_known_to_be_alive_and_this_one_is_not_another() -> None:
    ours = process_identity()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        started = f"{psutil.Process(other.pid).create_time() * 100:.0f}"
        theirs = " ".join((*ours.split(" ")[:3], str(other.pid), started))
        assert is_known_alive(theirs)
        other.kill()
        other.wait()
        assert not is_known_alive(theirs)
    assert not any(map(is_known_alive, (ours, "", "elsewhere " + ours.partition(" ")[2])))
