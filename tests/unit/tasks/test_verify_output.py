from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_builders import MODEL_VERSION, NOON, context, failure, plan_run, prediction, shards_of, video

from cdmodel.errors import RunError
from cdmodel.types import VideoAudit, VideoOutcome, VideoRef
from storage.filesystem import Store, open_store
from storage.publish import publish_run
from storage.run_store import commit_shard
from tasks.finish_run import publish_and_record
from tasks.verify_output import Problem, verify_output

TABLE = f"predictions/run_date=2026-11-23/model_version={MODEL_VERSION}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _labeled(store: Store, run_id: str, *video_ids: str, outcome: Callable[[VideoRef], VideoOutcome] = failure) -> None:
    shards = shards_of(*([video(name)] for name in video_ids))
    plan_run(store, run_id, shards)
    for shard in shards:
        commit_shard(store, [outcome(of) for of in shard.videos], context(run_id, shard.shard_id), NOON)


def _audited(of: VideoRef) -> VideoOutcome:
    """Label a video as 1; the dense teacher agrees on a, not on b, and was not asked about others."""
    answer = {"a": 1, "b": 0}.get(of.video_id)
    audit = None if answer is None else VideoAudit(teacher_label_id=answer, confidences=(0.9,))
    return replace(prediction(of), audit=audit)


def _finished(store: Store, run_id: str, *video_ids: str) -> Path:
    _labeled(store, run_id, *video_ids)
    publish_and_record(store.root, run_id, config_json="{}", code_version="0")
    return Path(store.root) / TABLE / f"{run_id}-00000.parquet"


def _found(store: Store) -> list[tuple[str, str | None]]:
    return [(problem.kind, problem.path) for problem in verify_output(store.root)]


def test_finished_runs_keep_the_promise_and_nothing_yet_is_none(store: Store):
    with pytest.raises(RunError, match="no run stands here"):
        verify_output(store.root)
    _finished(store, "r1", "a", "b")
    _finished(store, "r2", "c")
    assert verify_output(store.root) == ()


def test_a_missing_file_is_named(store: Store):
    _finished(store, "r1", "a").unlink()
    assert verify_output(store.root) == (
        Problem(kind="damaged_file", video_id=None, path=f"{TABLE}/r1-00000.parquet", detail="is missing"),
    )


def test_a_changed_file_is_named(store: Store):
    path = _finished(store, "r1", "a")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    (problem,) = verify_output(store.root)
    assert (problem.path, problem.detail) == (f"{TABLE}/r1-00000.parquet", "differs from the run's manifest")


def test_one_damaged_run_does_not_hide_the_next(store: Store):
    _finished(store, "r1", "a").unlink()
    (Path(store.root) / "runs/r1/_SUCCESS.json").write_text("no marker")
    _finished(store, "r2", "b").unlink()
    assert _found(store) == [
        ("damaged_file", f"{store.root}/runs/r1/_SUCCESS.json"),
        ("damaged_file", f"{TABLE}/r2-00000.parquet"),
    ]


def test_a_stray_file_among_the_predictions_is_named(store: Store):
    _finished(store, "r1", "a")
    store.create(f"{TABLE}/notes.parquet", b"")
    store.create(f"{TABLE}/r1-00001.parquet", b"")
    assert _found(store) == [("stray_file", f"{TABLE}/notes.parquet"), ("stray_file", f"{TABLE}/r1-00001.parquet")]


def test_files_of_a_run_that_is_being_published_are_no_problem(store: Store):
    _labeled(store, "r1", "a")
    publish_run(store, "r1")
    assert verify_output(store.root) == ()


def test_the_missing_row_of_a_run_is_named(store: Store):
    _finished(store, "r1", "a")
    (Path(store.root) / "runs_table/r1.parquet").unlink()
    assert _found(store) == [("damaged_file", "runs_table/r1.parquet")]


def test_a_planned_video_without_a_row_is_named(store: Store):
    _finished(store, "r1", "a", "b")
    _finished(store, "r2", "b", "c")
    marker, other = (Path(store.root) / f"runs/{run_id}/_SUCCESS.json" for run_id in ("r1", "r2"))
    marker.write_text(json.dumps({**json.loads(other.read_text()), "run_id": "r1"}))
    found = {(problem.kind, problem.video_id) for problem in verify_output(store.root)}
    assert found == {("missing_row", "a"), ("unplanned_row", "c"), ("stray_file", None)}


def test_a_video_with_two_rows_is_named(store: Store):
    _finished(store, "r1", "a")
    marker = Path(store.root) / "runs/r1/_SUCCESS.json"
    published = json.loads(marker.read_text())
    marker.write_text(json.dumps({**published, "files": published["files"] * 2}))
    assert [(problem.kind, problem.video_id) for problem in verify_output(store.root)] == [("duplicate_row", "a")]


def test_a_damaged_plan_is_a_problem_and_not_a_crash(store: Store):
    _finished(store, "r1", "a")
    (Path(store.root) / "runs/r1/plan.parquet").write_bytes(b"no plan")
    assert _found(store) == [("damaged_file", f"{store.root}/runs/r1/plan.parquet")]


def test_a_damaged_run_does_not_hide_what_is_wrong_with_another(store: Store):
    _finished(store, "r1", "a")
    (Path(store.root) / "runs/r1/plan.parquet").write_bytes(b"no plan")
    _finished(store, "r2", "b").unlink()
    assert _found(store) == [
        ("damaged_file", f"{store.root}/runs/r1/plan.parquet"),
        ("damaged_file", f"{TABLE}/r2-00000.parquet"),
    ]


def test_a_marker_without_a_plan_is_named(store: Store):
    _finished(store, "r1", "a")
    (Path(store.root) / "runs/r1/plan.parquet").unlink()
    assert _found(store) == [("damaged_file", "runs/r1/plan.parquet")]


def test_a_stray_row_of_a_run_is_named(store: Store):
    _finished(store, "r1", "a")
    store.create("runs_table/r0.parquet", b"")
    assert _found(store) == [("stray_file", "runs_table/r0.parquet")]


@pytest.mark.parametrize("column", ["videos_failed", "videos_planned", "clips_teacher"])
def test_a_row_of_a_run_that_does_not_agree_with_its_rows_is_named(store: Store, column: str):
    _finished(store, "r1", "a", "b")
    _change_run_row(store, column, 7)
    (problem,) = verify_output(store.root)
    assert (problem.kind, problem.path) == ("damaged_file", "runs_table/r1.parquet")
    assert f"{column} 7 for" in problem.detail


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("audit_videos", 1, "audit_videos 1 for 2"),
        ("audit_videos", None, "audit_videos None for 2"),
        ("audit_agreement", 1.0, "audit_agreement 1.0 for 0.5"),
        ("audit_agreement", None, "audit_agreement None for 0.5"),
    ],
)
def test_an_audit_that_the_rows_do_not_tell_of_is_named(store: Store, column: str, value: float | None, said: str):
    _labeled(store, "r1", "a", "b", "c", outcome=_audited)
    publish_and_record(store.root, "r1", config_json="{}", code_version="0")
    assert verify_output(store.root) == ()
    _change_run_row(store, column, value)
    (problem,) = verify_output(store.root)
    assert (problem.kind, problem.path) == ("damaged_file", "runs_table/r1.parquet")
    assert said in problem.detail


def _change_run_row(store: Store, column: str, value: float | None) -> None:
    path = Path(store.root) / "runs_table/r1.parquet"
    with pq.ParquetFile(path) as file:
        row = file.read()
    field = row.schema.field(column)
    changed = pa.array([value], field.type)
    pq.write_table(row.set_column(row.schema.get_field_index(column), field, changed), path)


def test_progress_counts_up_to_all_runs(store: Store):
    _finished(store, "r1", "a")
    _finished(store, "r2", "b")
    told: list[tuple[int, int]] = []
    verify_output(store.root, lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
