"""Our tables in DuckDB: a connection that reaches nothing but the store, and views over lists of our files."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from cdmodel.errors import DamagedObject, StorageError, StorageUnavailable
from storage.filesystem import Store
from storage.parquet import open_parquet
from storage.prediction_schema import PARTITIONS

LARGE_WORK_BYTES = 2**29
"""What sorting and counting the whole table may hold in memory; the rest goes to a temporary folder."""
LARGE_WORK_THREADS = 2
_TAIL = "'run_date=([^/]*)/model_version=([^/]*)/[^/]*$'"
_PARTITION_COLUMNS = {
    "run_date": f"cast(regexp_extract(filename, {_TAIL}, 1) as date) as run_date",
    "model_version": f"regexp_extract(filename, {_TAIL}, 2) as model_version",
}
"""From the end of a file's name only: a folder above OUT may be called ``corpus=films`` and mean no partition of ours."""


def connect(store: Store) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB that reads from the store."""
    connection = duckdb.connect(":memory:")
    connection.execute("set timezone = 'UTC'")
    # A query that needs another extension says so, instead of fetching it from the network behind the user's back.
    connection.execute("set autoinstall_known_extensions = false")
    # Where DuckDB takes the process for an interactive one (python -c, a spawned worker) it draws on stdout, among results.
    connection.execute("set enable_progress_bar = false")
    if store.staging is None:
        connection.register_filesystem(store.filesystem)
    return connection


@contextmanager
def connect_for_large_work(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """Yield a connection for work on the whole table: its memory is bounded, what does not fit is put on disk."""
    with tempfile.TemporaryDirectory(prefix="cdlabel-sql-") as folder, connect(store) as connection:
        connection.execute(f"set memory_limit = '{LARGE_WORK_BYTES}B'")
        connection.execute(f"set threads = {LARGE_WORK_THREADS}")
        connection.execute(f"set temp_directory = '{_quoted(folder)}'")
        with store_failures(store):
            yield connection


def create_table_view(
    connection: duckdb.DuckDBPyConnection, store: Store, view: str, names: Sequence[str], schema: pa.Schema
) -> None:
    """Create a view over files; a column that none or only some of them have is null where it is missing.

    Raises:
        DamagedObject: a file is missing or cut.
    """
    connection.register(f"no_{view}", schema.empty_table())
    if not names:
        connection.execute(f"create view {view} as select * from no_{view}")
        return
    derived = [_PARTITION_COLUMNS[name] for name in schema.names if name in PARTITIONS and view != "runs"]
    stored = [name for name in schema.names if not derived or name not in PARTITIONS]
    files = f"read_parquet({_listed(store, names)}, union_by_name = true, hive_partitioning = false, filename = true)"
    wanted = ", ".join([f'"{name}"' for name in stored] + derived)
    ordered = ", ".join(f'"{name}"' for name in schema.names)
    try:
        try:
            connection.execute(f"create view {view} as select {ordered} from (select {wanted} from {files})")
        except duckdb.BinderException:
            # No file has a column that we know: all were written before it was added.
            everything = ", ".join(["* exclude (filename)", *derived])
            connection.execute(
                f"create view {view} as select {ordered} from "
                f"(from no_{view} union all by name select {everything} from {files})"
            )
    except duckdb.Error as error:
        for name in names:
            open_parquet(store, name).close()
        if type(error) is duckdb.Error:
            raise _store_failure(store, error) from error
        raise DamagedObject(store.uri_of(view), f"cannot be read as a table: {str(error).splitlines()[0]}") from error


@contextmanager
def store_failures(store: Store) -> Iterator[None]:
    """Tell what a store's driver raises inside DuckDB, which comes as the bare class, from what DuckDB has to say.

    Raises:
        StorageUnavailable: the store failed while DuckDB read from it.
        DamagedObject: on a disk, where there is no driver: what stands in a file cannot be understood.
    """
    try:
        yield
    except duckdb.Error as error:
        if type(error) is duckdb.Error:
            raise _store_failure(store, error) from error
        raise


@contextmanager
def damage_named(store: Store) -> Iterator[None]:
    """Run SQL of our own over rows: it is right, so that what DuckDB has to say of them is that a file is damaged.

    Raises:
        DamagedObject: rows cannot be read; ``cdlabel verify`` tells which file it is.
        StorageUnavailable: as ``store_failures``.
    """
    with store_failures(store):
        try:
            yield
        except (duckdb.DataError, duckdb.ProgrammingError) as error:
            raise _damage(store, error) from error


def read_files(store: Store, names: Sequence[str]) -> str:
    """Return the DuckDB expression that reads these files as one table."""
    return f"read_parquet({_listed(store, names)}, union_by_name = true, hive_partitioning = false)"


def _store_failure(store: Store, error: duckdb.Error) -> StorageError:
    """Return our error for a driver's whose traceback DuckDB has made its message: the last line tells the reason."""
    if store.staging is not None:
        return _damage(store, error)
    return StorageUnavailable(store.root, f"the store failed: {str(error).strip().splitlines()[-1]}")


def _damage(store: Store, error: duckdb.Error) -> DamagedObject:
    said = " ".join(str(error).split())
    return DamagedObject(store.root, f"a file of its tables is damaged, cdlabel verify names it ({said})")


def _listed(store: Store, names: Sequence[str]) -> str:
    return "[" + ", ".join("'" + _escape(store.uri_of(name)) + "'" for name in names) + "]"


def _escape(uri: str) -> str:
    """Return a file's name as DuckDB takes it literally, inside a quoted string."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in _quoted(uri))


def _quoted(text: str) -> str:
    return text.replace("'", "''")
