"""A data set whose videos have several labels, through every command that reads labels but ``label`` itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from coloured_videos import write_coloured_set
from typer.testing import CliRunner

from cdmodel.cascade import CascadeSettings, label_video
from cdmodel.decode import ClipReader
from cdmodel.models import load_bundle
from cdmodel.policies import EscalationPolicy
from flows.cli import app
from storage.corpus import open_video
from storage.dataset import read_dataset

SHOWN = [("red", "blue"), ("green",), ("blue", "green"), ("red",)]
TRAINING = {
    "label_kind": "multi",
    "clips_per_step": "4",
    "precision": "float32",
    "teacher.steps": "4",
    "teacher.arguments": "{channels=3}",
    "student.steps": "4",
    "student.geometry": "{frames=2,height=16,width=16}",
    "teacher.geometry": "{frames=8,height=32,width=32}",
}
NUMBERS = {
    "threshold": 0.5,
    "min_gain": 0.0,
    "min_value": 0.0,
    "min_confidence": 0.5,
    "drop_below": 0.2,
    "clips": 1,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    home = tmp_path_factory.mktemp("multi")
    write_coloured_set(home / "set", SHOWN)
    _run("train", home / "set" / "labels.csv", "--out", home / "bundle", *_settings(TRAINING))
    yield home
    torch.set_num_threads(threads)


def _settings(values):
    return [f"--set={key}={value}" for key, value in values.items()]


def _run(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_an_evaluation_says_hit_at_1_and_mean_average_precision_and_compares_arms(home):
    labels, bundle, out = home / "set" / "labels.csv", home / "bundle", home / "evaluation"
    arms = {"seeds": "[0]", "arms": '["A1","A2","A8","A9","A10"]', "steps": "2", "clips_per_step": "2"}
    made = _run("ablate", labels, "--models", bundle, "--out", home / "arms", *_settings(arms))
    assert made["networks"] == 4
    document = _run("evaluate", labels, "--models", bundle, "--out", out, "--arms", home / "arms")
    assert document["metric"] == "accuracy_hit1"
    points = [document[end] for end in ("dense_teacher", "dense_student", "default")]
    assert all(0 < p["mean_average_precision"] <= 1 for p in [*points, *document["policies"], *document["baselines"]])
    assert document["ablations"].keys() >= {"A1", "A2", "A8", "A9", "A10", "A8_minus_A2"}
    headline = (Path(out) / "tables.md").read_text().split("## Headline")[1].splitlines()[2]
    assert headline.startswith("|  | hit at 1 |")
    assert headline.endswith("| mean average precision |")


@pytest.mark.parametrize("policy", get_args(EscalationPolicy), ids=lambda policy: policy.__name__)
def test_every_policy_labels_a_video_of_several_labels(home, policy):
    needed = {name: NUMBERS[name] for name in NUMBERS if name in policy.__dataclass_fields__}
    models = load_bundle(home / "bundle")
    video = read_dataset(str(home / "set" / "labels.csv"), label_kind="multi").videos[0].video
    settings = CascadeSettings(policy=policy(**needed), aggregation=models.manifest.default_aggregation)
    with open_video(video) as file:
        reader = ClipReader(file, video.uri, models.manifest.sampling)
        prediction = label_video(video, reader, models, settings)
    ranked = [label.probability for label in prediction.top_labels]
    assert {label.label for label in prediction.top_labels} == {"red", "green", "blue"}
    assert ranked == sorted(ranked, reverse=True)
    assert sum(clip.weight for clip in prediction.clips) == pytest.approx(1.0, abs=1e-6)
