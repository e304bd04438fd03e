"""SQL over OUT with DuckDB: the views predictions, latest, clips, failures, worth_labeling, runs and labels.

The views read what finished runs have published, by name, so a run that is being published is not seen half. A
``label_id`` means something within one model version only: wherever one is shown, its name stands beside it.
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
from storage.run_layout import model_version_of
from storage.run_record import RUN_SCHEMA
from storage.uri import split_url

_STORED = "stored_predictions"
_NAMED_BY_RUNS = """
    create table labels as select model_version, (generate_subscripts(names, 1) - 1)::int as label_id, unnest(names) as label
    from (select model_version, any_value(labels) as names from runs where labels is not null group by model_version)
"""
_NAMED_BY_ROWS = f"""
    insert into labels select model_version, label_id, arg_max(label, (rows, label)) from (
        select model_version, label_id, label, count(*) as rows from (
            select model_version, label_id, label from {_STORED}
            union all
            select model_version, top.label_id, top.label
            from (select model_version, unnest(top_labels) as top from {_STORED})
        ) where label is not null and model_version in (select unnest($unnamed)) group by all
    ) group by all
"""
"""As far as any row tells: for the runs of an earlier state of this project, and of bundles that are gone."""
_CLIP_ROWS = f"""(select video_id, uri, corpus, run_id, model_version, run_date, label as video_label,
    unnest(clips, max_depth := 2) from {_STORED} where clips is not null)"""


def _named(rows: str) -> str:
    """Return the query that adds the names of both labels to rows."""
    return f"""
        select rows.*, student.label as student_label, teacher.label as teacher_label from {rows} as rows
        left join labels as student
            on student.model_version = rows.model_version and student.label_id = rows.student_label_id
        left join labels as teacher
            on teacher.model_version = rows.model_version and teacher.label_id = rows.teacher_label_id
    """


_DERIVED_VIEWS = (
    f"create view predictions as {_named(_STORED)}",
    """create view latest as select * from predictions
       qualify row_number() over (partition by video_id order by labeled_at desc, run_id desc) = 1""",
    f"create view clips as {_named(_CLIP_ROWS)}",
    "create view failures as select * from predictions where error_kind is not null",
    """create view worth_labeling as
       with counted as (
           select *, count(*) over (partition by label) as of_label, count(*) over () as of_all,
               coalesce((student_label_id <> label_id)::int, 0) as disagrees,
               coalesce(clips_unfunded / nullif(clips_planned, 0), 0) as unfunded
           from latest where status <> 'failed' and not audited),
       valued as (
           select *, (1 - confidence) * (1 + disagrees + unfunded)
               * least(sqrt(of_all / (of_label * (select count(distinct label) from counted))), 3) as value from counted)
       select video_id, uri, source_group, label, confidence, value as worth,
           value / greatest(dense_teacher_flops / 1e9, 1e-9) as worth_per_dense_gflop,
           concat_ws(', ', 'confidence ' || round(confidence, 2),
               case when disagrees = 1 then 'student said ' || student_label end,
               case when unfunded > 0 then 'budget ran out' end,
               case when of_label * (select count(distinct label) from counted) * 2 < of_all then 'rare class' end) as why
       from valued where value > 0""",
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
    files = tables.compacted + tables.published
    create_table_view(connection, store, _STORED, files, PREDICTION_SCHEMA)
    create_table_view(connection, store, "runs", tables.run_rows, RUN_SCHEMA)
    with store_failures(store):
        _name_labels(connection, files)
        for statement in _DERIVED_VIEWS:
            connection.execute(statement)
    return connection


def _name_labels(connection: duckdb.DuckDBPyConnection, files: Sequence[str]) -> None:
    """Make the table of labels: the rows of predictions are looked at only for model versions that no run names."""
    connection.execute(_NAMED_BY_RUNS)
    named = {version for (version,) in connection.execute("select distinct model_version from labels").fetchall()}
    unnamed = sorted({model_version_of(name) for name in files} - named)
    if unnamed:
        connection.execute(_NAMED_BY_ROWS, {"unnamed": unnamed})


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
