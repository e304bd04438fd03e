from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from cdmodel.errors import BundleError, DamagedObject, SourceError
from cdmodel.gate_facts import GateDecision
from cdmodel.gate_settings import GateSettings
from cdmodel.models import load_bundle
from cdmodel.policies import DenseStudent, DenseTeacher
from cdmodel.sampling import ClipSampling
from cdmodel.scores import FloatArray
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from storage.dataset import read_dataset
from storage.filesystem import open_store
from tasks import score_dataset as scoring
from tasks.judge_candidate import GATE, GateProgress, GateSets, has_same_teacher, judge_candidate, read_decision
from tasks.score_dataset import score_dataset

LABELS = ("left", "right", "still")
LENIENT = GateSettings(min_groups=2, draws=200)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    write_tiny_bundle(folder / "production", labels=LABELS, policy=DenseTeacher())
    # The same weights: what differs is when the teacher is asked.
    write_tiny_bundle(folder / "cheap", labels=LABELS, policy=DenseStudent())
    write_tiny_bundle(folder / "other", labels=("dog", "cat"))
    write_tiny_bundle(folder / "grown", labels=(*LABELS, "walk"))
    write_tiny_bundle(folder / "shrunk", labels=("left", "right"))
    return folder


def _write_set(folder: Path, labels: tuple[str, ...] = LABELS, videos: int = 6) -> str:
    rows = [("uri", "label", "group", "split")]
    for number in range(videos):
        (folder / f"{number}.mkv").write_bytes(encode_numbered_clips(1 + number % 3))
        rows.append((f"{number}.mkv", labels[number % len(labels)], f"g{number}", "test"))
    (folder / "trained-on.mkv").write_bytes(encode_numbered_clips(1))
    rows.append(("trained-on.mkv", labels[0], "elsewhere", "train"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(folder / "labels.csv")


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> str:
    return _write_set(tmp_path_factory.mktemp("benchmark"))


def _judge(
    bundles: Path,
    candidate: str,
    out: Path,
    benchmark: str | None,
    *,
    production: str | None = "production",
    audits: str | None = None,
    settings: GateSettings = LENIENT,
    seen: list[GateProgress] | None = None,
) -> GateDecision:
    return judge_candidate(
        bundles / candidate,
        None if production is None else bundles / production,
        GateSets(benchmark=benchmark, audits=audits),
        settings,
        open_store(str(out)),
        (lambda progress: None) if seen is None else seen.append,
    )


def test_a_decision_is_written_once_and_read_back(bundles, benchmark, tmp_path):
    seen: list[GateProgress] = []
    decision = _judge(bundles, "cheap", tmp_path, benchmark, seen=seen)
    assert {progress.stage for progress in seen} == {"benchmark, production", "benchmark, candidate"}
    assert seen[-1].done == seen[-1].total == 6
    document = json.loads((tmp_path / GATE).read_text())
    assert document["candidate"] == decision.candidate
    assert document["reason"] == decision.reason
    assert document["sets"][0]["videos"] == 6
    seen.clear()
    assert (
        _judge(bundles, "cheap", tmp_path, benchmark, seen=seen) == decision == read_decision(open_store(str(tmp_path)))
    )
    assert seen == [], "nothing was scored again"


def test_a_decision_about_another_pair_is_not_taken_for_this_one(bundles, benchmark, tmp_path):
    _judge(bundles, "cheap", tmp_path, benchmark)
    with pytest.raises(DamagedObject, match=r"is about .* against .*, not"):
        _judge(bundles, "cheap", tmp_path, benchmark, production="grown")
    (tmp_path / GATE).write_text("{}")
    with pytest.raises(DamagedObject, match="no decision of the gate"):
        _judge(bundles, "cheap", tmp_path, benchmark)


def test_the_same_teacher_is_run_once(bundles, benchmark, tmp_path, monkeypatch):
    production, candidate = load_bundle(bundles / "production"), load_bundle(bundles / "cheap")
    assert has_same_teacher(production, candidate)
    assert not has_same_teacher(production, load_bundle(bundles / "grown"))
    videos = read_dataset(benchmark).videos
    alone = score_dataset(videos, candidate, ClipSampling(), open_store(str(tmp_path / "alone")), lambda *_: None)
    asked: list[str] = []
    ask_teacher = scoring.ask_teacher

    def count(reader, models, wanted):
        asked.append(models.model_version)
        return ask_teacher(reader, models, wanted)

    monkeypatch.setattr(scoring, "ask_teacher", count)
    before = score_dataset(videos, production, ClipSampling(), open_store(str(tmp_path / "a")), lambda *_: None)
    known = {entry.answers.video_id: entry for entry in before.entries}
    after = score_dataset(
        videos, candidate, ClipSampling(), open_store(str(tmp_path / "b")), lambda *_: None, teacher_of=known
    )
    assert asked == [production.model_version] * len(videos)
    for one, other in zip(after.entries, alone.entries, strict=True):
        assert _same(one.answers.teacher_logits_NK, other.answers.teacher_logits_NK)
        assert _same(one.answers.student.logits_NK, other.answers.student.logits_NK)


def _same(one: FloatArray, other: FloatArray) -> bool:
    return one.tobytes() == other.tobytes()


def test_labels_are_compared_by_name_whatever_their_order(bundles, benchmark, tmp_path):
    """The same weights under names in another order answer differently; the truth they are held against is the name."""
    write_tiny_bundle(tmp_path / "turned", labels=LABELS[::-1], policy=DenseTeacher())
    decision = judge_candidate(
        tmp_path / "turned",
        bundles / "production",
        GateSets(benchmark=benchmark, audits=None),
        LENIENT,
        open_store(str(tmp_path / "out")),
        lambda progress: None,
    )
    assert (decision.new_labels, decision.dropped_labels) == ((), ())
    videos = read_dataset(benchmark).videos
    stores = [open_store(str(tmp_path / name)) for name in ("x", "y")]
    models = [load_bundle(bundles / "production"), load_bundle(tmp_path / "turned")]
    scored = [score_dataset(videos, m, ClipSampling(), s, lambda *_: None) for m, s in zip(models, stores, strict=True)]
    for one, other in zip(scored[0].entries, scored[1].entries, strict=True):
        assert one.answers.truth_K.tolist() == other.answers.truth_K.tolist()[::-1]


def test_labels_that_a_side_does_not_know_are_wrong_for_it(bundles, tmp_path):
    (tmp_path / "set").mkdir()
    benchmark = _write_set(tmp_path / "set", ("walk", "left"), videos=8)
    decision = _judge(bundles, "grown", tmp_path / "out", benchmark)
    assert decision.new_labels == ("walk",)
    models = load_bundle(bundles / "production")
    videos = [video for video in read_dataset(benchmark).videos if video.split == "test"]
    store = open_store(str(tmp_path / "out"))
    kept = store.list("scores")
    scored = score_dataset(videos, models, ClipSampling(), store, lambda *_: None)
    assert store.list("scores") == kept, "these are the scores of the judgement"
    unknown = [entry for entry in scored.entries if entry.video.labels == ("walk",)]
    assert len(unknown) == 4
    assert not any(entry.answers.truth_K.any() for entry in unknown)


def test_a_dropped_class_is_told_and_left_out_where_it_may_go(bundles, benchmark, tmp_path):
    decision = _judge(bundles, "shrunk", tmp_path / "a", benchmark)
    assert (decision.verdict, decision.dropped_labels) == ("keep", ("still",))
    allowed = _judge(
        bundles,
        "shrunk",
        tmp_path / "b",
        benchmark,
        settings=GateSettings(min_groups=2, draws=200, dropped_labels=("still",)),
    )
    assert (allowed.sets[0].videos, allowed.sets[0].videos_dropped) == (4, 2)
    assert next(check for check in allowed.checks if check.name == "labels").passed


def test_what_cannot_be_compared_is_refused_before_any_work(bundles, benchmark, tmp_path):
    seen: list[GateProgress] = []
    decision = _judge(bundles, "other", tmp_path, benchmark, seen=seen)
    assert (decision.verdict, seen) == ("refuse", [])
    assert "no label in common" in decision.reason
    assert json.loads((tmp_path / GATE).read_text())["verdict"] == "refuse"


def test_without_a_set_there_is_nothing_to_judge_by(bundles, tmp_path):
    decision = _judge(bundles, "cheap", tmp_path, None)
    assert decision.verdict == "refuse"
    assert "neither a benchmark nor an audit" in decision.reason


def test_both_sets_count_and_a_first_bundle_has_no_rival(bundles, benchmark, tmp_path):
    decision = _judge(bundles, "cheap", tmp_path / "a", benchmark, audits=benchmark)
    assert [summary.name for summary in decision.sets] == ["benchmark", "audits"]
    first = _judge(bundles, "cheap", tmp_path / "b", benchmark, production=None)
    assert first.production is None
    assert {check.name for check in first.checks} >= {"first_accuracy", "first_saving"}


def test_videos_that_cannot_be_read_are_counted_and_too_many_are_refused(bundles, tmp_path):
    (tmp_path / "set").mkdir()
    benchmark = _write_set(tmp_path / "set")
    for number in range(3):
        (tmp_path / "set" / f"{number}.mkv").write_bytes(b"no video")
    decision = _judge(bundles, "cheap", tmp_path / "out", benchmark)
    assert decision.verdict == "refuse"
    assert "3 of 6 videos cannot be read" in decision.reason


def test_sets_and_bundles_that_cannot_be_used_are_named(bundles, tmp_path):
    with pytest.raises(SourceError, match="nowhere"):
        _judge(bundles, "cheap", tmp_path / "a", str(tmp_path / "nowhere.csv"))
    with pytest.raises(BundleError, match="not a model bundle"):
        _judge(bundles, "missing", tmp_path / "b", None)
    assert not (tmp_path / "a" / GATE).exists()


def test_scores_may_lie_elsewhere_and_serve_the_next_judgement(bundles, benchmark, tmp_path):
    scores = open_store(str(tmp_path / "scores"))
    for cycle, candidate in enumerate(("cheap", "grown")):
        judge_candidate(
            bundles / candidate,
            bundles / "production",
            GateSets(benchmark=benchmark, audits=None),
            LENIENT,
            open_store(str(tmp_path / str(cycle))),
            lambda progress: None,
            scores=scores,
        )
    assert len(scores.list("scores")) == 3, "production was scored once"
    assert np.all([(tmp_path / str(cycle) / GATE).exists() for cycle in range(2)])
