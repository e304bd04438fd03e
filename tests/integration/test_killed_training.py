"""A training run that is killed and started again gives the bundle of one that was not."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cdmodel.encode import encode_mp4
from cdmodel.errors import OutputError
from cdmodel.sampling import ClipGeometry
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import StudentSettings, TrainSettings
from tasks.train_bundle import train_bundle

SETTINGS = TrainSettings(
    clips_per_step=4,
    precision="float32",
    teacher=TeacherSettings(geometry=ClipGeometry(frames=8, height=32, width=32), arguments={"channels": 3}, steps=10),
    student=StudentSettings(geometry=ClipGeometry(frames=4, height=16, width=16), steps=20),
)
KILLED_RUN = """
import os, signal, sys
import torch
from tests.integration.test_killed_training import SETTINGS
from tasks.train_bundle import train_bundle

torch.set_num_threads(1)
dataset, out, stage, step = sys.argv[1:]

def die_there(progress):
    if (progress.stage, progress.step) == (stage, int(step)):
        os.kill(os.getpid(), signal.SIGKILL)

train_bundle(dataset, out, SETTINGS, die_there, checkpoint_seconds=0)
"""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Sums of several threads differ in the last bit from those of one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    random = np.random.default_rng(0)
    rows = []
    for group, role in enumerate(("train", "train", "conf", "cal", "test")):
        for label, brightness in (("dark", 60), ("light", 160)):
            frames = random.integers(brightness, brightness + 60, size=(16, 48, 48, 3)).astype(np.uint8)
            name = f"{group}-{label}.mp4"
            (folder / name).write_bytes(encode_mp4(frames, 8))
            rows.append({"uri": name, "label": label, "group": f"g{group}", "split": role})
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def whole(dataset):
    return train_bundle(str(dataset), str(dataset.parent / "whole"), SETTINGS, lambda progress: None)


@pytest.mark.parametrize(("stage", "step"), [("read", 3), ("student", 10)])
def test_a_killed_training_goes_on_to_the_same_bundle_and_only_with_its_own_settings(
    dataset, whole, tmp_path, stage, step
):
    _kill(dataset, tmp_path / "killed", stage, step)
    assert [path.name for path in tmp_path.iterdir()] == [".killed.work"]
    other = TrainSettings(clips_per_step=8, teacher=SETTINGS.teacher, student=SETTINGS.student)
    with pytest.raises(OutputError, match=r"\.killed\.work holds an unfinished training on other videos or settings"):
        train_bundle(str(dataset), str(tmp_path / "killed"), other, lambda progress: None)

    steps: list[tuple[str, int]] = []
    resumed = train_bundle(
        str(dataset),
        str(tmp_path / "killed"),
        SETTINGS,
        lambda progress: steps.append((progress.stage, progress.step)),
    )
    assert resumed.model_version == whole.model_version
    assert [path.name for path in tmp_path.iterdir()] == ["killed"]
    if stage == "student":
        assert not [reported for reported in steps if reported[0] == "teacher" or reported == ("student", 10)]


def _kill(dataset: Path, out: Path, stage: str, step: int) -> None:
    root = Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-c", KILLED_RUN, str(dataset), str(out), stage, str(step)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
