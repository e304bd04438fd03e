"""What a cycle learns from, gathered out of the tables of an OUT that runs have published."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_builders import NOON, context, plan_run, prediction, record_of, shards_of, video

from cdmodel.errors import ConfigError, SourceError
from cdmodel.example_selection import LEARNED, role_of
from cdmodel.example_settings import CollectSettings
from cdmodel.types import VideoAudit
from storage.corpus import CorpusRules
from storage.cycle_store import AUDITS, COMPOSITION, EXAMPLES
from storage.dataset import read_dataset
from storage.filesystem import Store, open_store
from storage.publish import finish_run, publish_run
from storage.run_store import commit_shard
from tasks.collect_examples import CollectRequest, collect_examples

LABELS = ("sit", "run")
AUDITED, VIDEOS = 60, 80
SHARE = 0.5


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A night of eighty videos, all escalated, of which the teacher has seen sixty whole; it says "sit" of every third."""
    folder = tmp_path_factory.mktemp("night")
    for number in range(VIDEOS):
        (folder / f"v{number:02d}.mp4").write_bytes(b"a video")
    store = open_store(str(folder / "out"))
    label_night(store, folder, AUDITED)
    return store


def label_night(
    store: Store,
    folder: Path,
    audited: int,
    run_id: str = "night",
    at: datetime = NOON,
    videos: int = VIDEOS,
    prefix: str = "v",
) -> None:
    refs = [
        replace(
            video(f"{prefix}{number:02d}", version=f"{at.day}-{number}"),
            uri=str(folder / f"v{number:02d}.mp4"),
            group=f"recording-{number}",
        )
        for number in range(videos)
    ]
    [shard] = shards_of(refs)
    plan_run(store, run_id, [shard], at=at)
    outcomes = [
        replace(prediction(ref, at=at), audit=audit_of(number) if number < audited else None)
        for number, ref in enumerate(refs)
    ]
    commit_shard(store, outcomes, context(run_id, shard.shard_id), at)
    publication = publish_run(store, run_id)
    config_json = json.dumps({"audit": {"share": SHARE}})
    record = replace(record_of(run_id, at), labels=LABELS, config_json=config_json, videos_planned=videos)
    finish_run(store, record, publication.run)


def audit_of(number: int) -> VideoAudit:
    return VideoAudit(teacher_label_id=0 if number % 3 == 0 else 1, confidences=(0.9,))


def collect(out: Store, folder: Path, **settings: Any) -> Store:
    cycle = open_store(str(folder / "cycle"))
    collect_examples(request(out, **settings), cycle, NOON)
    return cycle


def request(out: Store, **settings: Any) -> CollectRequest:
    defaults: dict[str, Any] = {"min_confidence": 0.5, "class_balance": 0.0}
    return CollectRequest(
        out=out.root, settings=CollectSettings(**(defaults | settings)), labels=LABELS, label_kind="single"
    )


def rows_of(cycle: Store, name: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(pa.BufferReader(cycle.read(name))).to_pylist()
    return rows


def test_audits_and_escalated_videos_become_a_data_set_that_can_be_read(out: Store, tmp_path: Path) -> None:
    cycle = collect(out, tmp_path)
    rows = {row["video_id"]: row for row in rows_of(cycle, EXAMPLES)}
    audits = {f"v{number:02d}" for number in range(AUDITED)}
    assert audits <= set(rows)
    assert {rows[name]["label"] for name in ("v00", "v03")} == {"sit"}
    assert {row["source"] for name, row in rows.items() if name not in audits} == {"escalated"}
    assert {row["split"] for row in rows.values() if row["source"] == "escalated"} <= {"train", "conf"}
    assert {row["model_version"] for row in rows.values()} == {"m-0123456789ab"}
    found = read_dataset(cycle.uri_of(EXAMPLES), CorpusRules(roots=("/",))).videos
    assert {one.video.uri: one.split for one in found} == {row["uri"]: row["split"] for row in rows.values()}
    assert all(one.split == role_of(one.group) for one in found)


def test_what_the_gate_looks_at_is_never_learned_from(out: Store, tmp_path: Path) -> None:
    cycle = collect(out, tmp_path)
    judged = {row["uri"] for row in rows_of(cycle, AUDITS)}
    learned = {row["uri"] for row in rows_of(cycle, EXAMPLES) if row["split"] != "test"}
    assert judged
    assert not judged & learned


def test_the_account_tells_who_was_labeled_and_who_is_learned_from(out: Store, tmp_path: Path) -> None:
    told = json.loads(collect(out, tmp_path).read(COMPOSITION))
    assert told["videos_labeled"] == VIDEOS
    assert told["classes"]["labeled"] == {"run": 1.0}
    assert set(told["classes"]["learned"]) == {"run", "sit"}
    assert told["examples"]["by_source"]["audit"] == AUDITED
    assert told["roots"] == ["/"]


def test_the_same_tables_give_the_same_bytes(out: Store, tmp_path: Path) -> None:
    one, other = collect(out, tmp_path / "one"), collect(out, tmp_path / "other")
    for name in (EXAMPLES, AUDITS, COMPOSITION):
        assert one.read(name) == other.read(name)


def test_nights_before_the_limit_are_not_learned_from(out: Store, tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    with pytest.raises(SourceError, match="no audits yet"):
        collect_examples(request(out, max_age_days=1.0), store, NOON + timedelta(days=3))


@pytest.mark.parametrize(
    ("audited", "told"), [(0, "no audits yet: set audit.share"), (4, "4 audited videos, and at least")]
)
def test_without_audits_nothing_is_begun(tmp_path: Path, audited: int, told: str) -> None:
    store = open_store(str(tmp_path / "out"))
    label_night(store, tmp_path, audited)
    with pytest.raises(SourceError, match=told):
        collect(store, tmp_path)
    assert open_store(str(tmp_path / "cycle")).list() == ()


def test_one_class_is_nothing_to_learn(out: Store, tmp_path: Path) -> None:
    everything = correct(tmp_path, [{"video_id": f"v{number:02d}", "label": "run"} for number in range(VIDEOS)])
    with pytest.raises(SourceError, match="show only run"):
        collect(out, tmp_path, corrections=everything)


def correct(folder: Path, rows: list[dict[str, str]], name: str = "corrections.csv") -> str:
    folder.mkdir(exist_ok=True)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
        (folder / name).write_text(text.getvalue())
    return str(folder / name)


@pytest.mark.parametrize("name", ["corrections.csv", "corrections.parquet"])
def test_a_person_corrects_by_id_and_leaves_blank_what_was_not_looked_at(out: Store, tmp_path: Path, name: str) -> None:
    said = correct(
        tmp_path,
        [{"video_id": "v01", "label": "sit", "by": "ann"}, {"video_id": "v02", "label": "", "by": ""}],
        name,
    )
    rows = {row["video_id"]: row for row in rows_of(collect(out, tmp_path, corrections=said), EXAMPLES)}
    assert (rows["v01"]["label"], rows["v01"]["source"], rows["v01"]["by"]) == ("sit", "correction", "ann")
    assert (rows["v02"]["label"], rows["v02"]["source"]) == ("run", "audit")


def test_corrections_may_come_from_a_query(out: Store, tmp_path: Path) -> None:
    sql = "select uri, 'sit' as label, 'rule' as by from latest where video_id = 'v04'"
    rows = {row["video_id"]: row for row in rows_of(collect(out, tmp_path, corrections_sql=sql), EXAMPLES)}
    assert (rows["v04"]["label"], rows["v04"]["by"]) == ("sit", "rule")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [{"video_id": "v01", "label": "sit"}, {"video_id": "v01", "label": "run"}],
            r"rows 1 and 2 contradict each other: .*v01.mp4 is 'sit' and 'run'",
        ),
        ([{"video_id": "nobody", "label": "sit"}], r"names videos that have no label in OUT: nobody \(row 1\)"),
        ([{"video_id": "v01", "label": "dance"}], r"row 1: the bundle in production does not know the label 'dance'"),
        ([{"name": "v01", "label": "sit"}], "need the columns label, and uri or video_id; there are name, label"),
    ],
)
def test_wrong_corrections_are_named_before_anything_is_written(
    out: Store, tmp_path: Path, rows: list[dict[str, str]], told: str
) -> None:
    with pytest.raises(SourceError, match=told):
        collect(out, tmp_path, corrections=correct(tmp_path, rows))
    assert open_store(str(tmp_path / "cycle")).list() == ()


def test_a_label_that_is_meant_to_be_new_is_taken(out: Store, tmp_path: Path) -> None:
    name = next(f"v{number:02d}" for number in range(AUDITED) if role_of(f"recording-{number}") == "train")
    said = correct(tmp_path, [{"video_id": name, "label": "dance"}])
    rows = rows_of(collect(out, tmp_path, corrections=said, new_labels=("dance",)), EXAMPLES)
    assert [row["label"] for row in rows if row["video_id"] == name] == ["dance"]


@pytest.mark.parametrize(
    ("settings", "error", "told"),
    [
        ({"corrections": "/nowhere/at-all.csv"}, SourceError, "at-all.csv"),
        ({"corrections_sql": "select nothing"}, ConfigError, "corrections_sql"),
        ({"corrections_sql": "select 1 as label"}, SourceError, "corrections need the columns"),
    ],
)
def test_corrections_that_cannot_be_read(
    out: Store, tmp_path: Path, settings: dict[str, str], error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told):
        collect(out, tmp_path, **settings)


def test_what_a_person_has_seen_does_not_age_and_none_of_it_gets_lost_in_silence(out: Store, tmp_path: Path) -> None:
    store, folder = open_store(str(tmp_path / "later")), Path(out.root).parent
    late = range(AUDITED, VIDEOS)
    learned, measures = (
        next(f"v{number}" for number in late if (role_of(f"recording-{number}") in LEARNED) is wanted)
        for wanted in (True, False)
    )
    label_night(store, folder, AUDITED)
    label_night(store, folder, AUDITED, run_id="later", at=NOON + timedelta(days=90), videos=AUDITED)
    said = correct(tmp_path, [{"video_id": name, "label": "sit"} for name in (learned, measures)])
    cycle = open_store(str(tmp_path / "cycle"))
    recent = request(store, corrections=said, max_age_days=30.0)
    collect_examples(recent, cycle, NOON + timedelta(days=91))
    rows = {row["video_id"]: row for row in rows_of(cycle, EXAMPLES)}
    assert (rows[learned]["label"], rows[learned]["run_id"]) == ("sit", "night")
    assert {row["run_id"] for name, row in rows.items() if name != learned} == {"later"}
    assert json.loads(cycle.read(COMPOSITION))["corrections"] == {
        "given": 2,
        "learned_or_measured": 1,
        "unused": 1,
        "unused_first": [str(folder / f"{measures}.mp4")],
    }


def test_a_video_that_two_manifests_called_differently_is_one_example(out: Store, tmp_path: Path) -> None:
    store, folder = open_store(str(tmp_path / "twice")), Path(out.root).parent
    label_night(store, folder, AUDITED)
    label_night(store, folder, AUDITED, run_id="other", at=NOON + timedelta(days=1), prefix="w")
    rows = rows_of(collect(store, tmp_path), EXAMPLES)
    assert len({row["uri"] for row in rows}) == len(rows)
    assert {row["run_id"] for row in rows} == {"other"}


def test_several_labels_a_video_are_not_retrained(out: Store, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="not retrained yet"):
        collect_examples(replace(request(out), label_kind="multi"), open_store(str(tmp_path)), NOON)
