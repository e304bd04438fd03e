"""Labels for other programs: what each format holds, and what stands there when something goes wrong."""

from __future__ import annotations

import csv
import json
import re
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from report_runs import HOSTILE, reported_run
from run_builders import NOON, finished_run, video
from typer.testing import CliRunner, Result

from cdmodel.errors import StorageUnavailable
from flows.cli import app
from storage.filesystem import Store, open_store

FORMATS = ("csv", "huggingface", "fiftyone")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Twelve labeled videos, two that failed, and one that a second run labeled again."""
    store = open_store(str(tmp_path_factory.mktemp("exported") / "out"))
    reported_run(store)
    finished_run(store, "r2", [video("v001"), video("w")], at=NOON + timedelta(days=1))
    return store


def _export(store: Store, target: Path, to: str, *more: str) -> Result:
    return CliRunner().invoke(app, ["export", store.root, str(target), "--to", to, *more])


def _exported(store: Store, target: Path, to: str, *more: str) -> Path:
    result = _export(store, target, to, *more, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert facts["destination"] == str(target)
    assert facts["bytes"] == sum(file.stat().st_size for file in (target, *target.rglob("*")) if file.is_file())
    assert [entry.name for entry in target.parent.iterdir()] == [target.name]
    return target


def test_csv_holds_the_latest_labels_by_id(store: Store, tmp_path: Path):
    with _exported(store, tmp_path / "labels.csv", "csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["video_id"] for row in rows] == [f"v{number:03d}" for number in range(12)] + ["w"]
    assert rows[0]["label"] == HOSTILE
    assert (rows[1]["run_id"], rows[1]["labeled_at"]) == ("r2", "2026-11-24T12:00:00.250000Z")
    assert json.loads(rows[1]["top_labels"])[1] == {"label_id": 0, "label": "sit", "probability": 0.25}
    assert {row["status"] for row in rows} == {"labeled", "partial"}


def test_a_condition_picks_rows_of_the_latest(store: Store, tmp_path: Path):
    condition = "run_id = 'r2' and confidence >= 0.5 -- the second night"
    assert len(_exported(store, tmp_path / "labels.csv", "csv", "--where", condition).read_text().splitlines()) == 3


def test_the_huggingface_folder_has_typed_rows_and_a_card_with_their_features(store: Store, tmp_path: Path):
    folder = _exported(store, tmp_path / "labels", "huggingface")
    assert sorted(str(file.relative_to(folder)) for file in folder.rglob("*.*")) == [
        "README.md",
        "data/train-00000-of-00001.parquet",
    ]
    table = pq.read_table(folder / "data" / "train-00000-of-00001.parquet")
    names = _class_names(folder)
    rows = table.to_pylist()
    assert names == sorted({row["label_name"] for row in rows}) == sorted(["run", HOSTILE])
    assert [names[row["label"]] for row in rows] == [row["label_name"] for row in rows]
    assert [row["video_id"] for row in rows] == sorted(row["video_id"] for row in rows)
    assert rows[0]["clips"][1]["scored_by"] == "teacher"
    card = (folder / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert re.findall(r"^  - name: (\w+)$", card, re.MULTILINE) == table.column_names
    assert "\n  - name: labeled_at\n    dtype: timestamp[us, tz=UTC]\n" in card


def test_many_rows_are_cut_into_files_in_order(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tasks.export_huggingface.ROWS_PER_FILE", 5)
    folder = _exported(store, tmp_path / "labels", "huggingface")
    files = sorted((folder / "data").iterdir())
    assert [file.name for file in files] == [f"train-{number:05d}-of-00003.parquet" for number in range(3)]
    ids = [pq.read_table(file, columns=["video_id"]).column(0).to_pylist() for file in files]
    assert [len(part) for part in ids] == [5, 5, 3]
    assert [video_id for part in ids for video_id in part] == sorted(video_id for part in ids for video_id in part)


def test_datasets_loads_the_folder(
    store: Store, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
):
    datasets = pytest.importorskip("datasets", reason="no datasets: pip install datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    loaded = datasets.load_dataset(str(_exported(store, tmp_path / "labels", "huggingface")), split="train")
    assert loaded.features["label"].names == sorted(["run", HOSTILE])
    assert loaded.num_rows == 13


def test_fiftyone_gets_a_detection_in_time_for_every_video_and_every_clip(store: Store, tmp_path: Path):
    """The structure that https://docs.voxel51.com/user_guide/import_datasets.html documents, field by field."""
    folder = _exported(store, tmp_path / "labels", "fiftyone")
    assert sorted(file.name for file in folder.iterdir()) == ["clips.json", "labels.json"]
    videos, clips = (_temporal_detections(folder / name) for name in ("labels.json", "clips.json"))
    assert list(videos) == list(clips) == sorted(videos)
    assert all(uri.startswith("/videos/") for uri in videos)
    assert len(videos) == 13
    (label,) = videos["/videos/v000.mp4"]
    assert (label["label"], label["timestamps"], label["confidence"]) == (HOSTILE, [0.0, 2.5], 0.4)
    assert label["attributes"]["status"] == "partial"
    student, teacher = clips["/videos/w.mp4"]
    assert (student["label"], student["timestamps"], student["confidence"]) == ("run", [0.0, 1.0], 0.75)
    assert (teacher["label"], teacher["timestamps"], teacher["confidence"]) == ("run", [1.0, 2.0], 0.875)
    assert (student["attributes"]["scored_by"], teacher["attributes"]["scored_by"]) == ("student", "teacher")


def test_what_fiftyone_takes_for_an_image_is_left_out_and_counted(tmp_path: Path):
    store = open_store(str(tmp_path / "out"))
    finished_run(store, "r1", [replace(video("a"), uri="/videos/a.gif"), video("b")])
    folder = tmp_path / "labels"
    facts = json.loads(_export(store, folder, "fiftyone", "--json").stdout)
    assert (facts["rows"], facts["left_out"]) == (1, 1)
    for name in ("labels.json", "clips.json"):
        assert list(_temporal_detections(folder / name)) == ["/videos/b.mp4"]
    only = _export(store, tmp_path / "only", "fiftyone", "--where", "uri like '%.gif'")
    assert only.exit_code == 1
    assert "can hold" in only.output


def _temporal_detections(file: Path) -> dict[str, Any]:
    document = json.loads(file.read_text(encoding="utf-8"))
    assert list(document) == ["labels"], "without classes the labels are names"
    for detections in document["labels"].values():
        for detection in detections:
            assert detection.keys() <= {"label", "timestamps", "confidence", "attributes"}
            assert isinstance(detection["label"], str)
            start_seconds, end_seconds = detection["timestamps"]
            assert 0 <= start_seconds <= end_seconds
            assert 0 <= detection["confidence"] <= 1
            assert all(isinstance(value, str | int | float | bool) for value in detection["attributes"].values())
    labels: dict[str, Any] = document["labels"]
    return labels


@pytest.mark.parametrize("to", FORMATS)
def test_the_same_rows_are_the_same_bytes(store: Store, tmp_path: Path, to: str):
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
        _exported(store, tmp_path / place / "labels", to)
    first, second = (
        [file for file in (folder, *sorted(folder.rglob("*"))) if file.is_file()]
        for folder in (tmp_path / "first" / "labels", tmp_path / "second" / "labels")
    )
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]


@pytest.mark.parametrize("to", FORMATS)
def test_what_stands_there_is_left_as_it_is(store: Store, tmp_path: Path, to: str):
    (tmp_path / "labels").write_text("mine")
    result = _export(store, tmp_path / "labels", to)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "exists already" in result.stderr
    assert (tmp_path / "labels").read_text() == "mine"


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("confidense > 1", '"confidense" not found'),
        ("false", "no labeled video that meets --where"),
        ("true); drop view latest; select (1", "is not one condition"),
        ("video_id::int > 3", "Could not convert"),
        ("case when video_id = 'w' then error('late') else true end", "late"),
    ],
)
def test_a_condition_that_is_wrong_is_one_line_and_leaves_nothing(store: Store, tmp_path: Path, where: str, said: str):
    result = _export(store, tmp_path / "labels.csv", "csv", "--where", where)
    assert (result.exit_code in (1, 2), result.stderr.count("\n")) == (True, 1)
    assert said in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("destination", "said"),
    [
        ("missing/labels.csv", "does not exist"),
        ("s3://bucket", "names no object; name one in it"),
        ("there-is-no://such/labels.csv", "the protocol there-is-no:// cannot be used"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(store: Store, tmp_path: Path, destination: str, said: str):
    place = destination if "://" in destination else str(tmp_path / destination)
    result = CliRunner().invoke(app, ["export", store.root, place, "--to", "csv"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert said in result.stderr


@pytest.fixture
def bucket() -> Iterator[str]:
    """A place in a store that is not a disk, and is gone afterwards."""
    uri = f"memory://exports-{uuid.uuid4().hex}"
    yield uri
    store = open_store(uri)
    for item in store.list():
        store.delete(item.name)


@pytest.mark.parametrize("to", FORMATS)
def test_a_bucket_gets_the_same_bytes_as_a_disk(store: Store, tmp_path: Path, bucket: str, to: str):
    on_disk = _exported(store, tmp_path / "labels", to)
    result = CliRunner().invoke(app, ["export", store.root, f"{bucket}/deep/labels", "--to", to, "--json"])
    assert result.exit_code == 0, result.output
    objects = open_store(bucket)
    contents = {item.name: objects.read(item.name) for item in objects.list()}
    files = [file for file in (on_disk, *on_disk.rglob("*")) if file.is_file()]
    assert contents == {f"deep/{file.relative_to(tmp_path)}": file.read_bytes() for file in files}
    facts = json.loads(result.stdout)
    assert (facts["destination"], facts["bytes"]) == (f"{bucket}/deep/labels", sum(map(len, contents.values())))


@pytest.mark.parametrize("standing", ["labels", "labels/notes.txt"])
def test_what_stands_in_a_bucket_is_left_as_it_is(store: Store, bucket: str, standing: str):
    objects = open_store(bucket)
    objects.create(standing, b"mine")
    result = CliRunner().invoke(app, ["export", store.root, f"{bucket}/labels", "--to", "huggingface"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "exists already" in result.stderr
    assert [(item.name, objects.read(item.name)) for item in objects.list()] == [(standing, b"mine")]


@pytest.mark.parametrize("fails", [True, False])
def test_half_an_export_does_not_stay_in_a_bucket(
    store: Store, bucket: str, fails: bool, monkeypatch: pytest.MonkeyPatch
):
    create = Store.create_from_file

    def refuse_the_card(store: Store, name: str, path: Path) -> bool:
        if not name.endswith("README.md"):
            return create(store, name, path)
        if fails:
            raise StorageUnavailable(store.uri_of(name), "the store failed: it is full")
        return False  # somebody else's stands there by now

    monkeypatch.setattr(Store, "create_from_file", refuse_the_card)
    result = CliRunner().invoke(app, ["export", store.root, f"{bucket}/labels", "--to", "huggingface"])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert ("it is full" if fails else "exists by now") in result.stderr
    assert open_store(bucket).list() == ()


def test_a_damaged_table_is_not_blamed_on_a_condition_that_nobody_gave(tmp_path: Path):
    store = open_store(str(tmp_path / "out"))
    finished_run(store, "r1", [video("a")])
    (file,) = (tmp_path / "out" / "predictions").rglob("*.parquet")
    content = bytearray(file.read_bytes())
    with pq.ParquetFile(file) as parquet:
        pages = slice(4, len(content) - 8 - parquet.metadata.serialized_size)
    content[pages] = bytes(byte ^ 0x5A for byte in content[pages])
    file.write_bytes(content)
    result = _export(store, tmp_path / "labels.csv", "csv")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "is damaged, cdlabel verify names it" in result.stderr
    result = CliRunner().invoke(app, ["report", store.root])
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "is damaged, cdlabel verify names it" in result.stderr


def test_nothing_is_exported_of_an_archive_without_labels(tmp_path: Path):
    result = _export(open_store(str(tmp_path / "out")), tmp_path / "labels.csv", "csv")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "holds no labeled video;" in result.stderr


def _class_names(folder: Path) -> list[str]:
    """Return the names of the card's classes; a double-quoted YAML scalar of printable text is JSON, but for ``\\U``."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^          '\d+': (\".*\")$", card, re.MULTILINE)
    return [json.loads(re.sub(r"\\U0000([0-9a-f]{4})", r"\\u\1", name)) for name in quoted]
