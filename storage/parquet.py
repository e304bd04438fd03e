"""How this project writes and reads Parquet: one set of options, and errors that name the object."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cdmodel.errors import DamagedObject
from storage.filesystem import Store

ROWS_PER_GROUP = 131_072
_CHECKSUM = b".sha256"
_OPTIONS: dict[str, Any] = {
    "compression": "zstd",
    "compression_level": 3,
    "write_page_index": True,
    "write_page_checksum": True,
}


def open_writer(target: io.BytesIO | Path, schema: pa.Schema, dictionary_columns: list[str]) -> pq.ParquetWriter:
    """Return a writer of rows that come ascending by ``video_id``, which gets a bloom filter."""
    names = schema.names
    return pq.ParquetWriter(
        target,
        schema,
        use_dictionary=[name for name in dictionary_columns if name in names],
        sorting_columns=[pq.SortingColumn(names.index("video_id"))],
        bloom_filter_options={"video_id": {"ndv": ROWS_PER_GROUP, "fpp": 0.01}},
        **_OPTIONS,
    )


def to_bytes(table: pa.Table, dictionary_columns: list[str]) -> bytes:
    """Return a whole Parquet object of rows ascending by ``video_id``."""
    buffer = io.BytesIO()
    with open_writer(buffer, table.schema, dictionary_columns) as writer:
        writer.write_table(table, row_group_size=ROWS_PER_GROUP)
    return buffer.getvalue()


def small_to_bytes(table: pa.Table) -> bytes:
    """Return a whole Parquet object of a few rows in no particular order."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **_OPTIONS)
    return buffer.getvalue()


def open_parquet(store: Store, name: str) -> pq.ParquetFile:
    """Open an object for reading; only its footer is read here. The caller closes it.

    Raises:
        DamagedObject: it is not Parquet, or was cut.
        StorageUnavailable: it cannot be read at all.
    """
    file = store.open(name)
    try:
        return pq.ParquetFile(file, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        file.close()
        raise damaged(store, name, "not a complete Parquet object") from error


def fetch_parquet(store: Store, name: str) -> pq.ParquetFile:
    """Fetch a whole object by one request, for reading all of it. It must fit in memory; errors as ``open_parquet``."""
    data = pa.py_buffer(store.read(name))
    try:
        return pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        raise damaged(store, name, "not a complete Parquet object") from error


@contextmanager
def reading_rows(store: Store, name: str) -> Iterator[None]:
    """Surround the reading of rows: an object whose footer is whole may still have broken pages or other columns.

    Raises:
        DamagedObject: the rows cannot be read.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
        raise damaged(store, name, "its rows cannot be read") from error


def footer(file: pq.ParquetFile) -> Mapping[str, bytes]:
    """Return the key-value metadata that this project put into a footer."""
    return {key.decode(): value for key, value in (file.schema_arrow.metadata or {}).items()}


def checked_document(key: bytes, document: bytes) -> dict[bytes, bytes]:
    """Return the metadata that puts a document into a footer with its checksum: Parquet has one for pages only."""
    return {key: document, key + _CHECKSUM: hashlib.sha256(document).hexdigest().encode()}


def read_document(store: Store, name: str, file: pq.ParquetFile, key: bytes) -> bytes:
    """Return the document of a footer; empty where there is none.

    Raises:
        DamagedObject: it is not what was written. Documents without a checksum, of earlier versions, are taken as they are.
    """
    metadata = file.schema_arrow.metadata or {}
    document: bytes = metadata.get(key, b"")
    written = metadata.get(key + _CHECKSUM)
    if written is not None and written != checked_document(key, document)[key + _CHECKSUM]:
        raise damaged(store, name, "its footer is not what was written")
    return document


def damaged(store: Store, name: str, what: str) -> DamagedObject:
    """Return the error for an object that is not what its name promises."""
    return DamagedObject(store.uri_of(name), f"{what}; it was changed after it was written: restore or delete it")
