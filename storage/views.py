"""SQL over OUT with DuckDB: the views predictions, latest, clips, failures and runs.

The views read what finished runs have published, by name, so a run that is being published is not seen half.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from cdmodel.errors import ConfigError, DamagedObject, StorageUnavailable
from storage.filesystem import Store, open_store
from storage.lookahead import map_ahead
from storage.parquet import open_parquet
from storage.prediction_schema import PARTITIONS, PREDICTION_SCHEMA
from storage.publish import read_success
from storage.run_layout import PREDICTIONS, run_row_name
from storage.run_record import RUN_SCHEMA
from storage.run_store import RunState, list_runs
from storage.uri import split_url

_DERIVED_VIEWS = (
    """create view latest as select * from predictions
       qualify row_number() over (partition by video_id order by labeled_at desc, run_id desc) = 1""",
    """create view clips as select video_id, uri, corpus, run_id, model_version, run_date, label as video_label,
       unnest(clips, max_depth := 2) from predictions where clips is not null""",
    "create view failures as select * from predictions where error_kind is not null",
)
_TAIL = "'run_date=([^/]*)/model_version=([^/]*)/[^/]*$'"
_PARTITION_COLUMNS = {
    "run_date": f"cast(regexp_extract(filename, {_TAIL}, 1) as date) as run_date",
    "model_version": f"regexp_extract(filename, {_TAIL}, 2) as model_version",
}
"""From the end of a file's name only: a folder above OUT may be called ``corpus=films`` and mean no partition of ours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """The answer to a query."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def connect_views(store: Store) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB with the views; they exist, empty, before the first run too.

    Raises:
        DamagedObject: a published file is missing or cut.
        StorageUnavailable: OUT cannot be read.
    """
    connection = duckdb.connect(":memory:")
    connection.execute("set timezone = 'UTC'")
    # A query that needs another extension says so, instead of fetching it from the network behind the user's back.
    connection.execute("set autoinstall_known_extensions = false")
    if store.staging is None:
        connection.register_filesystem(store.filesystem)
    finished = [run for run in list_runs(store) if run.finished]
    rows = [run_row_name(run.header.run_id) for run in finished]
    _create_view(connection, store, "predictions", _published_names(store, finished), PREDICTION_SCHEMA)
    _create_view(connection, store, "runs", rows, RUN_SCHEMA)
    with _store_failures(store):
        for statement in _DERIVED_VIEWS:
            connection.execute(statement)
    return connection


def read_predictions(out: str) -> ds.Dataset:
    """Return the published rows of all finished runs as an Arrow data set, partitions as columns."""
    store = open_store(out)
    finished = [run for run in list_runs(store) if run.finished]
    paths = [split_url(store.uri_of(name))[1] for name in _published_names(store, finished)]
    if not paths:
        return ds.dataset(PREDICTION_SCHEMA.empty_table())
    remote = store.staging is None
    return ds.dataset(
        paths,
        schema=PREDICTION_SCHEMA,
        format="parquet",
        partitioning=ds.partitioning(pa.schema([PREDICTION_SCHEMA.field(name) for name in PARTITIONS]), flavor="hive"),
        partition_base_dir=split_url(store.uri_of(PREDICTIONS))[1],
        filesystem=store.filesystem if remote else None,
    )


def run_query(store: Store, sql: str) -> QueryResult:
    """Answer one query.

    Raises:
        ConfigError: the SQL is wrong; the message is DuckDB's, on one line.
        DamagedObject, StorageUnavailable: as ``connect_views``.
    """
    with connect_views(store) as connection:
        try:
            text = sql.encode("utf-8", "backslashreplace").decode()
            if not connection.extract_statements(text):
                raise ConfigError("SQL", "is empty; try: select label, count(*) from latest group by label")
            with _store_failures(store):
                answer = connection.execute(text)
                columns = tuple(column[0] for column in answer.description or ())
                return QueryResult(columns=columns, rows=tuple(answer.fetchall()))
        except duckdb.Error as error:
            raise ConfigError("SQL", " ".join(str(error).split())) from error


def _published_names(store: Store, finished: Sequence[RunState]) -> list[str]:
    markers = map_ahead(partial(read_success, store), [run.header.run_id for run in finished])
    return [file.name for marker in markers for file in marker.files]


def _create_view(
    connection: duckdb.DuckDBPyConnection, store: Store, view: str, names: Sequence[str], schema: pa.Schema
) -> None:
    if not names:
        connection.register(f"no_{view}", schema.empty_table())
        connection.execute(f"create view {view} as select * from no_{view}")
        return
    listed = ", ".join("'" + _escape(store.uri_of(name)) + "'" for name in names)
    derived = _PARTITION_COLUMNS if view == "predictions" else {}
    columns = ", ".join(derived.get(name, f'"{name}"') for name in schema.names)
    files = f"read_parquet([{listed}], union_by_name = true, hive_partitioning = false, filename = true)"
    try:
        connection.execute(f"create view {view} as select {columns} from {files}")
    except duckdb.Error as error:
        for name in names:
            open_parquet(store, name).close()
        if type(error) is duckdb.Error:
            raise _store_failure(store, error) from error
        raise DamagedObject(store.uri_of(view), f"cannot be read as a table: {str(error).splitlines()[0]}") from error


@contextmanager
def _store_failures(store: Store) -> Iterator[None]:
    """Tell what a store's driver raises inside DuckDB, which comes as the bare class, from what DuckDB has to say."""
    try:
        yield
    except duckdb.Error as error:
        if type(error) is duckdb.Error:
            raise _store_failure(store, error) from error
        raise


def _store_failure(store: Store, error: duckdb.Error) -> StorageUnavailable:
    """Return our error for a driver's whose traceback DuckDB has made its message: the last line tells the reason."""
    return StorageUnavailable(store.root, f"the store failed: {str(error).strip().splitlines()[-1]}")


def _escape(uri: str) -> str:
    """Return a file's name as DuckDB takes it literally, inside a quoted string."""
    quoted = uri.replace("'", "''")
    return "".join(f"[{character}]" if character in "*?[" else character for character in quoted)
