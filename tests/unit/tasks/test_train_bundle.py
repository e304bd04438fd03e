from __future__ import annotations

import csv
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from cdmodel.bundle import (
    MANIFEST_NAME,
    STUDENT_WEIGHTS,
    TEACHER_WEIGHTS,
    read_manifest,
    untaught_labels,
    write_manifest,
)
from cdmodel.descent import TrainingProgress
from cdmodel.encode import encode_mp4
from cdmodel.errors import BundleError, OutputError, SourceError, TrainingError
from cdmodel.models import load_bundle
from cdmodel.sampling import ClipGeometry
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import ConfidenceSettings, StudentSettings, TrainSettings
from storage.corpus import CorpusRules
from storage.dataset import read_dataset
from tasks.add_reference import add_reference
from tasks.train_bundle import train_bundle

SETTINGS = TrainSettings(
    clips_per_step=8,
    precision="float32",
    teacher=TeacherSettings(geometry=ClipGeometry(frames=8, height=32, width=32), steps=30),
    student=StudentSettings(geometry=ClipGeometry(frames=4, height=16, width=16), steps=40),
)
SHORT = replace(SETTINGS, teacher=replace(SETTINGS.teacher, steps=2), student=replace(SETTINGS.student, steps=2))
FRAMES_PER_SECOND = 16


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small are slower on several threads, and far slower where other programs compete for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _ignore(progress: TrainingProgress) -> None:
    pass


@cache
def _slide(seed: int, step: int) -> bytes:
    """Return two seconds of a bar that slides down again and again (step 1) or up (step -1)."""
    random = np.random.default_rng(seed)
    offset = int(random.integers(0, 64))
    frames = random.integers(60, 110, size=(2 * FRAMES_PER_SECOND, 64, 64, 3)).astype(np.uint8)
    for number, frame in enumerate(frames):
        rows = (offset + 3 * step * number + np.arange(10)) % 64
        frame[rows] = 230
    return encode_mp4(frames, FRAMES_PER_SECOND)


def _write_corpus(folder: Path, *, groups: int = 12, labels: tuple[str, str] = ("down", "up")) -> Path:
    folder.mkdir()
    rows = []
    for group in range(groups):
        for label, step in zip(labels, (1, -1), strict=True):
            name = f"{group:02d}-{step}.mp4"
            (folder / name).write_bytes(_slide(group, step))
            rows.append({"uri": name, "label": label, "group": f"g{group}"})
    return _write_table(folder, rows)


def _write_table(folder: Path, rows: list[dict[str, str]]) -> Path:
    table = folder / "labels.csv"
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return table


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    dataset = _write_corpus(folder / "corpus")
    return dataset, train_bundle(str(dataset), str(folder / "bundle"), SETTINGS, _ignore)


def test_two_opposite_motions_are_told_apart_better_than_by_chance(trained):
    _, bundle = trained
    assert bundle.labels == ("down", "up")
    assert bundle.metrics["video_accuracy_dense_teacher"] > 0.5
    assert bundle.videos_used == 24
    assert bundle.skipped == ()


def test_the_bundle_loads_and_scores_as_its_manifest_says(trained):
    _, bundle = trained
    models = load_bundle(bundle.folder)
    clips = np.random.default_rng(0).integers(0, 255, size=(3, 4, 3, 16, 16)).astype(np.uint8)
    answers = models.student.score(clips)
    assert models.model_version == bundle.model_version
    assert models.manifest.provenance["target_origin"] == "heldout"
    assert untaught_labels(models.manifest) == ()
    shown = models.manifest.provenance["train_videos_by_label"]
    assert list(shown) == list(models.manifest.labels)
    assert sum(shown.values()) == models.manifest.provenance["videos"]["train"]
    assert answers.logits_NK.shape == (3, 2)
    assert np.isfinite(answers.q_teacher_logit_N).all()


def test_the_bundle_remembers_its_models_confidence_and_an_older_one_can_be_given_the_same(trained, tmp_path):
    dataset, bundle = trained
    shutil.copytree(bundle.folder, tmp_path / "older")
    manifest = read_manifest(tmp_path / "older")
    assert manifest.reference is not None
    write_manifest(tmp_path / "older", replace(manifest, reference=None))
    version = add_reference(str(tmp_path / "older"), str(dataset))
    again = read_manifest(tmp_path / "older").reference
    assert again is not None
    assert (again.student.videos, again.teacher.videos) == (manifest.reference.student.videos, 2)
    assert sum(again.student.clips_B) == sum(manifest.reference.student.clips_B) == 4
    assert again == manifest.reference
    assert version == bundle.model_version


def test_only_the_finished_bundle_is_left_beside_its_target(trained):
    _, bundle = trained
    assert {path.name for path in bundle.folder.iterdir()} == {MANIFEST_NAME, STUDENT_WEIGHTS, TEACHER_WEIGHTS}
    assert {path.name for path in bundle.folder.parent.iterdir()} == {"bundle", "corpus"}


def test_the_same_seed_gives_the_same_bundle_and_another_seed_another(trained, tmp_path):
    dataset, _ = trained
    first, again, other = (
        train_bundle(str(dataset), str(tmp_path / name), replace(SHORT, seed=seed), _ignore)
        for name, seed in (("first", 1), ("again", 1), ("other", 2))
    )
    assert first.model_version == again.model_version != other.model_version


def test_changed_weights_are_refused(trained, tmp_path):
    _, bundle = trained
    for path in bundle.folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = bytearray((tmp_path / STUDENT_WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (tmp_path / STUDENT_WEIGHTS).write_bytes(weights)
    with pytest.raises(BundleError, match="differ from the hash"):
        read_manifest(tmp_path)


def test_a_damaged_video_is_left_out_and_listed(tmp_path):
    dataset = _write_corpus(tmp_path / "corpus", groups=8)
    (tmp_path / "corpus" / "03-1.mp4").write_bytes(b"not a video")
    bundle = train_bundle(str(dataset), str(tmp_path / "bundle"), SHORT, _ignore)
    assert [Path(video.uri).name for video in bundle.skipped] == ["03-1.mp4"]
    assert bundle.videos_used == 15


def test_a_role_of_which_nothing_can_be_read_ends_the_training(tmp_path):
    dataset = _write_corpus(tmp_path / "corpus", groups=4)
    for video in (tmp_path / "corpus").glob("*.mp4"):
        video.write_bytes(b"not a video")
    with pytest.raises(TrainingError, match="not one video of this role can be read"):
        train_bundle(str(dataset), str(tmp_path / "bundle"), SETTINGS, _ignore)
    assert not (tmp_path / "bundle").exists()


def test_an_existing_target_is_refused_before_any_work(tmp_path):
    with pytest.raises(OutputError, match="exists already"):
        train_bundle("nowhere.csv", str(tmp_path), SETTINGS, _ignore)


def test_a_manifest_elsewhere_is_trained_on_if_the_root_of_its_videos_is_named(tmp_path):
    folder = tmp_path / "corpus"
    rows = list(csv.DictReader(_write_corpus(folder, groups=4).read_text().splitlines()))
    (tmp_path / "lists").mkdir()
    dataset = str(_write_table(tmp_path / "lists", [{**row, "uri": str(folder / row["uri"])} for row in rows]))
    with pytest.raises(SourceError, match=r"corpus\.roots"):
        train_bundle(dataset, str(tmp_path / "bundle"), SHORT, _ignore)
    bundle = train_bundle(dataset, str(tmp_path / "bundle"), SHORT, _ignore, corpus=CorpusRules(roots=(str(folder),)))
    assert bundle.videos_used == 8


def test_one_class_is_refused_in_one_line(tmp_path):
    dataset = _write_corpus(tmp_path / "corpus", groups=4, labels=("same", "same"))
    with pytest.raises(SourceError, match="at least two classes, found same"):
        train_bundle(str(dataset), str(tmp_path / "bundle"), SETTINGS, _ignore)


def test_too_few_groups_are_refused_in_one_line(tmp_path):
    dataset = _write_corpus(tmp_path / "corpus", groups=3)
    with pytest.raises(SourceError, match="3 groups are there"):
        train_bundle(str(dataset), str(tmp_path / "bundle"), SETTINGS, _ignore)


def test_a_class_that_train_never_shows_is_refused(tmp_path):
    folder = tmp_path / "corpus"
    _write_corpus(folder, groups=4)
    roles = ("train", "conf", "cal", "test")
    rows = [
        {"uri": f"{group:02d}-{step}.mp4", "label": f"{step}" if group else "1", "group": f"g{group}", "split": role}
        for group, role in enumerate(roles)
        for step in (1, -1)
    ]
    with pytest.raises(SourceError, match="no video in train shows -1"):
        train_bundle(str(_write_table(folder, rows)), str(tmp_path / "bundle"), SETTINGS, _ignore)


def test_a_group_on_both_sides_of_a_split_is_refused(tmp_path):
    folder = tmp_path / "corpus"
    _write_corpus(folder, groups=2)
    rows = [
        {"uri": f"0{group}-{step}.mp4", "label": f"{step}", "group": "g", "split": role}
        for group, role in enumerate(("train", "test"))
        for step in (1, -1)
    ]
    with pytest.raises(SourceError, match="split"):
        train_bundle(str(_write_table(folder, rows)), str(tmp_path / "bundle"), SETTINGS, _ignore)


def test_what_was_learned_on_what_and_what_was_left_out_is_in_the_bundle(tmp_path):
    dataset = _write_corpus(tmp_path / "corpus", groups=8)
    (tmp_path / "corpus" / "03-1.mp4").write_bytes(b"not a video")
    settings = replace(SHORT, confidence=ConfidenceSettings(origin="insample", target="correct"))
    bundle = train_bundle(str(dataset), str(tmp_path / "bundle"), settings, _ignore)
    provenance = read_manifest(bundle.folder).provenance
    assert provenance["target_origin"] == "insample"
    assert [Path(video["uri"]).name for video in provenance["videos_skipped"]] == ["03-1.mp4"]
    assert set(provenance["targets"]) == {"spread_lesson", "spread_cal", "error_share_lesson", "error_share_cal"}
    assert "trained on: not for use" in bundle.warnings[0]
    assert provenance["warnings"] == list(bundle.warnings)


def test_a_class_that_cannot_be_read_in_train_ends_the_training_and_is_named(tmp_path):
    folder = tmp_path / "corpus"
    _write_corpus(folder, groups=4)
    (folder / "00-1.mp4").write_bytes(b"not a video")
    rows = [
        {"uri": f"{group:02d}-{step}.mp4", "label": f"{step}", "group": f"g{group}", "split": role}
        for group, role in enumerate(("train", "conf", "cal", "test"))
        for step in (1, -1)
    ]
    with pytest.raises(TrainingError, match="train: not one of the videos that show 1 can be read"):
        train_bundle(str(_write_table(folder, rows)), str(tmp_path / "bundle"), SHORT, _ignore)


def test_a_class_that_another_role_never_shows_is_a_warning(tmp_path):
    folder = tmp_path / "corpus"
    _write_corpus(folder, groups=4)
    rows = [
        {"uri": f"{group:02d}-{step}.mp4", "label": f"{step}", "group": f"g{group}", "split": role}
        for group, role in enumerate(("train", "conf", "cal", "test"))
        for step in (1, -1)
        if (role, step) != ("test", -1)
    ]
    bundle = train_bundle(str(_write_table(folder, rows)), str(tmp_path / "bundle"), SHORT, _ignore)
    assert any(warning.startswith("no video in test shows -1") for warning in bundle.warnings)


def test_a_network_that_cannot_be_built_is_refused_before_anything_is_decoded(tmp_path):
    dataset = _write_corpus(tmp_path / "corpus", groups=5)
    settings = replace(SHORT, student=replace(SHORT.student, builder="acme.net:build"))
    with pytest.raises(BundleError, match="not allowed"):
        train_bundle(str(dataset), str(tmp_path / "bundle"), settings, pytest.fail)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_more_folds_than_groups_are_refused_before_anything_is_decoded(tmp_path):
    dataset = _write_corpus(tmp_path / "corpus", groups=5)
    settings = replace(SHORT, confidence=ConfidenceSettings(origin="crossfit"))
    with pytest.raises(TrainingError, match=r"confidence\.folds"):
        train_bundle(str(dataset), str(tmp_path / "bundle"), settings, pytest.fail)


def test_training_again_elsewhere_gives_the_same_bundle_whose_student_starts_from_the_given_one(trained, tmp_path):
    dataset, bundle = trained
    versions = []
    for place in ("here", "there"):
        production = tmp_path / place / "m-production"
        shutil.copytree(bundle.folder, production)
        table = tmp_path / place / "examples.csv"
        with dataset.open() as file:
            rows = [{**row, "uri": str(dataset.parent / row["uri"])} for row in csv.DictReader(file)]
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0], "weight"])
            writer.writeheader()
            writer.writerows({**row, "weight": 1 + number % 2} for number, row in enumerate(rows))
        settings = replace(
            SHORT,
            teacher=TeacherSettings(weights=str(production), learn="nothing"),
            student=replace(SHORT.student, start=str(production), learning_rate=1e-6),
        )
        rules = CorpusRules(roots=(str(dataset.parent),))
        again = train_bundle(str(table), str(tmp_path / place / "bundle"), settings, _ignore, corpus=rules)
        versions.append(again.model_version)
        before, after = load_bundle(production).student.network, load_bundle(again.folder).student.network
        for one, other in zip(before.parameters(), after.parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-3)
    assert versions[0] == versions[1]


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "heavy"])
def test_a_weight_that_is_no_number_above_zero_is_refused_by_its_row(tmp_path, weight):
    table = tmp_path / "labels.csv"
    table.write_text(f"uri,label,weight\na.mp4,up,1.5\nb.mp4,down,{weight}\n")
    with pytest.raises(SourceError, match=f"row 2: weight '{weight}' is not a number above 0"):
        read_dataset(str(table))
