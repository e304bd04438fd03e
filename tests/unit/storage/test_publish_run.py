from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_builders import (
    MODEL_VERSION,
    NOON,
    commit,
    finished_run,
    plan_run,
    publish_and_finish,
    record_of,
    shards_of,
    video,
)

from cdmodel.errors import DamagedObject, RunError
from storage.filesystem import Store, open_store
from storage.prediction_schema import PUBLISHED_SCHEMA
from storage.publish import check_file, finish_run, publish_run, read_success
from storage.run_record import read_run_row
from storage.run_store import find_run

SHARDS = shards_of([video("a"), video("b fails")], [video("c")], [video("d"), video("e")], [video("f")])
ROWS = ["a", "b fails", "c", "d", "e", "f"]
PARTITION = f"predictions/run_date=2026-11-23/model_version={MODEL_VERSION}"


class Crash(Exception):
    """The process is gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashingStore(Store):
    """A store whose process dies before or after its n-th create."""

    creates_left: list[int]
    after: bool

    def create(self, name: str, data: bytes) -> bool:
        self._die(after=False)
        created = Store.create(self, name, data)
        self._die(after=True)
        return created

    def create_from_file(self, name: str, path: Path) -> bool:
        self._die(after=False)
        created = Store.create_from_file(self, name, path)
        self._die(after=True)
        return created

    def _die(self, *, after: bool) -> None:
        if after == self.after:
            self.creates_left[0] -= 1
            if self.creates_left[0] == 0:
                raise Crash


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.publish.ROWS_PER_GROUP", 2)
    monkeypatch.setattr("storage.publish.FILE_BYTES", 1)


def _commit_all(store: Store) -> None:
    plan_run(store, "r1", SHARDS)
    for shard in SHARDS:
        commit(store, "r1", shard)


def _published_ids(store: Store) -> list[str]:
    names = [item.name for item in store.list("predictions")]
    return [value for name in names for value in _table(store, name).column("video_id").to_pylist()]


def _table(store: Store, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(store.read(name)))


def _contents(store: Store) -> dict[str, bytes]:
    names = [item.name for item in store.list() if not item.name.startswith(".")]
    return {name: store.read(name) for name in names}


def test_a_run_with_missing_shards_is_not_published(store: Store):
    plan_run(store, "r1", SHARDS)
    commit(store, "r1", SHARDS[1])
    with pytest.raises(RunError, match="3 of 4 shards are not labeled yet"):
        publish_run(store, "r1")
    assert store.list("predictions") == ()


def test_published_rows_are_complete_and_ascend_by_id(store: Store):
    _commit_all(store)
    published = publish_run(store, "r1").run
    assert [file.name for file in published.files] == [f"{PARTITION}/r1-00000.parquet"]
    assert published.rows == 6
    assert _published_ids(store) == ROWS
    assert _table(store, published.files[0].name).schema == PUBLISHED_SCHEMA


@pytest.mark.usefixtures("small_files")
def test_a_large_run_is_cut_into_files_that_follow_one_another(store: Store):
    _commit_all(store)
    published = publish_run(store, "r1").run
    assert len(published.files) == 3
    assert [file.rows for file in published.files] == [2, 3, 1]
    assert _published_ids(store) == ROWS


@pytest.mark.usefixtures("small_files")
def test_publishing_again_changes_nothing(store: Store):
    _commit_all(store)
    first = publish_run(store, "r1").run
    before = _contents(store)
    assert publish_run(store, "r1").run == first
    assert _contents(store) == before


@pytest.mark.usefixtures("small_files")
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("dies_at", range(1, 6))
def test_a_crash_at_any_create_is_repaired_by_repeating(store: Store, tmp_path: Path, dies_at: int, after: bool):
    _commit_all(store)
    crashing = CrashingStore(
        **{field.name: getattr(store, field.name) for field in fields(Store)}, creates_left=[dies_at], after=after
    )
    with pytest.raises(Crash):
        publish_and_finish(crashing, "r1")
    assert find_run(store, "r1").finished == (after and dies_at == 5)
    publish_and_finish(store, "r1")

    undisturbed = open_store(str(tmp_path / "undisturbed"))
    _commit_all(undisturbed)
    publish_and_finish(undisturbed, "r1")
    assert _contents(store) == _contents(undisturbed)


def test_the_success_marker_lists_what_was_published(store: Store):
    published = finished_run(store, "r1", [video("a")], [video("b")])
    assert read_success(store, "r1") == published
    assert find_run(store, "r1").finished


def test_a_run_that_is_finished_twice_keeps_its_first_row(store: Store):
    published = finished_run(store, "r1", [video("a")])
    first = read_run_row(store, "r1")
    assert first.ended_at == NOON
    assert finish_run(store, record_of("r1", NOON + timedelta(days=1)), published) == first


def test_a_file_of_other_rows_under_our_name_is_refused(store: Store):
    _commit_all(store)
    name = f"{PARTITION}/r1-00000.parquet"
    store.create(name, store.read("runs/r1/plan.parquet"))
    with pytest.raises(DamagedObject, match="other rows") as caught:
        publish_run(store, "r1")
    assert caught.value.subject == store.uri_of(name)


def test_a_file_that_is_no_table_under_our_name_is_refused(store: Store):
    _commit_all(store)
    store.create(f"{PARTITION}/r1-00000.parquet", b"PAR1 and no more")
    with pytest.raises(DamagedObject, match="not a complete Parquet object"):
        publish_run(store, "r1")


def test_a_marker_that_was_edited_is_refused(store: Store):
    finished_run(store, "r1", [video("a")])
    (Path(store.root) / "runs/r1/_SUCCESS.json").write_text("{}")
    with pytest.raises(DamagedObject, match="not a success marker"):
        read_success(store, "r1")


def test_a_published_file_is_checked_to_the_last_byte(store: Store):
    (file,) = finished_run(store, "r1", [video("a")]).files
    path = Path(store.root) / file.name
    assert check_file(store, file) is None
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + b"X")
    assert check_file(store, file) == "differs from the run's manifest"
    path.unlink()
    assert check_file(store, file) == "is missing"
