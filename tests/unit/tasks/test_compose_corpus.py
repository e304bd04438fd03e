from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from cdmodel.compose import read_frames
from cdmodel.decode_limits import DecodeLimits
from cdmodel.encode import encode_mp4
from cdmodel.errors import OutputError, SourceError
from storage.dataset import read_dataset
from tasks.compose_corpus import ComposedCorpus, compose_corpus
from tasks.compose_settings import ComposeSettings

FPS = 8
SETTINGS = ComposeSettings(
    seed=3, height=16, width=16, frames_per_second=FPS, shortest_seconds=2.0, longest_seconds=8.0
)
CLASS_LEVELS = {"low": 30, "high": 60}
FIRST_BACKGROUND_LEVEL = 90
CLASS_VIDEOS, BACKGROUNDS = 12, 10


def _write_flat(path: Path, level: int, seconds: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = [np.full((16, 32, 3), level, dtype=np.uint8)] * round(seconds * FPS)
    path.write_bytes(encode_mp4(frames, FPS))


def _write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def trimmed(tmp_path_factory) -> Path:
    """Videos of two classes, each class of its own grey, two to a group; some shorter than a clip."""
    folder = tmp_path_factory.mktemp("trimmed")
    rows = []
    for number in range(CLASS_VIDEOS):
        label = ("low", "high")[number % 2]
        _write_flat(folder / f"{number:02d}.mp4", CLASS_LEVELS[label], (0.5, 1.0, 2.25, 3.0)[number % 4])
        rows.append({"uri": f"{number:02d}.mp4", "label": label, "group": f"c{number // 2}"})
    return _write_table(folder / "labels.csv", rows)


@pytest.fixture(scope="module")
def others(tmp_path_factory) -> Path:
    """Backgrounds, each of a grey of its own, two to a group."""
    folder = tmp_path_factory.mktemp("others")
    rows = []
    for number in range(BACKGROUNDS):
        _write_flat(folder / f"{number:02d}.mp4", _background_level(number), (1.0, 3.5, 6.0)[number % 3])
        rows.append({"uri": f"{number:02d}.mp4", "group": f"b{number // 2}"})
    return _write_table(folder / "others.csv", rows)


def _background_level(number: int) -> int:
    return FIRST_BACKGROUND_LEVEL + 15 * number


def _compose(dataset: object, backgrounds: object, out: Path, **changes: object) -> ComposedCorpus:
    return compose_corpus(
        str(dataset), str(backgrounds), str(out), replace(SETTINGS, **changes), lambda done, total: None
    )


def _rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _digests(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _level_of(source: str) -> int:
    number = int(Path(source).stem)
    if Path(source).parent.name.startswith("trimmed"):
        return CLASS_LEVELS[("low", "high")[number % 2]]
    return _background_level(number)


@pytest.fixture(scope="module")
def composed(trimmed, others, tmp_path_factory):
    folder = tmp_path_factory.mktemp("composed") / "corpus"
    return folder, _compose(trimmed, others, folder)


def test_the_table_names_every_composite_with_label_and_group_of_its_class_video(composed, trimmed):
    rows = _rows(composed[0] / "labels.csv")
    originals = _rows(trimmed)
    assert [(row["label"], row["group"]) for row in rows] == [(row["label"], row["group"]) for row in originals]
    assert sorted(row["uri"] for row in rows) == sorted(
        str(path.relative_to(composed[0])) for path in composed[0].glob("videos/*.mp4")
    )
    assert len(read_dataset(str(composed[0] / "labels.csv")).videos) == CLASS_VIDEOS


def test_the_pixels_of_every_segment_are_those_of_its_source(composed):
    for row in _rows(composed[0] / "labels.csv"):
        with (composed[0] / row["uri"]).open("rb") as file:
            frames = [
                float(frame.mean())
                for frame in read_frames(
                    file, row["uri"], height=16, width=16, frames_per_second=FPS, limits=DecodeLimits()
                )
            ]
        segments = [s for s in _rows(composed[0] / "segments.csv") if s["uri"] == row["uri"]]
        assert float(segments[0]["start_seconds"]) == 0
        assert float(segments[-1]["end_seconds"]) * FPS == len(frames)
        assert all(one["end_seconds"] == other["start_seconds"] for one, other in pairwise(segments))
        for segment in segments:
            first, last = (round(float(segment[f"{side}_seconds"]) * FPS) for side in ("start", "end"))
            assert frames[first:last] == pytest.approx([_level_of(segment["source"])] * (last - first), abs=5)


def test_the_class_video_is_there_exactly_once_and_backgrounds_fill_the_share(composed, trimmed):
    sources = [str(trimmed.parent / row["uri"]) for row in _rows(trimmed)]
    segments = _rows(composed[0] / "segments.csv")
    shown = [(s["uri"], s["source"]) for s in segments if s["role"] == "class"]
    assert shown == list(zip((row["uri"] for row in _rows(composed[0] / "labels.csv")), sources, strict=True))
    assert not set(sources) & {s["source"] for s in segments if s["role"] == "background"}


def test_class_videos_stand_at_different_places(composed):
    segments = _rows(composed[0] / "segments.csv")
    assert len({s["start_seconds"] for s in segments if s["role"] == "class"}) > 2


@pytest.mark.parametrize("distractors", [0.0, 0.5, 0.75])
def test_every_composite_has_the_share_that_was_asked_for(trimmed, others, tmp_path, distractors):
    corpus = _compose(trimmed, others, tmp_path / "out", distractors=distractors)
    segments = _rows(tmp_path / "out" / "segments.csv")
    for uri in {s["uri"] for s in segments}:
        lengths = {"class": 0.0, "background": 0.0}
        for s in segments:
            if s["uri"] == uri:
                lengths[s["role"]] += float(s["end_seconds"]) - float(s["start_seconds"])
        assert lengths["background"] / sum(lengths.values()) == distractors
        assert sum(lengths.values()) <= SETTINGS.longest_seconds
    assert corpus.distractors == distractors
    assert corpus.seconds == sum(float(s["end_seconds"]) - float(s["start_seconds"]) for s in segments)


def test_the_same_arguments_give_the_same_bytes(trimmed, others, composed, tmp_path):
    _compose(trimmed, others, tmp_path / "again")
    _compose(trimmed, others, tmp_path / "other", seed=4)
    assert _digests(tmp_path / "again") == _digests(composed[0])
    assert _digests(tmp_path / "other")["segments.csv"] != _digests(composed[0])["segments.csv"]


@pytest.mark.parametrize("seed", range(4))
def test_no_recording_gives_background_to_two_splits(trimmed, others, tmp_path, seed):
    _compose(trimmed, others, tmp_path / "out", seed=seed)
    split_of = {row["uri"]: row["split"] for row in _rows(tmp_path / "out" / "labels.csv")}
    group_of = {str(others.parent / row["uri"]): row["group"] for row in _rows(others)}
    splits_of_group: dict[str, set[str]] = {}
    for segment in _rows(tmp_path / "out" / "segments.csv"):
        if segment["role"] == "background":
            splits_of_group.setdefault(group_of[segment["source"]], set()).add(split_of[segment["uri"]])
    assert {len(splits) for splits in splits_of_group.values()} == {1}
    assert set(split_of.values()) == {"train", "conf", "cal", "test", "risk"}


def test_splits_that_the_data_set_gives_are_kept(trimmed, others, tmp_path):
    rows = [
        row | {"uri": str(trimmed.parent / row["uri"]), "split": "test" if row["group"] == "c0" else "train"}
        for row in _rows(trimmed)
    ]
    dataset = _write_table(trimmed.parent / "split.csv", rows)
    _compose(dataset, others, tmp_path / "out")
    assert [row["split"] for row in _rows(tmp_path / "out" / "labels.csv")] == [row["split"] for row in rows]


def test_what_cannot_be_read_is_listed_and_left_out(trimmed, others, tmp_path):
    videos, elsewhere = tmp_path / "videos", tmp_path / "elsewhere"
    for row in _rows(trimmed):
        (videos / row["label"]).mkdir(parents=True, exist_ok=True)
        (videos / row["label"] / row["uri"]).write_bytes((trimmed.parent / row["uri"]).read_bytes())
    (videos / "low" / "broken.mp4").write_bytes(b"no video")
    elsewhere.mkdir()
    for row in _rows(others):
        (elsewhere / row["uri"]).write_bytes((others.parent / row["uri"]).read_bytes())
    for number in range(3):
        (elsewhere / f"broken{number}.mp4").write_bytes(b"no video")
    corpus = _compose(videos, elsewhere, tmp_path / "out")
    skipped = {(Path(video.uri).name, video.role) for video in corpus.skipped}
    assert ("broken.mp4", "class") in skipped
    assert {name for name, role in skipped if role == "background"} <= {f"broken{number}.mp4" for number in range(3)}
    assert any(role == "background" for _, role in skipped)
    assert corpus.videos == CLASS_VIDEOS == len(_rows(tmp_path / "out" / "labels.csv"))


def test_a_broken_background_changes_no_composite_that_did_not_want_it(trimmed, others, tmp_path, composed):
    copies = tmp_path / "others"
    copies.mkdir()
    for path in others.parent.iterdir():
        (copies / path.name).write_bytes(path.read_bytes())
    before = _segments_by_video(composed[0])
    wanted = min(name for segments in before.values() for name, role in segments if role == "background")
    (copies / wanted).write_bytes(b"no video")
    _compose(trimmed, copies / "others.csv", tmp_path / "out")
    after = _segments_by_video(tmp_path / "out")
    wanting = {uri for uri, segments in before.items() if (wanted, "background") in segments}
    assert 0 < len(wanting) < CLASS_VIDEOS
    assert {uri for uri in before if after[uri] != before[uri]} == wanting


def _segments_by_video(folder: Path) -> dict[str, list[tuple[str, str]]]:
    segments: dict[str, list[tuple[str, str]]] = {}
    for row in _rows(folder / "segments.csv"):
        segments.setdefault(row["uri"], []).append((Path(row["source"]).name, row["role"]))
    return segments


def test_nothing_readable_is_one_error_and_leaves_no_table(trimmed, tmp_path):
    for number in range(8):
        (tmp_path / "others").mkdir(exist_ok=True)
        (tmp_path / "others" / f"{number}.mp4").write_bytes(b"no video")
    with pytest.raises(SourceError, match="not one composite could be made"):
        _compose(trimmed, tmp_path / "others", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("*.csv"))


def test_videos_of_the_data_set_and_of_its_classes_are_no_background(trimmed, others, tmp_path):
    own = [{"uri": str(trimmed.parent / row["uri"]), "label": "other"} for row in _rows(trimmed)]
    same_class = [{"uri": str(others.parent / "00.mp4"), "label": "low"}]
    rest = [{"uri": str(others.parent / row["uri"]), "label": "other"} for row in _rows(others)[1:]]
    table = _write_table(tmp_path / "mixed.csv", own + same_class + rest)
    roots = (str(trimmed.parent), str(others.parent))
    corpus = _compose(trimmed, table, tmp_path / "out", corpus=replace(SETTINGS.corpus, roots=roots))
    used = {s["source"] for s in _rows(tmp_path / "out" / "segments.csv") if s["role"] == "background"}
    assert used <= {row["uri"] for row in rest}
    assert corpus.backgrounds_excluded == CLASS_VIDEOS + 1


def test_too_few_recordings_for_the_splits_are_refused_before_anything_is_written(trimmed, others, tmp_path):
    few = _write_table(others.parent / "few.csv", _rows(others)[:4])
    with pytest.raises(SourceError, match="no background for"):
        _compose(trimmed, few, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused_and_left_as_it_is(trimmed, others, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        _compose(trimmed, others, tmp_path)
    assert _digests(tmp_path).keys() == {"mine.txt"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": -1}, "seed"),
        ({"distractors": 1.0}, "distractors"),
        ({"distractors": -0.1}, "distractors"),
        ({"height": 17}, "even"),
        ({"width": 8}, "at least 16"),
        ({"frames_per_second": 0}, "frames_per_second"),
        ({"clip_seconds": 0.3}, "whole number of frames"),
        ({"clip_seconds": 0.0}, "whole number of frames"),
        ({"shortest_seconds": 9.0}, "ascend"),
        ({"distractors": 0.9}, "at least 10"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change, said):
    with pytest.raises(ValueError, match=said):
        replace(SETTINGS, **change)
