"""Reads manifests: tables with a column ``uri``. A manifest names files, so it is not trusted with the whole disk.

A relative name means a place below the manifest's folder and may not climb out of it. An absolute name must lie in that
folder or in one the configuration names (``corpus.roots``).
"""

from __future__ import annotations

import io
import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cdmodel.errors import SourceError, StorageUnavailable, UsageError
from storage.filesystem import open_store
from storage.uri import absolute_uri, base_name, is_local, lies_inside, parent_uri, refuse_chained, split_url

MANIFEST_SUFFIXES = (".parquet", ".csv")


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestRows:
    """The columns of a manifest that were asked for and are there, as text or lists of it. All have the same length."""

    uris: tuple[str, ...]
    """Absolute, checked, without repetition."""
    columns: Mapping[str, Sequence[str | None]]
    """An empty cell is None."""
    lists: Mapping[str, Sequence[tuple[str | None, ...]]]
    """Instead of ``columns``, for a column of lists (Parquet); an empty cell is an empty list."""

    def cells(self, column: str) -> Sequence[str | None]:
        """Return a column; one that the manifest lacks is all None."""
        return self.columns.get(column, (None,) * len(self.uris))


def is_manifest(uri: str) -> bool:
    """Tell from its name whether a file lists videos instead of being one."""
    return uri.lower().endswith(MANIFEST_SUFFIXES)


def read_manifest_rows(manifest: str, optional_columns: Sequence[str], roots: Iterable[str]) -> ManifestRows:
    """Read a manifest, given by its absolute name, and resolve its URIs.

    Raises:
        SourceError: it cannot be read, has no column ``uri`` or no rows, or a row names what it may not; rows are
            counted from 1, without the header.
    """
    table = _read_table(manifest)
    if "uri" not in table.column_names:
        raise SourceError(manifest, f"has no column uri; its columns are {', '.join(table.column_names)}")
    if table.num_rows == 0:
        raise SourceError(manifest, "lists no videos")
    found = [name for name in optional_columns if name in table.column_names]
    listed = [name for name in found if _holds_lists(table, name)]
    return ManifestRows(
        uris=_resolve_all(manifest, _texts(manifest, table, "uri"), roots),
        columns={name: _texts(manifest, table, name) for name in found if name not in listed},
        lists={name: _text_lists(manifest, table, name) for name in listed},
    )


def _read_table(manifest: str) -> pa.Table:
    store = open_store(parent_uri(manifest))
    try:
        with store.open(base_name(manifest)) as file:
            data = file.read()
        if manifest.lower().endswith(".parquet"):
            return pq.read_table(io.BytesIO(data))
        return _read_csv(data)
    except StorageUnavailable as error:
        raise SourceError(manifest, error.reason) from error
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise SourceError(manifest, f"cannot be read as a table: {_first_line(error)}") from error


def _read_csv(data: bytes) -> pa.Table:
    parsing = pa.csv.ParseOptions(newlines_in_values=True)
    names = pa.csv.open_csv(io.BytesIO(data), parse_options=parsing).schema.names
    # Everything is text: an id of digits must not lose its leading zeros to a guess.
    conversion = pa.csv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=True,
    )
    return pa.csv.read_csv(io.BytesIO(data), parse_options=parsing, convert_options=conversion)


def _texts(manifest: str, table: pa.Table, column: str) -> tuple[str | None, ...]:
    try:
        cells = table.column(column).cast(pa.string()).to_pylist()
    except pa.ArrowException as error:
        raise SourceError(manifest, f"column {column} is not text: {_first_line(error)}") from error
    return tuple(cell if cell else None for cell in cells)


def _holds_lists(table: pa.Table, column: str) -> bool:
    kind = table.schema.field(column).type
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _text_lists(manifest: str, table: pa.Table, column: str) -> tuple[tuple[str | None, ...], ...]:
    try:
        cells = table.column(column).cast(pa.list_(pa.string())).to_pylist()
    except pa.ArrowException as error:
        raise SourceError(manifest, f"column {column} holds no lists of text: {_first_line(error)}") from error
    return tuple(tuple(text or None for text in cell or ()) for cell in cells)


def _resolve_all(manifest: str, cells: Sequence[str | None], roots: Iterable[str]) -> tuple[str, ...]:
    folder = parent_uri(manifest)
    allowed = (folder, *(absolute_uri(root) for root in roots))
    rows_by_uri: dict[str, int] = {}
    for row, cell in enumerate(cells, start=1):
        if cell is None:
            raise SourceError(manifest, f"row {row} has no uri")
        uri = _resolve(manifest, row, cell, allowed)
        first = rows_by_uri.setdefault(uri, row)
        if first != row:
            raise SourceError(manifest, f"rows {first} and {row} name the same video, {uri}")
    return tuple(rows_by_uri)


def _resolve(manifest: str, row: int, cell: str, allowed: tuple[str, ...]) -> str:
    try:
        refuse_chained(cell)
    except UsageError as error:
        raise SourceError(manifest, f"row {row}: {error.subject}: {error.reason}") from error
    folder = allowed[0]
    if is_local(cell) and "://" not in cell and not cell.startswith("/"):
        scheme, path = split_url(folder)
        joined = posixpath.normpath(f"{path}/{cell}")
        uri = joined if is_local(folder) else f"{scheme}://{joined}"
        if not lies_inside(uri, folder):
            raise SourceError(manifest, f"row {row}: {cell} climbs out of the manifest's folder; {_advice(uri)}")
        return uri
    uri = os.path.normpath(absolute_uri(cell)) if is_local(cell) else absolute_uri(cell)
    if not any(lies_inside(uri, root) for root in allowed):
        raise SourceError(
            manifest, f"row {row}: {cell} lies outside the manifest's folder and corpus.roots; {_advice(uri)}"
        )
    return uri


def _advice(uri: str) -> str:
    return f"if you trust the manifest, add {parent_uri(uri)} to corpus.roots"


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
