"""Turns a run's shard objects into the table that SQL engines read, then closes the run.

Shards are consecutive ranges of ids, so their objects one after another are the sorted table: memory stays that of a few
shards. Names are deterministic and objects are only created, so publishing again after a crash repairs what is missing.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cdmodel.errors import RunError, StorageUnavailable
from cdmodel.types import ShardReceipt
from storage.filesystem import Store
from storage.lookahead import map_ahead
from storage.parquet import ROWS_PER_GROUP, damaged, open_parquet, open_writer
from storage.prediction_schema import PUBLISHED_SCHEMA, REPETITIVE_TEXT
from storage.run_layout import predictions_name, success_name
from storage.run_record import RunRecord, write_run_row
from storage.run_store import RunHeader, committed_shards, iter_shards, planned_shards, read_header, read_shard

FILE_BYTES = 256 * 2**20
"""A published file is closed once it has reached this."""
SHARDS_AHEAD = 8
"""Shards fetched while the ones before are written."""
_AUDIT_COLUMNS = ("label_id", "confidence", "teacher_label_id", "source_group")


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedFile:
    """One file of the table."""

    name: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedRun:
    """All files of a run: the contents of its success marker."""

    run_id: str
    rows: int
    files: tuple[PublishedFile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditedRows:
    """What a run says of the V videos that the teacher labeled densely as well."""

    label_id_V: NDArray[np.int32]
    confidence_V: NDArray[np.float32]
    teacher_label_id_V: NDArray[np.int32]
    groups: Sequence[str | None]
    """Source recording of each (V); None where the corpus does not say."""


@dataclass(slots=True)
class _Told:
    """What shards have told while they were published."""

    receipts: list[ShardReceipt] = field(default_factory=list)
    audited: list[pa.Table] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Publication:
    """A run whose files stand, and what its shards told on the way."""

    run: PublishedRun
    receipts: tuple[ShardReceipt, ...]
    audited: AuditedRows


_PUBLISHED = TypeAdapter(PublishedRun)


def publish_run(store: Store, run_id: str) -> Publication:
    """Write the run's files below ``predictions/``; those that stand already are checked and kept.

    Raises:
        RunError: a shard is not committed yet.
        DamagedObject: a shard object was changed, or a file under one of our names holds other rows.
        StorageUnavailable: the store failed, or the folder for temporary files is full.
    """
    header = read_header(store, run_id)
    missing = planned_shards(store, run_id) - committed_shards(store, run_id)
    if missing:
        raise RunError(
            run_id, f"{len(missing)} of {header.shards} shards are not labeled yet; run the same command again"
        )
    told = _Told(audited=[PUBLISHED_SCHEMA.empty_table().select(_AUDIT_COLUMNS)])
    try:
        with tempfile.TemporaryDirectory(prefix="cdlabel-publish-") as folder:
            files = tuple(_create_all(store, header, Path(folder), told))
    except OSError as error:
        # What OUT raises is an error of ours already.
        reason = f"cannot be written ({error.strerror}); point TMPDIR at a folder with room"
        raise StorageUnavailable(tempfile.gettempdir(), reason) from error
    run = PublishedRun(run_id=run_id, rows=sum(file.rows for file in files), files=files)
    return Publication(run=run, receipts=tuple(told.receipts), audited=_audited(pa.concat_tables(told.audited)))


def finish_run(store: Store, record: RunRecord, published: PublishedRun) -> RunRecord:
    """Write the run's row and then its success marker, each once; returns the row that stands."""
    standing = write_run_row(store, record)
    store.create(success_name(record.run_id), _PUBLISHED.dump_json(published, indent=2) + b"\n")
    return standing


def read_success(store: Store, run_id: str) -> PublishedRun:
    """Return what a finished run has published.

    Raises:
        DamagedObject: the marker was changed.
        StorageUnavailable: the run is not finished.
    """
    try:
        return _PUBLISHED.validate_json(store.read(success_name(run_id)))
    except ValidationError as error:
        raise damaged(store, success_name(run_id), "not a success marker of this version") from error


def _create_all(store: Store, header: RunHeader, folder: Path, told: _Told) -> Iterator[PublishedFile]:
    row_groups = _in_row_groups(store, header.run_id, told)
    rows = next(row_groups, None)
    number = 0
    while rows is not None:
        path = folder / f"{number:05d}.parquet"
        with open_writer(path, PUBLISHED_SCHEMA, REPETITIVE_TEXT) as writer:
            written = 0
            while rows is not None:
                writer.write_table(rows, row_group_size=ROWS_PER_GROUP)
                written += rows.num_rows
                rows = next(row_groups, None)
                if path.stat().st_size >= FILE_BYTES:
                    break
        yield _create(
            store, predictions_name(header.run_id, header.run_date, header.model_version, number), path, written
        )
        path.unlink()
        number += 1


def _in_row_groups(store: Store, run_id: str, told: _Told) -> Iterator[pa.Table]:
    """Join shards until they fill a row group; lay aside what they tell."""
    waiting: list[pa.Table] = []
    waiting_rows = 0
    for shard in map_ahead(partial(read_shard, store, run_id), iter_shards(store, run_id), SHARDS_AHEAD):
        told.receipts.append(shard.receipt)
        waiting.append(shard.rows.select(PUBLISHED_SCHEMA.names))
        waiting_rows += shard.rows.num_rows
        if waiting_rows >= ROWS_PER_GROUP:
            yield _joined(waiting, told)
            waiting, waiting_rows = [], 0
    if waiting:
        yield _joined(waiting, told)


def _joined(shards: list[pa.Table], told: _Told) -> pa.Table:
    rows = pa.concat_tables(shards)
    # By the row group, not by the shard: a filter costs about the same for a thousand rows as for one.
    told.audited.append(rows.select(_AUDIT_COLUMNS).filter(rows.column("audited")))
    return rows


def _audited(rows: pa.Table) -> AuditedRows:
    return AuditedRows(
        label_id_V=rows.column("label_id").to_numpy(),
        confidence_V=rows.column("confidence").to_numpy(),
        teacher_label_id_V=rows.column("teacher_label_id").to_numpy(),
        groups=rows.column("source_group").to_pylist(),
    )


def _create(store: Store, name: str, path: Path, rows: int) -> PublishedFile:
    if store.create_from_file(name, path):
        return _describe(name, path.read_bytes(), rows)
    standing = store.read(name)
    try:
        same = pq.read_table(pa.BufferReader(standing)).equals(pq.read_table(path))
    except (pa.ArrowException, OSError) as error:
        raise damaged(store, name, "not a complete Parquet object") from error
    if not same:
        raise damaged(store, name, "it holds other rows than the run's shards")
    return _describe(name, standing, rows)


def _describe(name: str, content: bytes, rows: int) -> PublishedFile:
    return PublishedFile(name=name, rows=rows, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def check_file(store: Store, file: PublishedFile) -> str | None:
    """Return what is wrong with a published file, or None."""
    if not store.exists(file.name):
        return "is missing"
    content = store.read(file.name)
    if len(content) != file.bytes or hashlib.sha256(content).hexdigest() != file.sha256:
        return "differs from the run's manifest"
    with open_parquet(store, file.name) as parquet:
        rows = parquet.metadata.num_rows
    return None if rows == file.rows else f"holds {rows} rows, the manifest says {file.rows}"
