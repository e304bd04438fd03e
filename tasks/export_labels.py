"""Labels for other programs: sorted, the same bytes for the same rows, in bounded memory, and whole or not at all.

What is exported are the latest labels of ``OUT``; what a format looks like is told by the module that writes it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, assert_never

from cdmodel.errors import ConfigError, RunError
from storage.duckdb_tables import LARGE_WORK_BYTES, damage_named
from storage.filesystem import Store, open_store
from storage.uri import absolute_uri
from storage.views import connect_views
from tasks.export_fiftyone import write_fiftyone
from tasks.export_huggingface import write_huggingface
from tasks.export_place import new_export
from tasks.export_table import write_csv

if TYPE_CHECKING:
    import duckdb

ExportFormat = Literal["csv", "huggingface", "fiftyone"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What was written."""

    destination: str
    format: ExportFormat
    rows: int
    left_out: int
    """Rows that the format cannot hold."""
    bytes: int


def export_labels(out: str, destination: str, export_format: ExportFormat, where: str | None) -> Export:
    """Write the latest label of every video, or of those that a condition of SQL picks, to a new file or folder.

    Args:
        out: folder or URL of the tables.
        destination: path or URL where nothing stands yet. A file for ``csv``, a folder for the others.
        export_format: see ``tasks.export_table``, ``tasks.export_huggingface``, ``tasks.export_fiftyone``.
        where: a condition over the columns of ``latest``; None takes all.

    Raises:
        OutputError: something stands at the destination, or it cannot be written.
        CommitStateUnknown: a write to a store timed out: look what stands at the destination, and delete it.
        ConfigError: the condition is wrong; the message is DuckDB's, on one line.
        RunError: there is no labeled row to export.
        DamagedObject, StorageUnavailable: OUT cannot be read.
    """
    with new_export(destination) as staged:
        with _labels(open_store(out), where) as connection:
            rows, labeled = _write(connection, staged, export_format), _count(connection)
        if not rows:
            raise RunError(out, f"holds no label that the format {export_format} can hold; see docs/export.md")
        size_bytes = sum(file.stat().st_size for file in (staged, *staged.rglob("*")) if file.is_file())
    return Export(
        destination=absolute_uri(destination),
        format=export_format,
        rows=rows,
        left_out=labeled - rows,
        bytes=size_bytes,
    )


def _write(connection: duckdb.DuckDBPyConnection, target: Path, export_format: ExportFormat) -> int:
    match export_format:
        case "csv":
            return write_csv(connection, target)
        case "huggingface":
            target.mkdir()
            return write_huggingface(connection, target)
        case "fiftyone":
            target.mkdir()
            return write_fiftyone(connection, target)
        case _:
            assert_never(export_format)


def _count(connection: duckdb.DuckDBPyConnection) -> int:
    (rows,) = connection.execute("select count(*) from exported").fetchall()[0]
    return int(rows)


@contextmanager
def _labels(store: Store, where: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with the view ``exported``: the latest rows that have a label and meet the condition.

    Its memory is bounded, and one thread keeps the order and the bytes of what it writes.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cdlabel-export-") as folder,
        connect_views(store) as connection,
        damage_named(store),
        _condition_blamed(where),
    ):
        connection.execute(f"set memory_limit = '{LARGE_WORK_BYTES}B'")
        connection.execute("set threads = 1")
        connection.execute("set temp_directory = '" + folder.replace("'", "''") + "'")
        _create_view(connection, where)
        if connection.execute("select 1 from exported limit 1").fetchone() is None:
            meeting = "" if where is None else " that meets --where"
            raise RunError(store.root, f"holds no labeled video{meeting}; there is nothing to export")
        yield connection


def _create_view(connection: duckdb.DuckDBPyConnection, where: str | None) -> None:
    condition = "true" if where is None else where.encode("utf-8", "backslashreplace").decode()
    # The line break ends a comment that the condition may end in.
    sql = f"create temp view exported as select * from latest where label is not null and ({condition}\n)"
    if len(connection.extract_statements(sql)) != 1:
        raise ConfigError("--where", "is not one condition; try: confidence >= 0.9")
    connection.execute(sql)


@contextmanager
def _condition_blamed(where: str | None) -> Iterator[None]:
    """Blame the condition, if there is one, for what DuckDB does not take or only some rows make fail, such as a cast."""
    import duckdb

    try:
        yield
    except (duckdb.DataError, duckdb.ProgrammingError) as error:
        if where is None:
            raise
        raise ConfigError("--where", " ".join(str(error).split())) from error
