"""What benchmarks/process_tree.py and bench_peers.py work out from what was measured; nothing is measured here."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def process_tree(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("process_tree")


@pytest.fixture
def bench_peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("bench_peers")


def test_what_was_waited_for_counts_where_the_looks_missed_the_end(process_tree: ModuleType):
    assert process_tree.tree_cpu_seconds(5.0, {(1, 0.0): 3.0, (2, 0.5): 1.5}) == 5.0


def test_workers_whose_parent_did_not_wait_count_by_the_last_look(process_tree: ModuleType):
    assert process_tree.tree_cpu_seconds(2.0, {(1, 0.0): 2.0, (2, 0.5): 4.0}) == 6.0


def test_a_process_id_that_comes_again_is_another_process(process_tree: ModuleType):
    assert process_tree.tree_cpu_seconds(0.0, {(7, 1.0): 2.0, (7, 9.0): 2.0}) == 4.0


def test_start_up_is_no_part_of_a_further_video(process_tree: ModuleType):
    start, video = 12.0, 0.25
    few, many = ((videos, start + videos * video) for videos in (16, 64))
    assert process_tree.marginal_seconds(few, many) == video


def test_two_runs_of_as_many_videos_tell_nothing(process_tree: ModuleType):
    with pytest.raises(ValueError, match="both runs have 16 videos"):
        process_tree.marginal_seconds((16, 1.0), (16, 2.0))


def test_start_up_and_slope_come_from_medians(process_tree: ModuleType, bench_peers: ModuleType):
    def spent(cpu_seconds: float) -> object:
        return process_tree.Spent(wall_seconds=2 * cpu_seconds, cpu_seconds=cpu_seconds)

    way = bench_peers.Way(program="plain", case="student", label=lambda paths: None)
    way.few, way.many = [spent(11.0), spent(11.0), spent(99.0)], [spent(20.0), spent(99.0), spent(20.0)]
    summary = bench_peers.summarize(way, few=10, many=100)
    assert (summary.further_cpu_seconds, summary.further_wall_seconds) == pytest.approx((0.1, 0.2))
    assert summary.start_cpu_seconds == pytest.approx(10.0)


def test_ratios_are_others_by_ours_and_totals_of_unlike_numbers_have_none(bench_peers: ModuleType):
    def summary(further: float) -> object:
        return bench_peers.Summary(
            few_cpu_seconds=1.0,
            cpu_seconds=100 * further,
            wall_seconds=1.0,
            further_cpu_seconds=further,
            further_wall_seconds=1.0,
            start_cpu_seconds=1.0,
        )

    cases = bench_peers.compare("cascade", summary(0.1), {"daft": summary(0.4)}, videos=256, others_videos=64)
    assert cases["cascade, others the teacher: further video"]["ratios"] == {"Daft": 4.0}
    assert cases["cascade, others the teacher: all videos"]["ratios"] == {}


def test_accuracy_tells_which_videos_only_one_of_both_has_right(bench_peers: ModuleType):
    labels = {"a": "shake", "b": "grow", "c": "grow", "d": "shrink"}
    cascade = bench_peers.Way(program="cdlabel", case="cascade", label=lambda paths: None)
    cascade.answers = {"a": "shake", "b": "grow", "c": "shake", "d": "shrink"}
    teacher = {"a": "shake", "b": "shake", "c": "grow", "d": "grow"}
    [told] = bench_peers.accuracy([cascade], teacher, labels).values()
    assert (told["ours"], told["others"]) == (0.75, {"teacher on every clip": 0.5})
    assert told["unit"].endswith("2 videos only the cascade has right, 1 only the teacher")
