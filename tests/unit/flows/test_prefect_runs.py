"""Which processes count as dead, so that their flow runs may be closed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flows.prefect_runs import is_known_dead, process_identity


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
