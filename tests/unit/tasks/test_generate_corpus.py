from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from cdmodel.errors import ConfigError, OutputError
from cdmodel.scenes import LABELS, SceneSpec, draw_scene
from tasks.generate_corpus import generate_corpus

VIDEOS = 24


def _generate(folder: Path, **changes: object):
    arguments = {"videos": VIDEOS, "seed": 11, "distractors": 0.5, "on_progress": lambda done: None, **changes}
    return generate_corpus(str(folder), **arguments)


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generated") / "corpus"
    return folder, _generate(folder)


def test_the_table_names_every_video_once_with_its_class_and_group(corpus):
    folder, generated = corpus
    rows = _rows(folder)
    assert generated.videos == len(rows) == VIDEOS
    assert sorted(row["uri"] for row in rows) == sorted(
        str(path.relative_to(folder)) for path in folder.glob("videos/*.mp4")
    )
    for index, row in enumerate(rows):
        scene = draw_scene(SceneSpec(seed=11), index)
        assert (row["label"], row["group"]) == (scene.label, scene.group)
    assert {row["label"] for row in rows} == set(LABELS)


def test_no_group_is_on_both_sides_of_a_split(corpus):
    rows = _rows(corpus[0])
    assert len({(row["group"], row["split"]) for row in rows}) == len({row["group"] for row in rows})
    assert {row["split"] for row in rows} == {"train", "conf", "cal", "test", "risk"}


def test_the_reported_bytes_are_those_on_disk(corpus):
    folder, generated = corpus
    assert generated.bytes_written == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert generated.labels == str(folder / "labels.csv")


def test_the_same_seed_gives_the_same_bytes(tmp_path):
    _generate(tmp_path / "a", videos=3)
    _generate(tmp_path / "b", videos=3)
    _generate(tmp_path / "c", videos=3, seed=12)
    assert _digests(tmp_path / "a") == _digests(tmp_path / "b")
    assert _digests(tmp_path / "a") != _digests(tmp_path / "c")


def test_progress_counts_every_video(tmp_path):
    seen: list[int] = []
    _generate(tmp_path / "corpus", videos=3, on_progress=seen.append)
    assert seen == [1, 2, 3]


def test_a_folder_that_holds_something_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        _generate(tmp_path)
    assert _digests(tmp_path).keys() == {"mine.txt"}


@pytest.mark.parametrize("change", [{"videos": 0}, {"seed": -1}, {"distractors": 1.0}])
def test_arguments_out_of_range_are_refused_before_anything_is_written(tmp_path, change):
    with pytest.raises(ConfigError):
        _generate(tmp_path / "corpus", **change)
    assert not (tmp_path / "corpus").exists()
