"""What a user can get wrong with train, ablate, evaluate, compose and policies: one line that names it, nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from coloured_videos import ROLES, write_coloured_set, write_manifest_rows
from typer.testing import CliRunner, Result

from cdmodel.bundle import MANIFEST_NAME
from cdmodel.testing import write_tiny_bundle
from flows.cli import app
from flows.command import EXIT_FAILED, EXIT_USAGE

LABELS = ("blue", "green", "red")
TINY = [
    f"--set={setting}"
    for setting in (
        "clips_per_step=2",
        "precision=float32",
        "teacher.steps=2",
        "teacher.arguments={channels=3}",
        "teacher.geometry={frames=8,height=32,width=32}",
        "student.steps=2",
        "student.geometry={frames=2,height=16,width=16}",
    )
]
SHORT_ARMS = [f"--set={setting}" for setting in ("seeds=[0]", 'arms=["A8"]', "steps=2", "clips_per_step=2")]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two classes, bundles, and tables that say something else of the same videos."""
    home = tmp_path_factory.mktemp("home")
    videos = home / "set"
    write_coloured_set(videos, [("red",), ("blue",)])
    _tables(videos)
    (videos / "labels.txt").write_text("red\ngreen\n")
    write_tiny_bundle(home / "bundle", labels=LABELS)
    write_tiny_bundle(home / "other", labels=LABELS, seed=1)
    shutil.copytree(home / "bundle", home / "old")
    facts = json.loads((home / "old" / MANIFEST_NAME).read_text())
    (home / "old" / MANIFEST_NAME).write_text(json.dumps(facts | {"schema_version": 1}))
    (home / "taken").mkdir()
    (home / "taken" / "thesis.doc").write_text("precious")
    arms = ["ablate", "{set}/labels.csv", "--models", "{home}/bundle", "--out", "{home}/arms", *SHORT_ARMS]
    assert _run(arms, home, home).exit_code == 0
    (home / "damaged").mkdir()
    for file in (home / "arms").iterdir():
        (home / "damaged" / file.name).write_bytes(file.read_bytes()[:-1])
    return home


def _tables(videos: Path) -> None:
    """Write one manifest for each mistake."""
    rows = [
        {"uri": f"{group:02d}-{place}.mp4", "label": label, "group": f"g{group}", "split": role}
        for group, role in enumerate(ROLES)
        for place, label in enumerate(("red", "blue"))
    ]
    tables = {
        "one_class": [{**row, "label": "red"} for row in rows],
        "one_group": [{"uri": row["uri"], "label": row["label"], "group": "g"} for row in rows],
        "leaking": [{**row, "group": "g0" if row["group"] == "g5" else row["group"]} for row in rows],
        "absent": [row for row in rows if (row["split"], row["label"]) != ("train", "blue")],
        "no_cal": [row for row in rows if row["split"] != "cal"],
        "unknown": [{**row, "label": row["label"].upper()} for row in rows],
        "several": [{**row, "label": "red|blue"} for row in rows],
        "test_one_group": [{**row, "group": row["split"]} for row in rows],
        "unknown_split": [{**row, "split": "dev"} for row in rows],
        "gone": [{**row, "uri": f"gone-{row['uri']}"} for row in rows],
    }
    for name, table in tables.items():
        write_manifest_rows(videos, table, f"{name}.csv")


def _run(arguments: list[str], home: Path, folder: Path) -> Result:
    filled = [part.replace("{home}", str(home)).replace("{set}", str(home / "set")) for part in arguments]
    return CliRunner().invoke(app, [part.replace("{out}", str(folder / "out")) for part in filled])


def _train(table: str = "labels", *more: str) -> list[str]:
    return ["train", f"{{set}}/{table}.csv", "--out", "{out}", *TINY, *more]


def _ablate(table: str = "labels", *more: str, models: str = "bundle") -> list[str]:
    return ["ablate", f"{{set}}/{table}.csv", "--models", f"{{home}}/{models}", "--out", "{out}", *SHORT_ARMS, *more]


def _evaluate(table: str = "labels", *more: str, models: str = "bundle") -> list[str]:
    return ["evaluate", f"{{set}}/{table}.csv", "--models", f"{{home}}/{models}", "--out", "{out}", *more]


def _compose(table: str = "labels", *more: str) -> list[str]:
    return ["compose", f"{{set}}/{table}.csv", "--backgrounds", "{set}/labels.csv", "--out", "{out}", *more]


def _plan(*escalation: str) -> list[str]:
    settings = [f"--set=escalation.{setting}" for setting in escalation]
    return ["plan", "{set}/labels.csv", "--models", "{home}/bundle", "--out", "{out}", *settings]


REFUSED = {
    "train: one class": (_train("one_class"), "at least two classes, found red"),
    "train: one group": (_train("one_group"), "needs its own"),
    "train: a group on both sides": (_train("leaking"), "'g0' lies both in train and in test"),
    "train: a class that train lacks": (_train("absent"), "no video in train shows blue"),
    "train: a role without videos": (_train("no_cal"), "no video for cal"),
    "train: an unknown split": (_train("unknown_split"), "split 'dev' is unknown"),
    "train: labels the given teacher lacks": (
        _train("unknown", "--set=teacher.weights={home}/bundle", "--set=teacher.learn=nothing"),
        "RED",
    ),
    "train: no such data set": (_train("nowhere"), "nowhere.csv"),
    "train: an existing OUT": ([*_train()[:3], "{home}/taken", *TINY], "exists already"),
    "train: a bucket": ([*_train()[:3], "s3://bucket/bundle", *TINY], "local folder"),
    "train: an unknown setting": (_train("labels", "--set=teacher.speed=9"), "teacher.speed: unknown setting"),
    "train: a rate out of range": (_train("labels", "--set=student.learning_rate=1e9"), "student.learning_rate"),
    "train: steps": (_train("labels", "--set=teacher.steps=0"), "teacher.steps"),
    "train: folds": (_train("labels", "--set=confidence.folds=1"), "confidence.folds"),
    "train: a target": (_train("labels", "--set=confidence.target=luck"), "confidence.target"),
    "train: a kind of labels": (_train("labels", "--set=label_kind=many"), "label_kind"),
    "train: a builder that is not allowed": (
        _train("labels", "--set=teacher.builder=broken_networks:build_overflowing"),
        "not allowed",
    ),
    "ablate: labels the bundle lacks": (_ablate("unknown"), "BLUE, RED"),
    "ablate: a role without videos": (_ablate("no_cal"), "no video for cal"),
    "ablate: a group on both sides": (_ablate("leaking"), "'g0' lies both"),
    "ablate: an existing OUT": ([*_ablate()[:5], "{home}/taken", *SHORT_ARMS], "exists already"),
    "ablate: a bundle of schema 1": (_ablate(models="old"), "bundle schema 1 is unknown"),
    "ablate: an arm": (_ablate("labels", '--set=arms=["A99"]'), "A99 is no ablation"),
    "ablate: no arm": (_ablate("labels", "--set=arms=[]"), "arms: must be"),
    "ablate: a seed twice": (_ablate("labels", "--set=seeds=[1,1]"), "seeds: must be"),
    "ablate: steps": (_ablate("labels", "--set=steps=1"), "steps: must be at least 2"),
    "ablate: a rate": (_ablate("labels", "--set=learning_rate=2"), "learning_rate: must be"),
    "ablate: clips": (_ablate("labels", "--set=clips_per_step=1"), "clips_per_step: must be"),
    "ablate: a weight": (_ablate("labels", "--set=background_weight=2"), "background_weight: must lie"),
    "ablate: an unknown setting": (_ablate("labels", "--set=speed=9"), "speed: unknown setting"),
    "evaluate: labels the bundle lacks": (_evaluate("unknown"), "BLUE, RED"),
    "evaluate: several labels": (_evaluate("several"), "does not know the labels red|blue"),
    "evaluate: a role without videos": (_evaluate("no_cal"), "role cal"),
    "evaluate: one group": (_evaluate("test_one_group"), "form one group"),
    "evaluate: a group on both sides": (_evaluate("leaking"), "'g0' lies both"),
    "evaluate: an OUT that holds something else": (
        [*_evaluate()[:5], "{home}/taken"],
        "holds something else (thesis.doc)",
    ),
    "evaluate: a bundle of schema 1": (_evaluate(models="old"), "bundle schema 1 is unknown"),
    "evaluate: no bundle": (_evaluate(models="nowhere"), "not a model bundle"),
    "evaluate: arms of another teacher": (_evaluate("labels", "--arms={home}/arms", models="other"), "another teacher"),
    "evaluate: damaged arms": (_evaluate("labels", "--arms={home}/damaged"), "differs from the hash"),
    "evaluate: no arms": (_evaluate("labels", "--arms={home}/taken"), "holds no trained arms"),
    "evaluate: epsilon": (_evaluate("labels", "--set=epsilon=1"), "epsilon"),
    "compose: an OUT that is not empty": ([*_compose()[:5], "{home}/taken", "--distractors=0"], "not empty"),
    "compose: a group on both sides": (_compose("leaking"), "'g0' lies both"),
    "compose: only its own videos for background": (_compose(), "no background for"),
    "compose: a share": (_compose("labels", "--distractors=1"), "distractors"),
    "compose: an unknown setting": (_compose("labels", "--set=speed=9"), "speed: unknown setting"),
    "compose: sizes": (_compose("labels", "--set=height=17"), "height"),
    "policy: no threshold": (_plan("kind=gain"), "escalation.gain.min_gain: is missing"),
    "policy: a threshold": (_plan("kind=max_prob", "threshold=1.5"), "threshold must lie between 0 and 1"),
    "policy: a threshold that is no number": (_plan("kind=gate", "threshold=high"), "escalation.gate.threshold"),
    "policy: not a number": (_plan("kind=gate", "threshold=nan"), "threshold must lie between 0 and 1"),
    "policy: clips": (_plan("kind=uniform", "clips=0"), "clips must be at least 1"),
    "policy: another kind's setting": (_plan("kind=gain", "min_gain=0.1", "clips=3"), "unknown setting"),
    "policy: a budget": (_plan("kind=budgeted", "teacher_share=2"), "teacher_share must lie"),
    "policy: epsilon": (_plan("kind=certified", "epsilon=0"), "epsilon and delta"),
    "policy: certified without a risk role": (_plan("kind=certified", "epsilon=0.1"), "no videos in the role risk"),
    "policy: a budget nothing is known of": (_plan("kind=budgeted", "teacher_share=0.2"), "remembers no values"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_usage_is_one_line_with_exit_code_2_and_nothing_is_written(home: Path, tmp_path: Path, case: str) -> None:
    arguments, said = REFUSED[case]
    before = _everything(home)
    done = _run(arguments, home, tmp_path)
    assert done.exit_code == EXIT_USAGE, done.output
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cdlabel: ")
    assert said in line
    assert list(tmp_path.iterdir()) == []
    assert _everything(home) == before


def test_a_loss_that_is_no_number_stops_with_stage_step_and_videos(home: Path, tmp_path: Path) -> None:
    broken = (
        "teacher.builder=broken_networks:build_overflowing",
        "teacher.arguments={}",
        'allowed_builders=["broken_networks"]',
    )
    done = _run(_train("labels", *(f"--set={setting}" for setting in broken)), home, tmp_path)
    assert done.exit_code == EXIT_FAILED, done.output
    line = done.stderr.splitlines()[-1]
    assert line.startswith("cdlabel: teacher step 1: the loss is not a number; lower teacher.learning_rate")
    assert ".mp4" in line
    assert not (tmp_path / "out").exists()


def test_videos_that_cannot_be_read_are_skipped_counted_and_named(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "set", tmp_path / "set")
    (tmp_path / "set" / "00-0.mp4").write_bytes(b"not a video")
    for command in (_train, _ablate):
        arguments = [part.replace("{set}", str(tmp_path / "set")) for part in command()]
        done = _run(arguments, home, tmp_path / command.__name__)
        assert done.exit_code == 0, done.output
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("left out: ")]
        assert "00-0.mp4: " in line
        assert "videos_skipped" in done.stdout
        (counted,) = [line.split() for line in done.stdout.splitlines() if line.startswith("videos_skipped")]
        assert counted[1] == "1"


def test_a_training_of_which_nothing_can_be_read_fails(home: Path, tmp_path: Path) -> None:
    done = _run(_train("gone"), home, tmp_path)
    assert done.exit_code in (EXIT_FAILED, EXIT_USAGE)
    assert done.stderr.splitlines()[-1].startswith("cdlabel: ")
    assert "gone-" in done.stderr or "not one video" in done.stderr
    assert not (tmp_path / "out").exists()


def _everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))
