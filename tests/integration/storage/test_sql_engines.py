"""The blocks of docs/sql.md, run as they stand there: every engine gives DuckDB's answers on one published table."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from run_builders import (
    NOON,
    RUN_DATE,
    context,
    failure,
    finished_run,
    header,
    prediction,
    record_of,
    shards_of,
    video,
)

from cdmodel.cost import PriceTable
from cdmodel.types import Damage, RankedLabel, VideoOutcome
from storage.filesystem import Store, open_store
from storage.publish import finish_run, publish_run
from storage.run_store import commit_shard, create_plan
from storage.table_ddl import spark_ddl

PAGE = Path(__file__).parents[3] / "docs" / "sql.md"
ASKED = "it's an é"
AWKWARD_LABEL = 'jump "high" it\'s 跳, \\ 100%\n'
LABELS = {"m-0123456789ab": ("sit", "run", AWKWARD_LABEL), "m-000000000007": ("run", AWKWARD_LABEL)}
"""Two bundles that mean different things by the same number."""
Rows = list[dict[str, Any]]
Ask = Callable[[str], pa.Table]


def _blocks() -> dict[tuple[str, str], str]:
    """The page's code by heading and engine."""
    blocks = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        heading = section.partition("\n")[0]
        found = re.findall(
            r"^([A-Z][A-Za-z, ]*?)(?: \([^\n]*\))?:\n\n```\w+\n(.*?)```$", section, re.DOTALL | re.MULTILINE
        )
        for engines, code in found:
            blocks |= {(heading, engine): code for engine in engines.split(", ")}
    return blocks


BLOCKS = _blocks()
QUERIES = (
    "Top labels",
    "One video",
    "Cost per day",
    "Where student and teacher disagree",
    "Latest label per video",
    "Names of student's labels",
    "Clips as rows",
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three runs of three days: two models, one day without prices, every kind of row."""
    store = open_store(str(tmp_path_factory.mktemp("sql") / "out"))
    awkward, bare, torn = video(ASKED), video("no clips"), video("torn", size_bytes=None)
    labels = (RankedLabel(label_id=2, label=AWKWARD_LABEL, probability=0.5),)
    damage = Damage(error_kind="decode_error", message="damaged\n'here'")
    prices = PriceTable(usd_per_gpu_hour=3.0, usd_per_cpu_hour=0.07)
    _run(
        store,
        "r1",
        0,
        [
            replace(prediction(awkward), top_labels=labels),
            replace(prediction(bare), clips=(), student_label_id=None, student_confidence=None),
            replace(prediction(torn, damage), coverage=0.1),
            failure(video("it fails")),
            prediction(video("a")),
        ],
        prices=prices,
    )
    agreeing = prediction(video("a"), at=NOON + timedelta(days=1, microseconds=1))
    clips = tuple(replace(clip, teacher_label_id=clip.student_label_id) for clip in agreeing.clips)
    second = [replace(agreeing, clips=clips), prediction(awkward, at=NOON + timedelta(days=1))]
    _run(store, "r2", 1, second, model_version="m-000000000007", prices=prices)
    # Two rows of one video with the same instant: the run's id decides which is the later.
    _run(store, "r3", 2, [failure(awkward, at=NOON + timedelta(days=1)), prediction(video("z"))], prices=None)
    return store.root


def _run(
    store: Store,
    run_id: str,
    days: int,
    outcomes: list[VideoOutcome],
    *,
    prices: PriceTable | None,
    model_version: str = "m-0123456789ab",
) -> None:
    outcomes = sorted(outcomes, key=lambda outcome: outcome.video.video_id)
    (shard,) = shards = shards_of([outcome.video for outcome in outcomes])
    changed = {"model_version": model_version, "run_date": date(2026, 11, 23) + timedelta(days=days)}
    assert create_plan(store, replace(header(run_id, shards), **changed), shards, "# settings\n")
    commit_shard(store, outcomes, replace(context(run_id, shard.shard_id, prices=prices), **changed), NOON)
    record = replace(record_of(run_id), model_version=model_version, labels=LABELS[model_version])
    finish_run(store, record, publish_run(store, run_id).run)


def _code(heading: str, engine: str, out: str) -> str:
    return BLOCKS[heading, engine].replace("OUT/", f"{out}/").replace("VIDEO", ASKED)


def _sql(heading: str, engine: str, out: str) -> str:
    return BLOCKS[heading, engine].replace("OUT/", f"{out}/").replace("VIDEO", ASKED.replace("'", "''"))


@pytest.fixture(scope="module")
def ask_duckdb(out: str) -> Iterator[Ask]:
    with duckdb.connect() as connection:
        connection.execute(_sql("Open the table", "DuckDB", out))
        yield lambda heading: connection.sql(_sql(heading, "DuckDB", out)).to_arrow_table()


@pytest.fixture(scope="module")
def ask_polars(out: str) -> Ask:
    pytest.importorskip("polars", reason="needs polars: pip install 'cdlabel[sql]'")

    def ask(heading: str) -> pa.Table:
        names: dict[str, Any] = {}
        for block in ("Open the table", heading):
            exec(compile(_code(block, "Polars", out), PAGE, "exec"), names)
        return names["answer"].collect().to_arrow()

    return ask


@pytest.fixture(scope="module")
def ask_clickhouse(out: str) -> Iterator[Ask]:
    session = pytest.importorskip("chdb.session", reason="needs chdb: pip install 'cdlabel[sql]'")
    with session.Session() as clickhouse:
        clickhouse.query(_sql("Open the table", "ClickHouse", out))
        yield lambda heading: pa.ipc.open_file(
            clickhouse.query(_sql(heading, "ClickHouse", out), "Arrow").bytes()
        ).read_all()


@pytest.fixture(scope="module")
def ask_datafusion(out: str) -> Ask:
    pytest.importorskip("datafusion", reason="needs datafusion: pip install 'cdlabel[sql]'")
    names: dict[str, Any] = {}
    exec(compile(_code("Open the table", "DataFusion", out), PAGE, "exec"), names)
    return lambda heading: names["context"].sql(_sql(heading, "DataFusion", out)).to_arrow_table()


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One Spark in this process's Java, which writes nothing outside the test's folder."""
    pyspark = pytest.importorskip("pyspark.sql", reason="needs pyspark: pip install pyspark")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("needs Java for Spark")
    folder = tmp_path_factory.mktemp("spark")
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.warehouse.dir": str(folder / "warehouse"),
        "spark.local.dir": str(folder / "local"),
        "spark.sql.session.timeZone": "UTC",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
    }
    builder = pyspark.SparkSession.builder.master("local[1]")
    for name, value in settings.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="module")
def ask_spark(spark: Any, out: str) -> Ask:
    spark.sql(_sql("Open the table", "Spark", out))
    return lambda heading: _from_spark(spark.sql(_sql(heading, "Spark", out)))


def _from_spark(frame: Any) -> pa.Table:
    """Row by row: Spark's own conversion to Arrow asks for pandas. Its moments are local, without a zone."""
    rows = [
        {
            name: value.astimezone(UTC) if isinstance(value, datetime) else value
            for name, value in zip(frame.columns, row, strict=True)
        }
        for row in frame.collect()
    ]
    return pa.Table.from_pylist(rows)


@pytest.mark.parametrize("heading", QUERIES)
@pytest.mark.parametrize("engine", ["polars", "clickhouse", "datafusion", "spark"])
def test_every_engine_gives_the_answers_of_duckdb(
    request: pytest.FixtureRequest, ask_duckdb: Ask, engine: str, heading: str
):
    ask: Ask = request.getfixturevalue(f"ask_{engine}")
    expected, found = ask_duckdb(heading), ask(heading)
    assert found.column_names == expected.column_names
    assert expected.num_rows > 1
    assert _rows(found) == [_nearly(row) for row in _rows(expected)]


def _rows(table: pa.Table) -> Rows:
    """Rows in an order that no rounding changes; moments in UTC, whole numbers as such."""
    rows = [{name: _plain(value) for name, value in row.items()} for row in table.to_pylist()]
    return sorted(rows, key=lambda row: [repr(value) for value in row.values() if not isinstance(value, float)])


def _plain(value: Any) -> Any:
    match value:
        case datetime():
            assert value.tzinfo is not None
            return value.astimezone(UTC)
        case Decimal():
            assert value == int(value)
            return int(value)
        case _:
            return value


def _nearly(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: pytest.approx(value, rel=1e-6, abs=0) if isinstance(value, float) else value
        for name, value in row.items()
    }


def test_the_table_holds_every_kind_of_row(ask_duckdb: Ask, out: str):
    """What the comparison above would not notice: a table too simple to tell engines apart."""
    labels = {row["label"] for row in _rows(ask_duckdb("Top labels"))}
    assert AWKWARD_LABEL in labels
    assert [row["usd"] is None for row in _rows(ask_duckdb("Cost per day"))] == [False, False, True]
    disagreement = _rows(ask_duckdb("Where student and teacher disagree"))
    assert [row["compared"] for row in disagreement] == [3, 4]
    latest = {row["video_id"]: (row["run_id"], row["status"]) for row in _rows(ask_duckdb("Latest label per video"))}
    assert latest == {
        ASKED: ("r3", "failed"),
        "a": ("r2", "labeled"),
        "it fails": ("r1", "failed"),
        "no clips": ("r1", "labeled"),
        "torn": ("r1", "partial"),
        "z": ("r3", "labeled"),
    }
    assert "no clips" not in {row["video_id"] for row in _rows(ask_duckdb("Clips as rows"))}


def test_spark_reads_the_table_as_declared(spark: Any, ask_spark: Ask, ask_duckdb: Ask, out: str):
    spark.sql("drop view predictions")
    for statement in spark_ddl(f"{out}/predictions/").split(";")[:2]:
        spark.sql(statement)
    try:
        for heading in QUERIES:
            assert _rows(ask_spark(heading)) == [_nearly(row) for row in _rows(ask_duckdb(heading))]
    finally:
        spark.sql("drop table predictions")


def test_every_engine_reads_a_bucket(bucket: str, s3_server: str):
    """As the page's table says, but for the address of the server."""
    chdb = pytest.importorskip("chdb", reason="needs chdb: pip install 'cdlabel[sql]'")
    datafusion = pytest.importorskip("datafusion", reason="needs datafusion: pip install 'cdlabel[sql]'")
    object_store = pytest.importorskip("datafusion.object_store")
    pl = pytest.importorskip("polars", reason="needs polars: pip install 'cdlabel[sql]'")
    store = open_store(f"{bucket}/out")
    finished_run(store, "r1", [video("a"), video("b fails")], [video("c")])
    expected = [("a", RUN_DATE), ("b fails", RUN_DATE), ("c", RUN_DATE)]

    with duckdb.connect() as connection:
        connection.register_filesystem(store.filesystem)
        connection.execute(_sql("Open the table", "DuckDB", store.root))
        rows = connection.execute("select video_id, run_date from predictions").fetchall()
        assert sorted(rows) == expected

    days = {"run_date": pl.Date, "model_version": pl.String}
    files = f"{store.root}/predictions/**/*.parquet"
    options = {"aws_endpoint_url": s3_server, "aws_allow_http": "true"}
    predictions = pl.scan_parquet(files, hive_partitioning=True, hive_schema=days, storage_options=options)
    assert sorted(predictions.select("video_id", "run_date").collect().rows()) == expected

    context = datafusion.SessionContext()
    name = bucket.removeprefix("s3://")
    context.register_object_store("s3://", object_store.AmazonS3(name, endpoint=s3_server, allow_http=True))
    partitions = [("run_date", pa.date32()), ("model_version", pa.string())]
    context.register_parquet("predictions", f"{store.root}/predictions/", table_partition_cols=partitions)
    found = context.sql("select video_id, run_date from predictions").to_arrow_table()
    assert sorted(tuple(row.values()) for row in found.to_pylist()) == expected

    key, secret = os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"]
    table = f"s3('{s3_server}/{name}/out/predictions/*/*/*.parquet', '{key}', '{secret}', 'Parquet')"
    answer = chdb.query(f"select video_id, run_date from {table} settings use_hive_partitioning = 1", "Arrow")
    assert sorted(tuple(row.values()) for row in pa.ipc.open_file(answer.bytes()).read_all().to_pylist()) == expected
