"""SQL over OUT with DuckDB: the views predictions, latest, clips, failures and runs.

The views read what finished runs have published, by name, so a run that is being published is not seen half.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds

from cdmodel.errors import ConfigError
from storage.duckdb_tables import connect, create_table_view, store_failures
from storage.filesystem import Store, open_store
from storage.generations import published_tables
from storage.prediction_schema import PARTITIONS, PREDICTION_SCHEMA
from storage.run_record import RUN_SCHEMA
from storage.uri import split_url

_DERIVED_VIEWS = (
    """create view latest as select * from predictions
       qualify row_number() over (partition by video_id order by labeled_at desc, run_id desc) = 1""",
    """create view clips as select video_id, uri, corpus, run_id, model_version, run_date, label as video_label,
       unnest(clips, max_depth := 2) from predictions where clips is not null""",
    "create view failures as select * from predictions where error_kind is not null",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryResult:
    """The answer to a query."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def connect_views(store: Store) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB with the views; they exist, empty, before the first run too.

    Raises:
        DamagedObject: a published file is missing or cut.
        NewerSchema: a newer version of this project planned a run.
        StorageUnavailable: OUT cannot be read.
    """
    connection = connect(store)
    tables = published_tables(store)
    create_table_view(connection, store, "predictions", tables.compacted + tables.published, PREDICTION_SCHEMA)
    create_table_view(connection, store, "runs", tables.run_rows, RUN_SCHEMA)
    with store_failures(store):
        for statement in _DERIVED_VIEWS:
            connection.execute(statement)
    return connection


def read_predictions(out: str) -> ds.Dataset:
    """Return the published rows of all finished runs as an Arrow data set, partitions as columns.

    Raises: as ``connect_views``.
    """
    store = open_store(out)
    tables = published_tables(store)
    parts = [_dataset(store, names) for names in (tables.compacted, tables.published) if names]
    if not parts:
        return ds.dataset(PREDICTION_SCHEMA.empty_table())
    return parts[0] if len(parts) == 1 else ds.dataset(parts)


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
            with store_failures(store):
                answer = connection.execute(text)
                columns = tuple(column[0] for column in answer.description or ())
                return QueryResult(columns=columns, rows=tuple(answer.fetchall()))
        except duckdb.Error as error:
            raise ConfigError("SQL", " ".join(str(error).split())) from error


def _dataset(store: Store, names: Sequence[str]) -> ds.Dataset:
    """Return files as a data set; all stand below one folder called ``predictions``."""
    base = names[0].partition("/run_date=")[0]
    return ds.dataset(
        [split_url(store.uri_of(name))[1] for name in names],
        schema=PREDICTION_SCHEMA,
        format="parquet",
        partitioning=ds.partitioning(pa.schema([PREDICTION_SCHEMA.field(name) for name in PARTITIONS]), flavor="hive"),
        partition_base_dir=split_url(store.uri_of(base))[1],
        filesystem=store.filesystem if store.staging is None else None,
    )
