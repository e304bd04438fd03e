from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdmodel.errors import SourceError
from storage.dataset import read_dataset


def _csv(folder: Path, text: str) -> str:
    (folder / "m.csv").write_text(text)
    return str(folder / "m.csv")


def _parquet(folder: Path, labels: pa.Array) -> str:
    uris = [f"{index}.mp4" for index in range(len(labels))]
    pq.write_table(pa.table({"uri": uris, "label": labels}), folder / "m.parquet")
    return str(folder / "m.parquet")


def _labels(source: str, label_kind: str = "multi") -> list[tuple[str, ...]]:
    return [row.labels for row in read_dataset(source, label_kind=label_kind).videos]


def _refusal(source: str, label_kind: str = "multi") -> str:
    with pytest.raises(SourceError) as caught:
        read_dataset(source, label_kind=label_kind)
    assert caught.value.subject == source
    return caught.value.reason


def test_labels_of_a_csv_are_separated_by_a_bar(tmp_path):
    assert _labels(_csv(tmp_path, "uri,label\na.mp4,run|jump high\nb.mp4,sit\nc.mp4,run | sit|run\n")) == [
        ("run", "jump high"),
        ("sit",),
        ("run", "sit"),
    ]


def test_with_one_label_per_video_a_bar_is_part_of_its_name(tmp_path):
    assert _labels(_csv(tmp_path, "uri,label\na.mp4,run|jump\n"), "single") == [("run|jump",)]


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.large_string())])
def test_labels_of_a_parquet_file_are_a_list_and_may_hold_bars(tmp_path, kind):
    assert _labels(_parquet(tmp_path, pa.array([["run", "a|b"], ["sit"]], kind))) == [("run", "a|b"), ("sit",)]


def test_lists_of_one_label_are_a_data_set_with_one_label_per_video(tmp_path):
    assert _labels(_parquet(tmp_path, pa.array([["run"], ["sit"]])), "single") == [("run",), ("sit",)]


@pytest.mark.parametrize(
    ("cell", "said"),
    [("", "row 2 has no label"), ("run||sit", "row 2 has an empty label among run, sit"), ("|", "row 2 has no label")],
)
def test_an_empty_label_in_a_csv_is_refused_with_its_row(tmp_path, cell, said):
    assert _refusal(_csv(tmp_path, f"uri,label\na.mp4,run\nb.mp4,{cell}\n")) == said


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ([], "row 2 has no label"),
        (None, "row 2 has no label"),
        (["run", None], "row 2 has an empty label among run"),
        (["", "run"], "row 2 has an empty label among run"),
    ],
)
def test_an_empty_label_in_a_list_is_refused_with_its_row(tmp_path, cell, said):
    assert _refusal(_parquet(tmp_path, pa.array([["run"], cell], pa.list_(pa.string())))) == said


def test_lists_of_something_else_are_refused(tmp_path):
    kind = pa.list_(pa.struct([("x", pa.int32())]))
    assert "column label holds no lists of text" in _refusal(_parquet(tmp_path, pa.array([[{"x": 1}]], kind)))


def test_several_labels_where_one_is_expected_are_refused_with_the_setting(tmp_path):
    reason = _refusal(_parquet(tmp_path, pa.array([["run"], ["run", "sit"]])), "single")
    assert "video 2" in reason
    assert 'several labels (run, sit); if that is meant, set label_kind = "multi"' in reason


def test_class_folders_cannot_hold_several_labels(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "a.mp4").write_bytes(b"video")
    assert "a folder per class gives each video one label" in _refusal(str(tmp_path))
