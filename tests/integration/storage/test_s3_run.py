"""A whole run in a bucket: plan, rival commits, a death while publishing, SQL, verification."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
from run_builders import (
    FINGERPRINT,
    NOON,
    context,
    finished_run,
    outcomes_of,
    plan_run,
    publish_and_finish,
    shards_of,
    video,
)

from cdmodel.bundle import BUNDLE_FILES
from cdmodel.errors import BundleError, DamagedObject, RunError, StorageUnavailable
from cdmodel.failure_policy import FailurePolicy
from storage.bundles import local_bundle
from storage.filesystem import Store, open_store
from storage.ledger import work_left
from storage.publish import publish_run
from storage.run_layout import shard_name
from storage.run_store import commit_shard, committed_shards, list_runs, read_receipts
from storage.views import read_predictions, run_query
from tasks.verify_output import verify_output

SHARDS = shards_of([video("a"), video("b fails")], [video("c")], [video("d"), video("e")])


@pytest.fixture
def store(bucket: str) -> Store:
    return open_store(f"{bucket}/out")


def test_rival_attempts_at_every_shard_leave_each_video_one_row(store: Store):
    plan_run(store, "r1", SHARDS)

    def attempt(number: int) -> list[str]:
        at = NOON + timedelta(seconds=number)
        return [
            commit_shard(
                store,
                outcomes_of(shard, at),
                context("r1", shard.shard_id, attempt_id=f"attempt-{number}"),
                at,
            ).attempt_id
            for shard in SHARDS
        ]

    with ThreadPoolExecutor(6) as pool:
        receipts = list(pool.map(attempt, range(6)))
    assert all(seen == receipts[0] for seen in receipts), "every attempt adopts the same winners"
    assert [receipt.attempt_id for receipt in read_receipts(store, "r1")] == receipts[0]
    publish_and_finish(store, "r1")
    answer = run_query(store, "select video_id, status, attempt_id from predictions order by video_id")
    assert [row[:2] for row in answer.rows] == [
        ("a", "labeled"),
        ("b fails", "failed"),
        ("c", "labeled"),
        ("d", "labeled"),
        ("e", "labeled"),
    ]
    assert verify_output(store.root) == ()


def test_a_finished_run_is_read_by_sql_and_by_arrow(store: Store):
    finished_run(store, "r1", [video("a"), video("b fails")], [video("c")])
    finished_run(store, "r2", [video("a", version="11-2")], at=NOON + timedelta(days=1))
    assert run_query(store, "select count(*) from predictions").rows == ((4,),)
    assert run_query(store, "select run_id from latest where video_id = 'a'").rows == (("r2",),)
    assert run_query(store, "select count(*) from clips").rows == ((6,),)
    assert run_query(store, "select video_id from failures").rows == (("b fails",),)
    assert run_query(store, "select run_id from runs order by 1").rows == (("r1",), ("r2",))
    table = read_predictions(store.root).to_table(columns=["video_id", "run_date", "model_version"])
    assert table.num_rows == 4
    assert set(table.column("model_version").to_pylist()) == {"m-0123456789ab"}


def test_a_bucket_without_runs_answers_with_no_rows(store: Store):
    assert run_query(store, "select * from predictions").rows == ()
    assert read_predictions(store.root).count_rows() == 0


def test_what_a_finished_run_has_labeled_is_not_pending(store: Store):
    finished_run(store, "r1", [video("a"), video("b")])
    found = [video("a"), video("b", version="changed"), video("c")]
    left = work_left(store, found, list_runs(store), FINGERPRINT, FailurePolicy(), "pyav-1")
    assert left.videos == tuple(found[1:])


def test_a_run_with_a_missing_shard_is_not_published(store: Store):
    plan_run(store, "r1", SHARDS)
    commit_shard(store, outcomes_of(SHARDS[0]), context("r1", SHARDS[0].shard_id), NOON)
    assert committed_shards(store, "r1") == {SHARDS[0].shard_id}
    with pytest.raises(RunError, match="2 of 3 shards"):
        publish_run(store, "r1")
    assert store.list("predictions") == ()


def test_a_shard_that_was_cut_in_the_bucket_is_refused_by_name(store: Store):
    plan_run(store, "r1", SHARDS)
    for shard in SHARDS:
        commit_shard(store, outcomes_of(shard), context("r1", shard.shard_id), NOON)
    name = shard_name("r1", SHARDS[1].shard_id)
    cut = store.read(name)[:-20]
    store.delete(name)
    store.create(name, cut)
    with pytest.raises(DamagedObject) as caught:
        publish_run(store, "r1")
    assert caught.value.subject == store.uri_of(name)


def test_a_run_that_died_while_publishing_is_unseen_and_published_again(store: Store):
    plan_run(store, "r1", SHARDS)
    for shard in SHARDS:
        commit_shard(store, outcomes_of(shard), context("r1", shard.shard_id), NOON)
    first = publish_run(store, "r1").run
    assert run_query(store, "select count(*) from predictions").rows == ((0,),)
    assert publish_and_finish(store, "r1") == first
    assert run_query(store, "select count(*) from predictions").rows == ((5,),)
    assert verify_output(store.root) == ()


def test_a_bundle_in_a_bucket_is_fetched_once(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = open_store(f"{bucket}/bundle")
    for name in BUNDLE_FILES:
        store.create(name, name.encode())
    folder = local_bundle(f"{bucket}/bundle")
    assert sorted(path.name for path in folder.iterdir()) == sorted(BUNDLE_FILES)
    store.delete(BUNDLE_FILES[1])
    assert local_bundle(f"{bucket}/bundle/") == folder
    assert [path.name for path in (tmp_path / "cdlabel" / "bundles").iterdir()] == [folder.name]


def test_a_bundle_with_a_teacher_folder_is_fetched_whole(bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = (*BUNDLE_FILES[:2], "teacher/config.json", "teacher/model.safetensors")
    store = open_store(f"{bucket}/bundle")
    for name in names:
        store.create(name, name.encode())
    folder = local_bundle(f"{bucket}/bundle")
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == {name: name for name in names}


def test_a_bundle_that_is_not_there_is_named(bucket: str):
    with pytest.raises(BundleError, match="does not exist"):
        local_bundle(f"{bucket}/bundle")


def test_an_unknown_run_is_unavailable(store: Store):
    with pytest.raises(StorageUnavailable):
        publish_run(store, "nobody")
