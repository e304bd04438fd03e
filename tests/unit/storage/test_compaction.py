from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_builders import MODEL_VERSION, NOON, RUN_DATE, finished_run, video

from cdmodel.errors import DamagedObject, StorageUnavailable
from storage import compaction, generations
from storage.compaction import compact_runs
from storage.filesystem import Store, open_store
from storage.generations import Generation, newest_generation, published_tables
from storage.run_layout import COMPACTED, manifest_name, plan_name, success_name
from storage.views import read_predictions, run_query
from tasks.compact_output import compact_output
from tasks.verify_output import verify_output

PARTITION = f"run_date={RUN_DATE}/model_version={MODEL_VERSION}"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _rows(store: Store) -> list[tuple[object, ...]]:
    """All that a reader sees, through SQL and through Arrow, which must agree."""
    rows = list(run_query(store, "from predictions order by video_id, run_id").rows)
    arrow = read_predictions(store.root).to_table(columns=["video_id", "run_id", "run_date"])
    assert arrow.num_rows == len(rows)
    assert set(arrow.column("run_date").to_pylist()) <= {RUN_DATE}
    return [*rows, *run_query(store, "from runs order by run_id").rows]


def _compacted(store: Store) -> Generation:
    generation = compact_runs(store)
    assert generation is not None
    return generation


def _three_runs(store: Store) -> None:
    finished_run(store, "r1", [video("b"), video("d")], [video("f fails")])
    finished_run(store, "r2", [video("a"), video("c", size_bytes=None)], at=NOON + timedelta(hours=1))
    finished_run(store, "r3", [video("e"), video("g")], at=NOON + timedelta(hours=2))


def test_without_a_finished_run_there_is_nothing_to_compact(store: Store):
    assert compact_runs(store) is None
    assert not Path(store.root).exists()


def test_readers_see_the_same_rows_before_and_after(store: Store):
    _three_runs(store)
    before = _rows(store)
    generation = _compacted(store)
    assert _rows(store) == before
    assert (generation.runs, generation.rows) == (("r1", "r2", "r3"), 7)
    assert verify_output(store.root) == ()


def test_a_partition_of_several_runs_is_one_file_ascending_by_id_with_a_bloom_filter(store: Store):
    _three_runs(store)
    (file,) = _compacted(store).files
    assert file.name == f"{COMPACTED}/{newest_generation(store).generation}/predictions/{PARTITION}/part-00000.parquet"  # type: ignore[union-attr]
    with pq.ParquetFile(Path(store.root) / file.name) as merged:
        assert merged.read(["video_id"]).column(0).to_pylist() == ["a", "b", "c", "d", "e", "f fails", "g"]
        group = merged.metadata.row_group(0)
        assert group.sorting_columns[0].column_index == 0
        assert group.column(0).compression == "ZSTD"


def test_files_are_closed_once_they_are_large(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(compaction, "FILE_BYTES", 1)
    monkeypatch.setattr(compaction, "ROWS_PER_GROUP", 3)
    monkeypatch.setattr(compaction, "MERGED_ROWS_AT_ONCE", 2)
    _three_runs(store)
    before = _rows(store)
    assert [(file.name[-8 - 5 :], file.rows) for file in _compacted(store).files] == [
        ("00000.parquet", 4),
        ("00001.parquet", 3),
    ]
    assert _rows(store) == before
    assert verify_output(store.root) == ()


def test_a_partition_of_one_run_is_copied_to_the_byte(store: Store):
    published = finished_run(store, "r1", [video("a"), video("b")])
    generation = _compacted(store)
    assert [file.sha256 for file in generation.files] == [file.sha256 for file in published.files]
    copied = Path(store.root) / generation.files[0].name
    assert hashlib.sha256(copied.read_bytes()).hexdigest() == generation.files[0].sha256


def test_compacting_again_does_nothing_until_another_run_has_finished(store: Store):
    _three_runs(store)
    first = _compacted(store)
    standing = store.list(COMPACTED)
    assert _compacted(store) == first
    assert not compact_output(store.root).is_new
    assert store.list(COMPACTED) == standing
    finished_run(store, "r4", [video("h")], at=NOON + timedelta(hours=3))
    assert compact_output(store.root).is_new
    second = newest_generation(store)
    assert second is not None
    assert second.generation > first.generation
    assert second.runs == ("r1", "r2", "r3", "r4")


def test_a_run_that_finished_after_the_generation_is_read_beside_it(store: Store):
    _three_runs(store)
    _compacted(store)
    finished_run(store, "r4", [video("h")], at=NOON + timedelta(hours=3))
    tables = published_tables(store)
    assert [len(names) for names in (tables.compacted, tables.published, tables.run_rows)] == [1, 1, 2]
    assert run_query(store, "select count(*), count(distinct video_id) from predictions").rows == ((8, 8),)
    assert run_query(store, "select count(*) from runs").rows == ((4,),)


def test_a_query_reads_no_record_of_a_run_that_the_generation_includes(store: Store):
    _three_runs(store)
    before = _rows(store)
    _compacted(store)
    for run_id in ("r1", "r2", "r3"):
        (Path(store.root) / plan_name(run_id)).unlink()
        (Path(store.root) / success_name(run_id)).unlink()
    assert _rows(store) == before


def test_the_same_runs_make_the_same_generation_wherever_they_are_merged(tmp_path: Path):
    stores = [open_store(str(tmp_path / name)) for name in ("one", "two")]
    for store in stores:
        _three_runs(store)
    assert _compacted(stores[0]) == _compacted(stores[1])


@pytest.mark.parametrize("writes_before", [0, 1, 2])
def test_a_death_at_any_write_is_made_good_by_compacting_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, writes_before: int
):
    _three_runs(store)
    before = _rows(store)
    left = [writes_before]

    def dying(write: Callable[..., bool]) -> Callable[..., bool]:
        def write_or_die(*arguments: object) -> bool:
            left[0] -= 1
            if left[0] < 0:
                raise StorageUnavailable("store", "the process died here")
            return write(*arguments)

        return write_or_die

    with monkeypatch.context() as patched:
        for write in ("create", "create_from_file"):
            patched.setattr(Store, write, dying(getattr(Store, write)))
        with pytest.raises(StorageUnavailable):
            compact_runs(store)
    assert newest_generation(store) is None
    assert _rows(store) == before, "what is half written is not read"
    assert verify_output(store.root) == (), "and is no problem"
    assert _compacted(store).rows == 7
    assert len(store.list(COMPACTED)) == 3, "nothing is left over"
    assert _rows(store) == before


def test_damage_is_not_carried_into_a_generation(store: Store):
    published = finished_run(store, "r1", [video("a")])
    finished_run(store, "r2", [video("b")], at=NOON + timedelta(hours=1))
    path = Path(store.root) / published.files[0].name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DamagedObject, match="differs from its run's manifest") as caught:
        compact_runs(store)
    assert caught.value.subject.endswith("r1-00000.parquet")
    assert newest_generation(store) is None


def test_a_foreign_file_under_a_name_of_ours_is_refused(store: Store):
    _three_runs(store)
    generation = _compacted(store)
    (Path(store.root) / manifest_name(generation.generation)).unlink()
    (Path(store.root) / generation.files[0].name).write_bytes(b"something else")
    with pytest.raises(DamagedObject, match="differs from what the runs"):
        compact_runs(store)


def test_a_generation_of_a_newer_schema_is_passed_over(store: Store):
    _three_runs(store)
    before = _rows(store)
    generation = _compacted(store)
    newer = replace(generation, generation="99999999-0123456789ab", schema_version=generation.schema_version + 1)
    assert generations.create_manifest(store, newer)
    assert newest_generation(store) == generation
    assert _rows(store) == before
    assert verify_output(store.root) == ()


def test_a_manifest_that_was_edited_is_named_by_every_reader(store: Store):
    _three_runs(store)
    name = manifest_name(_compacted(store).generation)
    (Path(store.root) / name).write_text('{"schema_version": 1}')
    with pytest.raises(DamagedObject, match="not the manifest of a generation"):
        run_query(store, "from predictions")
    assert [(problem.kind, problem.path) for problem in verify_output(store.root)] == [
        ("damaged_file", f"{store.root}/{name}")
    ]


def test_a_file_of_a_generation_that_was_changed_or_added_is_a_problem(store: Store):
    _three_runs(store)
    file = _compacted(store).files[0].name
    store.create(file.replace("part-00000", "part-00009"), b"stray")
    path = Path(store.root) / file
    path.write_bytes(path.read_bytes() + b"x")
    assert [(problem.kind, problem.path) for problem in verify_output(store.root)] == [
        ("damaged_file", file),
        ("stray_file", file.replace("part-00000", "part-00009")),
    ]


def test_a_generation_whose_rows_are_not_those_of_its_runs_is_a_problem(store: Store, tmp_path: Path):
    """The files agree with the manifest; only a comparison of rows can tell."""
    _three_runs(store)
    other = open_store(str(tmp_path / "other"))
    finished_run(other, "r1", [video("b"), video("d")], [video("f fails")], at=NOON + timedelta(days=1))
    finished_run(other, "r2", [video("a"), video("c", size_bytes=None)], at=NOON + timedelta(hours=1))
    finished_run(other, "r3", [video("e"), video("g")], at=NOON + timedelta(hours=2))
    _compacted(other)
    (Path(other.root) / COMPACTED).rename(Path(store.root) / COMPACTED)
    (problem,) = verify_output(store.root)
    assert (problem.kind, problem.detail) == (
        "damaged_file",
        "its rows of run r1 are not those that the run has published",
    )
