"""Two bundles in one OUT whose labels have another order, or are others: every name is that of its own bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_builders import NOON, context, header, prediction, record_of, shards_of, video

from cdmodel.types import RankedLabel, VideoAudit, VideoOutcome
from storage.compaction import compact_runs
from storage.filesystem import Store, open_store
from storage.publish import finish_run, publish_run
from storage.run_layout import run_row_name
from storage.run_record import read_run_row
from storage.run_store import commit_shard, create_plan
from storage.views import run_query
from tasks.export_labels import export_labels
from tasks.report_facts import gather_report
from tasks.verify_output import verify_output

OLD, NEW = ("run", "sit", "wave"), ("jump", "wave", "run", "sit")
"""``wave`` and ``run`` have changed places, ``jump`` is new."""
OLD_VERSION, NEW_VERSION = "m-000000000001", "m-000000000002"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = open_store(str(tmp_path / "out"))
    _run(store, "r1", OLD_VERSION, OLD, ["a", "b"], days=0)
    _run(store, "r2", NEW_VERSION, NEW, ["b", "c"], days=1)
    return store


def _run(
    store: Store, run_id: str, model_version: str, labels: Sequence[str], names: Sequence[str], *, days: int
) -> None:
    """Label videos: the answer is the first label, the student's the second, the dense teacher's the third."""
    at = NOON + timedelta(days=days)
    outcomes: list[VideoOutcome] = []
    for name in names:
        told = prediction(video(name), at=at)
        clips = tuple(replace(clip, student_label_id=1, teacher_label_id=2) for clip in told.clips)
        outcomes.append(
            replace(
                told,
                top_labels=(RankedLabel(label_id=0, label=labels[0], probability=0.75),),
                student_label_id=1,
                clips=clips,
                audit=VideoAudit(teacher_label_id=2, confidences=(0.5,)),
            )
        )
    shards = shards_of([outcome.video for outcome in outcomes], fingerprint=f"f-{model_version}")
    changed = {"model_version": model_version, "fingerprint": f"f-{model_version}"}
    assert create_plan(store, replace(header(run_id, shards, at=at), **changed), shards, "# settings\n")
    commit_shard(store, outcomes, replace(context(run_id, shards[0].shard_id), **changed), at)
    counted = {"videos_planned": len(names), "videos_labeled": len(names), "audit_videos": len(names)}
    clips_of = {"clips_planned": 3 * len(names), "clips_student": 2 * len(names), "clips_teacher": 2 * len(names)}
    record = replace(record_of(run_id, at), **changed, **counted, **clips_of, labels=tuple(labels))
    finish_run(store, record, publish_run(store, run_id).run)


def _forget(store: Store, run_id: str) -> None:
    """Make the run's row one of a state of this project that kept no names."""
    path = Path(store.root) / run_row_name(run_id)
    with pq.ParquetFile(path) as file:
        table = file.read()
    pq.write_table(table.drop_columns(["labels"]), path)


def test_a_run_keeps_the_names_of_its_bundle(store: Store):
    assert read_run_row(store, "r1").labels == OLD
    assert run_query(store, "select labels from runs order by run_id").rows == ((list(OLD),), (list(NEW),))
    rows = run_query(store, "from labels order by model_version, label_id").rows
    expected = [(OLD_VERSION, OLD), (NEW_VERSION, NEW)]
    assert rows == tuple((version, number, name) for version, names in expected for number, name in enumerate(names))


@pytest.mark.parametrize("compacted", [False, True])
def test_every_view_names_labels_by_the_bundle_of_the_row(store: Store, compacted: bool):
    if compacted:
        assert compact_runs(store) is not None
    columns = "video_id, label, student_label, teacher_label"
    old, new = (("run", "sit", "wave"), ("jump", "wave", "run"))
    assert run_query(store, f"select {columns} from predictions order by video_id, run_id").rows == (
        ("a", *old),
        ("b", *old),
        ("b", *new),
        ("c", *new),
    )
    assert run_query(store, f"select {columns} from latest order by video_id").rows == (
        ("a", *old),
        ("b", *new),
        ("c", *new),
    )
    named = run_query(store, "select run_id, student_label, teacher_label, count(*) from clips group by all order by 1")
    assert named.rows == (("r1", "sit", "wave", 4), ("r2", "wave", "run", 4))


def test_rows_of_before_names_were_kept_are_named_as_far_as_rows_tell(store: Store):
    _forget(store, "r1")
    assert read_run_row(store, "r1").labels is None
    known = run_query(store, f"select label_id, label from labels where model_version = '{OLD_VERSION}'").rows
    assert known == ((0, "run"),)
    rows = run_query(store, "select run_id, label, student_label from predictions order by video_id, run_id").rows
    assert rows == (("r1", "run", None), ("r1", "run", None), ("r2", "jump", "wave"), ("r2", "jump", "wave"))
    _forget(store, "r2")
    assert run_query(store, "select count(*) from labels").rows == ((2,),)


def test_verify_report_and_export_tell_the_bundles_apart(store: Store, tmp_path: Path):
    assert verify_output(store.root) == ()
    for run_id, names in (("r1", OLD), ("r2", NEW)):
        rows = gather_report(store.root, run_id, uncertain_videos=2).rows
        assert rows is not None
        assert rows.label_names == {1: names[1], 2: names[2]}
        assert [share.label for share in rows.labels] == [names[0]]
    export_labels(store.root, str(tmp_path / "clips"), "fiftyone", None)
    clips = json.loads((tmp_path / "clips" / "clips.json").read_text())["labels"]
    assert [clip["label"] for clip in clips["/videos/a.mp4"]] == ["sit", "wave"]
    assert [clip["label"] for clip in clips["/videos/b.mp4"]] == ["wave", "run"]
    export_labels(store.root, str(tmp_path / "labels.csv"), "csv", None)
    first = (tmp_path / "labels.csv").read_text().splitlines()
    assert "student_label,student_confidence" in first[0]
    assert ",sit," in first[1]
    assert ",wave," in first[2]


def test_another_engine_reads_the_names_as_the_page_says(store: Store):
    pl = pytest.importorskip("polars", reason="needs polars: pip install 'cdlabel[sql]'")
    partitions = {"run_date": pl.Date, "model_version": pl.String}
    predictions = pl.scan_parquet(
        f"{store.root}/predictions/**/*.parquet", hive_partitioning=True, hive_schema=partitions
    )
    runs = pl.scan_parquet(f"{store.root}/runs_table/*.parquet").filter(pl.col("labels").is_not_null())
    names = runs.select("model_version", "labels").unique("model_version")
    named = predictions.join(names, on="model_version", how="left").select(
        "video_id", student=pl.col("labels").list.get(pl.col("student_label_id"), null_on_oob=True)
    )
    assert named.sort("video_id", "student").collect().rows() == [
        ("a", "sit"),
        ("b", "sit"),
        ("b", "wave"),
        ("c", "wave"),
    ]
