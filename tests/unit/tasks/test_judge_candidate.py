from __future__ import annotations

import csv
import json

import pytest

from cdmodel.gate_settings import GateSettings
from cdmodel.policies import DenseTeacher
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from storage.filesystem import open_store
from tasks.judge_candidate import GATE, GateSets, judge_candidate, read_decision

LABELS = ("left", "right", "still")
LENIENT = GateSettings(min_groups=2, draws=200)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(folder / "production", labels=LABELS)
    write_tiny_bundle(folder / "same", labels=LABELS, policy=DenseTeacher())
    write_tiny_bundle(folder / "turned", labels=LABELS[::-1])
    write_tiny_bundle(folder / "other", labels=("dog", "cat"))
    write_tiny_bundle(folder / "without", labels=("left", "right", "walk"))
    return folder


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    rows = [("uri", "label", "group", "split")]
    for number in range(6):
        (folder / f"{number}.mkv").write_bytes(encode_numbered_clips(1 + number % 3))
        rows.append((f"{number}.mkv", LABELS[number % 3], f"g{number}", "test"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(folder / "labels.csv")


def _judge(bundles, benchmark, candidate, out, *, settings=LENIENT, production="production", seen=None):
    return judge_candidate(
        bundles / candidate,
        None if production is None else bundles / production,
        GateSets(benchmark=benchmark, audits=None),
        settings,
        open_store(str(out)),
        (lambda progress: None) if seen is None else seen.append,
    )


def test_a_decision_is_written_once_and_read_back(bundles, benchmark, tmp_path):
    seen = []
    decision = _judge(bundles, benchmark, "same", tmp_path, seen=seen)
    assert decision.verdict == "keep"
    assert {progress.stage for progress in seen} == {"benchmark, production", "benchmark, candidate"}
    document = json.loads((tmp_path / GATE).read_text())
    assert document["candidate"] == decision.candidate
    assert document["sets"][0]["videos"] == 6
    assert (
        _judge(bundles, benchmark, "same", tmp_path, seen=seen) == decision == read_decision(open_store(str(tmp_path)))
    )
