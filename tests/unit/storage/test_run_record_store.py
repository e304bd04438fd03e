from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_builders import NOON, commit, context, finished_run, header, outcomes_of, plan_run, shards_of, video

from cdmodel.errors import DamagedObject, RunError, StorageUnavailable
from cdmodel.types import Shard
from storage.filesystem import Store, open_store
from storage.publish import publish_run
from storage.run_layout import plan_name, shard_name
from storage.run_store import (
    commit_shard,
    committed_shards,
    create_plan,
    find_run,
    iter_shards,
    list_runs,
    read_header,
    read_receipt,
    read_receipts,
    read_shard,
)

SHARDS = shards_of([video("a"), video("b fails")], [video("c", size_bytes=None)], [video("d"), video("e")])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _path(store: Store, shard: Shard) -> Path:
    return Path(store.root) / shard_name("r1", shard.shard_id)


def _planned_and_committed(store: Store) -> None:
    plan_run(store, "r1", SHARDS)
    for shard in SHARDS:
        commit(store, "r1", shard)


def _flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(bytes(data))


def test_a_plan_comes_back_as_it_was_frozen(store: Store):
    plan_run(store, "r1", SHARDS)
    assert tuple(iter_shards(store, "r1")) == SHARDS
    assert read_header(store, "r1") == header("r1", SHARDS)
    assert store.read("runs/r1/config.toml") == b"# settings\n"


def test_shards_come_back_in_order_across_batches(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("storage.run_store.PLAN_ROWS_PER_BATCH", 2)
    plan_run(store, "r1", SHARDS)
    assert tuple(iter_shards(store, "r1")) == SHARDS


def test_the_first_plan_of_a_run_counts(store: Store):
    plan_run(store, "r1", SHARDS)
    assert not create_plan(store, header("r1", SHARDS[:1]), SHARDS[:1], "# other\n")
    assert tuple(iter_shards(store, "r1")) == SHARDS


def test_a_cut_plan_is_refused_by_name(store: Store):
    plan_run(store, "r1", SHARDS)
    path = Path(store.root) / plan_name("r1")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedObject) as caught:
        read_header(store, "r1")
    assert caught.value.subject == str(path)


def test_a_table_that_is_no_plan_is_refused_by_name(store: Store):
    _planned_and_committed(store)
    path = Path(store.root) / plan_name("r1")
    path.write_bytes(_path(store, SHARDS[0]).read_bytes())
    with pytest.raises(DamagedObject, match="not a plan"):
        read_header(store, "r1")


@pytest.mark.parametrize("column", ["video_id", "uri", "video_version", "shard_id"])
def test_a_plan_edited_by_hand_is_refused_by_name(store: Store, column: str):
    plan_run(store, "r1", SHARDS)
    path = Path(store.root) / plan_name("r1")
    plan = pq.read_table(path)
    cells = plan.column(column).to_pylist()
    edited = plan.set_column(plan.schema.get_field_index(column), column, pa.array([*cells[:-1], "edited"]))
    pq.write_table(edited.replace_schema_metadata(plan.schema.metadata), path)
    with pytest.raises(DamagedObject, match="not those it was planned with") as caught:
        list(iter_shards(store, "r1"))
    assert caught.value.subject == str(path)


def test_a_run_that_was_never_planned_is_unavailable(store: Store):
    with pytest.raises(StorageUnavailable, match="does not exist"):
        read_header(store, "r1")


def test_a_receipt_adds_up_what_became_of_the_videos(store: Store):
    receipt = commit(store, "r1", SHARDS[0])
    assert (receipt.videos_labeled, receipt.videos_partial, receipt.videos_failed) == (1, 0, 1)
    assert (receipt.clips_planned, receipt.clips_student, receipt.clips_teacher) == (3, 2, 1)
    assert receipt.cost.wall_seconds == 2.5
    assert receipt.committed_at == NOON
    assert read_receipt(store, "r1", SHARDS[0].shard_id) == receipt


def test_the_second_attempt_adopts_the_receipt_of_the_first(store: Store):
    first = commit(store, "r1", SHARDS[0])
    late = context("r1", SHARDS[0].shard_id, attempt_id="attempt-2")
    second = commit_shard(store, outcomes_of(SHARDS[0]), late, NOON + timedelta(hours=1))
    assert second == first
    assert second.attempt_id == "attempt-1"
    assert set(read_shard(store, "r1", SHARDS[0]).rows.column("attempt_id").to_pylist()) == {"attempt-1"}


def test_rows_of_other_models_under_the_name_of_a_shard_are_not_adopted(store: Store):
    commit(store, "r1", SHARDS[0], fingerprint="0" * 16)
    with pytest.raises(DamagedObject, match="other models"):
        commit(store, "r1", SHARDS[0])


def test_committed_shards_are_those_whose_objects_stand(store: Store):
    plan_run(store, "r1", SHARDS)
    assert committed_shards(store, "r1") == frozenset()
    commit(store, "r1", SHARDS[2])
    commit(store, "r1", SHARDS[0])
    assert committed_shards(store, "r1") == {SHARDS[0].shard_id, SHARDS[2].shard_id}
    receipts = read_receipts(store, "r1")
    assert {receipt.shard_id for receipt in receipts} == {SHARDS[0].shard_id, SHARDS[2].shard_id}


@pytest.mark.parametrize("kept", [0, 3, 1000, -1])
def test_a_cut_shard_is_refused_by_name(store: Store, kept: int):
    _planned_and_committed(store)
    path = _path(store, SHARDS[1])
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DamagedObject) as caught:
        read_receipt(store, "r1", SHARDS[1].shard_id)
    assert caught.value.subject == str(path)
    with pytest.raises(DamagedObject) as caught:
        publish_run(store, "r1")
    assert caught.value.subject == str(path)


def test_a_byte_flipped_in_any_column_is_found_before_publishing(store: Store):
    _planned_and_committed(store)
    path = _path(store, SHARDS[1])
    intact = path.read_bytes()
    chunks = pq.read_metadata(path).row_group(0)
    for number in range(chunks.num_columns):
        chunk = chunks.column(number)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        path.write_bytes(intact)
        _flip(path, start + chunk.total_compressed_size - 1)
        with pytest.raises(DamagedObject) as caught:
            publish_run(store, "r1")
        assert caught.value.subject == str(path), chunk.path_in_schema
    assert store.list("predictions") == ()


def test_the_rows_of_another_shard_are_refused(store: Store):
    _planned_and_committed(store)
    _path(store, SHARDS[0]).write_bytes(_path(store, SHARDS[2]).read_bytes())
    with pytest.raises(DamagedObject, match=f"receipt of run r1, shard {SHARDS[2].shard_id}"):
        read_receipt(store, "r1", SHARDS[0].shard_id)


def test_rows_of_other_videos_than_planned_are_refused(store: Store):
    _planned_and_committed(store)
    with pytest.raises(DamagedObject, match="other videos than the plan"):
        read_shard(store, "r1", replace(SHARDS[2], videos=(video("d"), video("x"))))


def test_runs_are_listed_oldest_first_with_their_state(store: Store):
    plan_run(store, "later", shards_of([video("z")]), at=NOON + timedelta(hours=1))
    finished_run(store, "sooner", [video("a")])
    (Path(store.root) / "runs" / "half").mkdir()
    assert [(run.header.run_id, run.finished) for run in list_runs(store)] == [("sooner", True), ("later", False)]
    assert find_run(store, None).header.run_id == "later"
    assert find_run(store, "sooner").finished


def test_looking_for_a_run_that_is_not_there_says_so(store: Store):
    with pytest.raises(RunError, match="no run stands here"):
        find_run(store, None)
    plan_run(store, "r1", SHARDS)
    with pytest.raises(RunError, match="there is no run r2 here"):
        find_run(store, "r2")
