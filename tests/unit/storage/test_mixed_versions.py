"""OUT as other states of this project leave it: columns and fields that we lack, or that they lack."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_builders import FINGERPRINT, NOON, commit, finished_run, plan_run, publish_and_finish, shards_of, video

from cdmodel.errors import NewerSchema
from cdmodel.failure_policy import FailurePolicy
from storage.compaction import compact_runs
from storage.filesystem import Store, open_store
from storage.ledger import work_left
from storage.parquet import checked_document
from storage.prediction_schema import LABEL_NAMES, PREDICTION_SCHEMA, SCHEMA_VERSION
from storage.publish import read_success
from storage.row_digest import digest_rows
from storage.run_layout import plan_name, run_row_name, shard_name, success_name
from storage.run_record import RUN_SCHEMA, read_run_row
from storage.run_store import HEADER_KEY, RECEIPT_KEY, list_runs, read_header, read_receipts
from storage.views import read_predictions, run_query
from tasks.read_status import read_status
from tasks.verify_output import verify_output

LACKED = ["decode_mode", "decode_fallback", "cost_usd"]
Change = Callable[[pa.Table], pa.Table]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _older(table: pa.Table) -> pa.Table:
    return table.drop_columns([name for name in LACKED if name in table.column_names])


def _newer(table: pa.Table) -> pa.Table:
    return table.append_column("mood", pa.array(["calm"] * table.num_rows, pa.string()))


def _rewrite(store: Store, name: str, change: Change) -> None:
    path = Path(store.root) / name
    with pq.ParquetFile(path) as file:
        table = file.read()
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def _rewrite_run(store: Store, run_id: str, change: Change) -> None:
    """Make a finished run one that another state of this project has written, success marker and all."""
    for file in read_success(store, run_id).files:
        _rewrite(store, file.name, change)
        content = (Path(store.root) / file.name).read_bytes()
        marker = Path(store.root) / success_name(run_id)
        published = json.loads(marker.read_text())
        described = {
            **_described(published, file.name),
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        marker.write_text(json.dumps({**published, "files": [described], "mood": "calm"}))
    _rewrite(store, run_row_name(run_id), change)


def _described(published: dict[str, list[dict[str, object]]], name: str) -> dict[str, object]:
    return next(file for file in published["files"] if file["name"] == name)


def _edit_footer(store: Store, name: str, key: bytes, **changes: object) -> None:
    path = Path(store.root) / name
    with pq.ParquetFile(path) as file:
        table = file.read()
    metadata = dict(table.schema.metadata)
    metadata |= checked_document(key, json.dumps({**json.loads(metadata[key]), **changes}).encode())
    pq.write_table(table.replace_schema_metadata(metadata), path)


def _mixed(store: Store) -> None:
    finished_run(store, "older", [video("a")])
    finished_run(store, "ours", [video("b")], at=NOON + timedelta(hours=1))
    finished_run(store, "newer", [video("c")], at=NOON + timedelta(hours=2))
    _rewrite_run(store, "older", _older)
    _rewrite_run(store, "newer", _newer)
    _edit_footer(store, plan_name("newer"), HEADER_KEY, mood="calm", plans=[1])


@pytest.mark.parametrize("runs", [["older"], ["older", "ours", "newer"]])
def test_views_give_null_for_what_a_file_lacks_and_ignore_what_it_has_more(store: Store, runs: list[str]):
    for number, run_id in enumerate(runs):
        finished_run(store, run_id, [video(run_id)], at=NOON + timedelta(hours=number))
    _rewrite_run(store, "older", _older)
    if "newer" in runs:
        _rewrite_run(store, "newer", _newer)
    assert run_query(store, "from predictions limit 0").columns == (*PREDICTION_SCHEMA.names, *LABEL_NAMES)
    assert run_query(store, "from runs limit 0").columns == tuple(RUN_SCHEMA.names)
    found = run_query(store, "select run_id, cost_usd, run_date is not null from predictions order by labeled_at").rows
    assert found == tuple((run_id, None, True) for run_id in runs)
    assert run_query(store, "select count(*) from runs where cost_usd is null").rows == ((len(runs),),)
    assert run_query(store, "select count(*) from clips").rows == ((2 * len(runs),),)


def test_every_reader_of_ours_takes_the_mix(store: Store):
    _mixed(store)
    table = read_predictions(store.root).to_table()
    assert table.schema.equals(PREDICTION_SCHEMA)
    assert table.sort_by("video_id").column("video_id").to_pylist() == ["a", "b", "c"]
    assert table.column("cost_usd").null_count == 3
    assert verify_output(store.root) == ()
    assert [read_status(store.root, name).videos_labeled for name in ("older", "ours", "newer")] == [1, 1, 1]
    found = [video("a"), video("b"), video("c"), video("d")]
    assert work_left(store, found, list_runs(store), FINGERPRINT, FailurePolicy(), "pyav-1").videos == (video("d"),)
    assert [run.header.run_id for run in list_runs(store)] == ["older", "ours", "newer"]
    assert read_run_row(store, "older").cost_usd is None


def test_a_generation_of_the_mix_has_our_columns(store: Store):
    _mixed(store)
    before = run_query(store, "from predictions order by video_id").rows
    generation = compact_runs(store)
    assert generation is not None
    with pq.ParquetFile(Path(store.root) / generation.files[0].name) as merged:
        assert set(LACKED) <= set(merged.schema_arrow.names)
        assert "mood" not in merged.schema_arrow.names
    assert run_query(store, "from predictions order by video_id").rows == before
    assert verify_output(store.root) == ()


@pytest.mark.parametrize("change", [_older, _newer])
def test_shards_of_another_state_are_published_with_our_columns(store: Store, change: Change):
    """A run that was interrupted by an upgrade."""
    shards = shards_of([video("a")], [video("b")])
    plan_run(store, "r1", shards)
    for shard in shards:
        commit(store, "r1", shard)
    first = shard_name("r1", shards[0].shard_id)
    _rewrite(store, first, change)
    with pq.ParquetFile(Path(store.root) / first) as file:
        _edit_footer(store, first, RECEIPT_KEY, mood="calm", rows_sha256=digest_rows(file.read()))
    assert sum(receipt.videos for receipt in read_receipts(store, "r1")) == 2
    publish_and_finish(store, "r1")
    assert run_query(store, "select video_id, decode_mode is null from predictions order by 1").rows[0][0] == "a"
    assert verify_output(store.root) == ()


def test_a_plan_without_the_newer_fields_is_read_with_their_defaults(store: Store):
    finished_run(store, "r1", [video("a")])
    path = Path(store.root) / plan_name("r1")
    with pq.ParquetFile(path) as file:
        table = file.read()
    metadata = dict(table.schema.metadata)
    content = json.loads(metadata[HEADER_KEY])
    for name in ("relabel", "videos_quarantined", "create_only_honoured"):
        del content[name]
    del metadata[HEADER_KEY + b".sha256"]
    pq.write_table(table.replace_schema_metadata({**metadata, HEADER_KEY: json.dumps(content).encode()}), path)
    header = read_header(store, "r1")
    assert (header.relabel, header.videos_quarantined, header.create_only_honoured) == (False, 0, True)


def test_a_run_of_a_newer_schema_is_refused_by_name_whatever_else_its_plan_says(store: Store):
    finished_run(store, "r1", [video("a")])
    finished_run(store, "tomorrow", [video("b")], at=NOON + timedelta(days=1))
    _edit_footer(store, plan_name("tomorrow"), HEADER_KEY, schema_version=SCHEMA_VERSION + 1, corpus={"renamed": True})
    message = (
        f"run tomorrow: was written with schema version {SCHEMA_VERSION + 1}, this cdlabel knows up to {SCHEMA_VERSION}"
    )
    for read in (
        lambda: list_runs(store),
        lambda: run_query(store, "select 1"),
        lambda: read_predictions(store.root),
        lambda: compact_runs(store),
        lambda: read_status(store.root, None),
        lambda: read_status(store.root, "tomorrow"),
    ):
        with pytest.raises(NewerSchema) as caught:
            read()
        assert str(caught.value).startswith(message)
        assert "upgrade cdlabel, or use another OUT" in caught.value.reason
    assert read_status(store.root, "r1").videos_labeled == 1, "which need not read the other"
    assert [(problem.kind, problem.path) for problem in verify_output(store.root)] == [
        ("newer_schema", plan_name("tomorrow"))
    ]


def test_every_file_says_which_schema_it_was_written_by(store: Store):
    shards = shards_of([video("a")])
    plan_run(store, "r1", shards)
    commit(store, "r1", shards[0])
    published = publish_and_finish(store, "r1")
    for name in (published.files[0].name, run_row_name("r1"), shard_name("r1", shards[0].shard_id)):
        with pq.ParquetFile(Path(store.root) / name) as file:
            assert file.schema_arrow.metadata[b"cdlabel.schema_version"] == str(SCHEMA_VERSION).encode(), name


@pytest.mark.parametrize("engine", ["polars", "datafusion", "chdb"])
def test_other_engines_read_the_mix_as_the_page_says(store: Store, engine: str):
    pytest.importorskip(engine, reason="needs an engine of pip install 'cdlabel[sql]'")
    _mixed(store)
    assert _ask(engine, store.root) == [("a", True), ("b", True), ("c", True)]


def _ask(engine: str, out: str) -> list[tuple[object, ...]]:
    sql = "select video_id, cost_usd is null as unpriced from predictions order by video_id"
    match engine:
        case "polars":
            pl = importlib.import_module("polars")
            frame = pl.scan_parquet(
                f"{out}/predictions/**/*.parquet",
                hive_partitioning=True,
                hive_schema={"run_date": pl.Date, "model_version": pl.String},
                missing_columns="insert",
                extra_columns="ignore",
            )
            return list(frame.select("video_id", pl.col("cost_usd").is_null()).sort("video_id").collect().iter_rows())
        case "datafusion":
            context = importlib.import_module("datafusion").SessionContext()
            partitions = [("run_date", pa.date32()), ("model_version", pa.string())]
            context.register_parquet("predictions", f"{out}/predictions/", table_partition_cols=partitions)
            return [tuple(row.values()) for row in context.sql(sql).to_arrow_table().to_pylist()]
        case _:
            chdb = importlib.import_module("chdb")
            source = f"file('{out}/predictions/*/*/*.parquet', Parquet)"
            settings = "settings schema_inference_mode = 'union', input_format_parquet_allow_missing_columns = 1"
            answer = chdb.query(f"{sql.replace('predictions', source)} {settings}", "JSONCompact")
            return [(video_id, bool(unpriced)) for video_id, unpriced in json.loads(answer.bytes())["data"]]
