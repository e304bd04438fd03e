"""How close a run came to its busiest part: arithmetic on what was measured, and nothing where nothing was."""

from __future__ import annotations

import pytest

from cdmodel.cost import ComputeCost
from cdmodel.stage_clock import StageClock, StageSeconds, clocked, stage, stages_of_shard


def test_the_busiest_part_sets_the_pace_and_the_longest_stage_has_the_name() -> None:
    models = StageSeconds(decode=5.0, student=4.0, teacher=4.5, cores=3.0, worker=10.0)
    assert models.speed_of_light == pytest.approx(0.85)
    assert models.slowest_stage == "decode"
    assert StageSeconds(cores=9.0, teacher=5.0, worker=10.0).speed_of_light == pytest.approx(0.9)
    assert StageSeconds(decode=1.0, student=3.0, teacher=2.0, worker=10.0).slowest_stage == "student"


def test_nothing_measured_is_not_zero_speed() -> None:
    assert (StageSeconds().speed_of_light, StageSeconds().slowest_stage) == (None, None)


def test_seconds_of_several_workers_add_up() -> None:
    one, other = StageSeconds(decode=4.0, worker=5.0), StageSeconds(teacher=10.0, worker=10.0)
    assert (one + other).speed_of_light == pytest.approx(10 / 15)


def test_decoders_and_cores_share_what_they_have_to_do() -> None:
    cost = ComputeCost(decode_cpu_seconds=6.0, student_seconds=1.0, teacher_seconds=3.0)
    found = stages_of_shard(cost, StageClock({"teacher": 2.0}), worker_seconds=8.0, decoders=3, cores=2)
    assert found == StageSeconds(decode=3.0, student=0.0, teacher=2.0, cores=5.0, worker=8.0)


def test_the_seconds_of_a_gpu_are_no_load_of_the_cores() -> None:
    cost = ComputeCost(decode_cpu_seconds=6.0, teacher_seconds=30.0, gpu_seconds=30.0)
    assert stages_of_shard(cost, StageClock(), worker_seconds=31.0, decoders=1, cores=2).cores == 3.0


def test_stages_are_counted_only_where_somebody_listens() -> None:
    with stage("student"):
        pass
    with clocked() as clock:
        for _ in range(2):
            with stage("teacher"):
                pass
    with stage("teacher"):
        pass
    assert set(clock.seconds) == {"teacher"}
