"""Labels for other programs: sorted, the same bytes for the same rows, in bounded memory, and whole or not at all.

What is exported are the latest labels of ``OUT``; what a format looks like is told by the module that writes it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, assert_never

from cdmodel.errors import ConfigError, OutputError, RunError
from storage.duckdb_tables import LARGE_WORK_BYTES, store_failures
from storage.filesystem import Store, open_store
from storage.uri import absolute_uri, is_local
from storage.views import connect_views
from tasks.export_fiftyone import write_fiftyone
from tasks.export_huggingface import write_huggingface
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
    bytes: int


def export_labels(out: str, destination: str, export_format: ExportFormat, where: str | None) -> Export:
    """Write the latest label of every video, or of those that a condition of SQL picks, to a new file or folder.

    Args:
        out: folder or URL of the tables.
        destination: where nothing stands yet, on a disk. A file for ``csv``, a folder for the others.
        export_format: see ``tasks.export_table``, ``tasks.export_huggingface``, ``tasks.export_fiftyone``.
        where: a condition over the columns of ``latest``; None takes all.

    Raises:
        OutputError: something stands at the destination, or it cannot be written.
        ConfigError: the condition is wrong; the message is DuckDB's, on one line.
        RunError: there is no labeled row to export.
        DamagedObject, StorageUnavailable: OUT cannot be read.
    """
    target = _free_place(destination)
    with _labels(open_store(out), where) as connection, _staged(target) as staged:
        match export_format:
            case "csv":
                rows = write_csv(connection, staged)
            case "huggingface":
                staged.mkdir()
                rows = write_huggingface(connection, staged)
            case "fiftyone":
                staged.mkdir()
                rows = write_fiftyone(connection, staged)
            case _:
                assert_never(export_format)
        size_bytes = sum(file.stat().st_size for file in (staged, *staged.rglob("*")) if file.is_file())
        _put_in_place(staged, target)
    return Export(destination=str(target), format=export_format, rows=rows, bytes=size_bytes)


def _free_place(destination: str) -> Path:
    uri = absolute_uri(destination)
    if not is_local(uri):
        raise OutputError(uri, "exports are written to a disk; name a local path, and copy it from there")
    target = Path(uri)
    if os.path.lexists(target):
        raise OutputError(uri, "exists already; name a new file or folder")
    if not target.parent.is_dir():
        raise OutputError(uri, f"its folder {target.parent} does not exist")
    return target


@contextmanager
def _labels(store: Store, where: str | None) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection with the view ``exported``: the latest rows that have a label and meet the condition.

    Its memory is bounded, and one thread keeps the order and the bytes of what it writes.
    """
    with (
        tempfile.TemporaryDirectory(prefix="cdlabel-export-") as folder,
        connect_views(store) as connection,
        store_failures(store),
    ):
        connection.execute(f"set memory_limit = '{LARGE_WORK_BYTES}B'")
        connection.execute("set threads = 1")
        connection.execute("set temp_directory = '" + folder.replace("'", "''") + "'")
        _create_view(connection, where)
        if connection.execute("select 1 from exported limit 1").fetchone() is None:
            meeting = "" if where is None else " that meets --where"
            raise RunError(store.root, f"holds no labeled video{meeting}; there is nothing to export")
        with _condition_failures(where):
            yield connection


def _create_view(connection: duckdb.DuckDBPyConnection, where: str | None) -> None:
    import duckdb

    condition = "true" if where is None else where.encode("utf-8", "backslashreplace").decode()
    # The line break ends a comment that the condition may end in.
    sql = f"create temp view exported as select * from latest where label is not null and ({condition}\n)"
    try:
        if len(connection.extract_statements(sql)) != 1:
            raise ConfigError("--where", "is not one condition; try: confidence >= 0.9")
        connection.execute(sql)
        connection.execute("select 1 from exported limit 1").fetchone()
    except duckdb.Error as error:
        if type(error) is duckdb.Error:
            raise
        raise ConfigError("--where", " ".join(str(error).split())) from error


@contextmanager
def _condition_failures(where: str | None) -> Iterator[None]:
    """Blame the condition for what only some rows make fail, such as a cast."""
    import duckdb

    try:
        yield
    except (duckdb.DataError, duckdb.ProgrammingError) as error:
        if where is None:
            raise
        raise ConfigError("--where", " ".join(str(error).split())) from error


@contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """Yield a name beside the target; what stands there at the end is taken away again."""
    import duckdb

    staged = target.with_name(f".{target.name[:100]}-{uuid.uuid4().hex}")
    try:
        yield staged
    except (OSError, duckdb.IOException) as error:
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise OutputError(str(target), f"cannot be written ({reason})") from error
    finally:
        if staged.is_dir():
            shutil.rmtree(staged, ignore_errors=True)
        with suppress(OSError):
            staged.unlink()


def _put_in_place(staged: Path, target: Path) -> None:
    """Give the export its name, unless something stands there by now: a link and a folder's rename never replace."""
    try:
        if staged.is_dir():
            staged.rename(target)
        else:
            target.hardlink_to(staged)
    except OSError as error:
        if os.path.lexists(target):
            raise OutputError(str(target), "exists by now; name a new file or folder") from error
        raise
