from __future__ import annotations

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdmodel.cost import ComputeCost
from cdmodel.errors import RunError
from cdmodel.types import VideoFailure, VideoRef
from storage.filesystem import Store, open_store
from storage.prediction_schema import SCHEMA_VERSION, RowContext
from storage.publish import publish_run
from storage.run_store import RunHeader, commit_shard, create_plan, make_shard
from tasks.finish_run import publish_and_record
from tasks.verify_output import Problem, verify_output

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TABLE = "predictions/run_date=2026-11-23/model_version=m-0123456789ab"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _labeled(store: Store, run_id: str, *video_ids: str) -> None:
    videos = [VideoRef(video_id=name, uri=f"/{name}", video_version="1-1", size_bytes=1) for name in video_ids]
    shards = [make_shard([video], "f0") for video in videos]
    header = RunHeader(
        run_id=run_id,
        fingerprint="f0",
        model_version="m-0123456789ab",
        bundle_uri=None,
        source="/videos",
        corpus="films",
        run_date=NOON.date(),
        created_at=NOON,
        videos=len(videos),
        shards=len(shards),
        bytes=len(videos),
        videos_skipped=0,
        schema_version=SCHEMA_VERSION,
    )
    assert create_plan(store, header, shards, "")
    for shard in shards:
        context = RowContext(
            run_id=run_id,
            shard_id=shard.shard_id,
            attempt_id="attempt-1",
            corpus="films",
            model_version="m-0123456789ab",
            run_date=date(2026, 11, 23),
            fingerprint="f0",
            prices=None,
        )
        commit_shard(store, [_failure(video) for video in shard.videos], context, NOON)


def _failure(video: VideoRef) -> VideoFailure:
    return VideoFailure(
        video=video,
        error_kind="not_found",
        message="does not exist",
        facts=None,
        cost=ComputeCost(),
        device="cpu",
        decoder="none",
        labeled_at=NOON,
    )


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
    path = Path(store.root) / "runs_table/r1.parquet"
    with pq.ParquetFile(path) as file:
        row = file.read()
    position = row.schema.get_field_index(column)
    pq.write_table(row.set_column(position, column, pa.array([7])), path)
    (problem,) = verify_output(store.root)
    assert (problem.kind, problem.path) == ("damaged_file", "runs_table/r1.parquet")
    assert f"{column} 7 for" in problem.detail


def test_progress_counts_up_to_all_runs(store: Store):
    _finished(store, "r1", "a")
    _finished(store, "r2", "b")
    told: list[tuple[int, int]] = []
    verify_output(store.root, lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
