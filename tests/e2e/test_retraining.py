"""The learning loop as a user runs it: label, retrain, promote, label with what was learned; and killed at every stage."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w

import cdmodel
from cdmodel.bundle import model_version, read_manifest, write_manifest
from cdmodel.policies import DenseTeacher
from cdmodel.scenes import LABELS
from tasks.generate_corpus import generate_corpus

Cdlabel = Callable[..., subprocess.CompletedProcess[str]]
Rows = Callable[..., list[dict[str, Any]]]
STAGES = ("cycle.json", "examples.parquet", "composition.json", "candidate.json", "gate.json")
LENIENT = {
    "min_groups": 2,
    "accuracy_margin": 1.0,
    "teacher_margin": 1.0,
    "audit_margin": 1.0,
    "calibration_limit": 1.0,
    "harm_limit": 0.99,
    "class_drop": 1.0,
    "student_class_drop": 1.0,
    "untaught_labels": list(LABELS),
}
"""Two dozen videos prove nothing: what is looked at here is what becomes of a decision."""


@pytest.fixture(scope="module")
def dear_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo bundle as one that always asks the teacher: whoever does not is cheaper."""
    folder = tmp_path_factory.mktemp("dear") / "bundle"
    shutil.copytree(Path(cdmodel.__file__).parent / "demo_bundle", folder)
    write_manifest(folder, replace(read_manifest(folder), default_policy=DenseTeacher()))
    return folder


@pytest.fixture(scope="module")
def yardstick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other generated videos, to judge by."""
    folder = tmp_path_factory.mktemp("yardstick") / "kinetic"
    generate_corpus(str(folder), videos=12, seed=6, distractors=0.5, on_progress=lambda _: None)
    return folder


@pytest.fixture
def night(cdlabel: Cdlabel, corpus: Path, yardstick: Path, dear_bundle: Path, tmp_path: Path) -> Path:
    """A registry with that bundle in production, one labeled night, and the file that says how to go on."""
    registry = tmp_path / "models"
    cdlabel("models", "promote", registry, dear_bundle, "--why", "the first")
    settings = {
        "source": str(corpus / "videos"),
        "out": str(tmp_path / "out"),
        "models": {"bundle": f"{registry}@production"},
        "cluster": {"model_threads": 1},
        "corpus": {"roots": [str(yardstick)]},
        "retrain": {
            "registry": str(registry),
            "benchmark": str(write_benchmark(yardstick, tmp_path)),
            "train": {
                "teacher": {"weights": str(dear_bundle), "learn": "nothing"},
                "student": {"steps": 10, "learning_rate": 0.0001},
                "max_escalated_share": 0.2,  # by price it may be all of two dozen videos' clips
            },
            "gate": LENIENT,
        },
    }
    (tmp_path / "nightly.toml").write_text(tomli_w.dumps(settings))
    label(cdlabel, tmp_path)
    return tmp_path


def write_benchmark(corpus: Path, folder: Path) -> Path:
    """Return a manifest of all generated videos, which gives them no roles."""
    with (corpus / "labels.csv").open() as file:
        rows = [f"{corpus / row['uri']},{row['label']},{row['group']}" for row in csv.DictReader(file)]
    benchmark = folder / "benchmark.csv"
    benchmark.write_text("\n".join(["uri,label,group", *rows]) + "\n")
    return benchmark


def label(cdlabel: Cdlabel, folder: Path) -> dict[str, Any]:
    settings = folder / "nightly.toml"
    source = next(line.split('"')[1] for line in settings.read_text().splitlines() if line.startswith("source"))
    arguments = ("--models", f"{folder / 'models'}@production", "--set", "audit.share=1.0", "--workers", "2", "--json")
    run: dict[str, Any] = json.loads(cdlabel("label", source, "--out", folder / "out", *arguments).stdout)
    return run


def test_what_was_labeled_makes_the_next_bundle_which_labels_from_then_on(
    night: Path, cdlabel: Cdlabel, rows: Rows, dear_bundle: Path
) -> None:
    first = model_version(read_manifest(dear_bundle))
    told = cdlabel("retrain", "--config", night / "nightly.toml", "--strict", "--json")
    cycle = json.loads(told.stdout)
    assert (cycle["flow"], cycle["status"]) == ("retrain", "promoted")
    assert cycle["model_version"] != first
    moves = json.loads(cdlabel("models", "history", night / "models", "--json").stdout)["moves"]
    assert [move["model_version"] for move in moves] == [first, cycle["model_version"]]
    assert "saves" in moves[-1]["reason"]
    again = label(cdlabel, night)
    assert again["model_version"] == cycle["model_version"]
    assert again["teacher_flops"] < again["dense_teacher_flops"]
    versions = rows(night / "out", "select model_version, count(*)::int as n from predictions group by 1 order by n, 1")
    assert {row["model_version"] for row in versions} == {first, cycle["model_version"]}
    flows = rows(night / "out", "select flow, status from runs order by started_at")
    assert [row["flow"] for row in flows] == ["label", "retrain", "label"]
    assert cdlabel("verify", night / "out").stdout.strip() == "ok"
    assert json.loads(cdlabel("status", night / "out", "--json").stdout)["run_id"] == again["run_id"]
    cdlabel("models", "rollback", night / "models", "--why", "a try")
    shown = json.loads(cdlabel("models", "show", night / "models", "production", "--json").stdout)
    assert shown["model_version"] == first


@pytest.mark.matrix  # two minutes of CPU: make test-faults
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", STAGES)
def test_a_cycle_killed_at_any_stage_is_gone_on_with_by_the_same_command(
    night: Path, cdlabel: Cdlabel, environment: dict[str, str], rows: Rows, stage: str
) -> None:
    command = [sys.executable, "-m", "flows", "retrain", "--config", str(night / "nightly.toml"), "--json"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as killed:
        deadline = time.monotonic() + 300
        while not list((night / "models").glob(f"cycles/*/{stage}")):
            assert killed.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
    for bundle in json.loads(cdlabel("models", "list", night / "models", "--json").stdout)["bundles"]:
        cdlabel("models", "show", night / "models", bundle["model_version"])
    cycle = json.loads(cdlabel("retrain", "--config", night / "nightly.toml", "--json").stdout)
    assert cycle["status"] == "promoted"
    assert len(list((night / "models").glob("cycles/*/outcome.json"))) == 1
    moves = json.loads(cdlabel("models", "history", night / "models", "--json").stdout)["moves"]
    assert [move["model_version"] for move in moves][1:] == [cycle["model_version"]]
    assert rows(night / "out", "select count(*)::int as n from runs where flow = 'retrain'") == [{"n": 1}]
