"""Merges what all finished runs have published into a new generation: few files, one manifest.

Names are deterministic and objects are only created, so that compacting again after a crash completes what it left. A
partition of one run is copied; one of several is sorted by DuckDB, whose memory is bounded.
"""

from __future__ import annotations

import hashlib
import posixpath
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

from storage.duckdb_tables import connect_for_large_work, create_table_view
from storage.filesystem import Store, open_store
from storage.generations import Generation, create_manifest, generation_name, newest_generation
from storage.lookahead import map_ahead
from storage.parquet import ROWS_PER_GROUP, damaged, fetch_parquet, open_writer, small_to_bytes
from storage.prediction_schema import PUBLISHED_SCHEMA, REPETITIVE_TEXT, SCHEMA_VERSION, as_schema
from storage.publish import FILE_BYTES, PublishedFile, PublishedRun, read_success
from storage.run_layout import PREDICTIONS, compacted_name, compacted_runs_name, run_row_name
from storage.run_record import RUN_SCHEMA
from storage.run_store import list_runs

MERGED_ROWS_AT_ONCE = 16_384
RECIPE = f"1 {SCHEMA_VERSION} {PUBLISHED_SCHEMA} {RUN_SCHEMA} pyarrow {pa.__version__} duckdb {duckdb.__version__}"
"""Everything but the runs that a generation's bytes depend on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    run_id: str
    file: PublishedFile


def compact_runs(store: Store, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Generation | None:
    """Write the generation of all finished runs, and return it; None if no run has finished.

    Where the newest generation includes them all, that one is returned and nothing is written. Safe to repeat after a crash,
    and to do twice at once.

    Args:
        store: OUT.
        on_progress: takes how many partitions are done, and of how many.

    Raises:
        DamagedObject: a published file is not what its run's manifest says, or a file of the generation is not ours.
        NewerSchema: a newer version of this project planned a run.
    """
    runs = [run.header.run_id for run in list_runs(store) if run.finished]
    newest = newest_generation(store)
    if not runs or (newest is not None and newest.runs == tuple(sorted(runs))):
        return newest
    markers = list(map_ahead(partial(read_success, store), sorted(runs)))
    name = generation_name(markers, RECIPE)
    partitions = _by_partition(markers)
    files: list[PublishedFile] = []
    for done, (partition, sources) in enumerate(sorted(partitions.items())):
        on_progress(done, len(partitions))
        files += _compact_partition(store, name, partition, sources)
    on_progress(len(partitions), len(partitions))
    generation = Generation(
        generation=name,
        schema_version=SCHEMA_VERSION,
        runs=tuple(sorted(runs)),
        rows=sum(file.rows for file in files),
        files=tuple(files),
        runs_table=_compact_runs_table(store, name, sorted(runs)),
    )
    create_manifest(store, generation)
    return generation


def _by_partition(markers: Sequence[PublishedRun]) -> dict[str, list[_Source]]:
    partitions: dict[str, list[_Source]] = defaultdict(list)
    for marker in markers:
        for file in marker.files:
            partition = posixpath.dirname(file.name).removeprefix(f"{PREDICTIONS}/")
            partitions[partition].append(_Source(run_id=marker.run_id, file=file))
    return partitions


def _compact_partition(
    store: Store, generation: str, partition: str, sources: Sequence[_Source]
) -> Iterator[PublishedFile]:
    """Write a partition's files. The sources are fetched and checked first: damage is not carried on."""
    with tempfile.TemporaryDirectory(prefix="cdlabel-compact-") as folder:
        paths = [_fetch(store, source.file, Path(folder) / f"source-{n:05d}") for n, source in enumerate(sources)]
        if len({source.run_id for source in sources}) == 1:
            for number, (source, path) in enumerate(zip(sources, paths, strict=True)):
                yield _create(store, compacted_name(generation, partition, number), path, source.file.rows)
            return
        for number, (path, rows) in enumerate(_merge(Path(folder), [path.name for path in paths])):
            yield _create(store, compacted_name(generation, partition, number), path, rows)
            path.unlink()


def _fetch(store: Store, file: PublishedFile, path: Path) -> Path:
    content = store.read(file.name)
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise damaged(store, file.name, "it differs from its run's manifest")
    path.write_bytes(content)
    return path


def _merge(folder: Path, names: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Yield files of the rows of all sources, ascending by ``video_id``, with how many each holds."""
    local = open_store(str(folder))
    with connect_for_large_work(local) as connection:
        create_table_view(connection, local, "sources", names, PUBLISHED_SCHEMA)
        # No two rows agree in all three, so that merging again gives the same bytes.
        ordered = connection.sql("from sources order by video_id, labeled_at, run_id")
        groups = _in_row_groups(_in_batches(ordered))
        rows, number = next(groups, None), 0
        while rows is not None:
            path, written = folder / f"merged-{number:05d}", 0
            with open_writer(path, PUBLISHED_SCHEMA, REPETITIVE_TEXT) as writer:
                while rows is not None and (not written or path.stat().st_size < FILE_BYTES):
                    writer.write_table(rows, row_group_size=ROWS_PER_GROUP)
                    written += rows.num_rows
                    rows = next(groups, None)
            yield path, written
            number += 1


def _in_batches(rows: duckdb.DuckDBPyRelation) -> pa.RecordBatchReader:
    """Return rows as they come; DuckDB 2 renamed the method, and warns of its old name."""
    read = rows.to_arrow_reader if hasattr(rows, "to_arrow_reader") else rows.fetch_record_batch
    return read(MERGED_ROWS_AT_ONCE)


def _in_row_groups(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    waiting: list[pa.RecordBatch] = []
    for batch in reader:
        waiting.append(batch)
        if sum(part.num_rows for part in waiting) >= ROWS_PER_GROUP:
            yield as_schema(pa.Table.from_batches(waiting), PUBLISHED_SCHEMA)
            waiting = []
    if waiting:
        yield as_schema(pa.Table.from_batches(waiting), PUBLISHED_SCHEMA)


def _compact_runs_table(store: Store, generation: str, runs: Sequence[str]) -> PublishedFile:
    rows = pa.concat_tables(map_ahead(partial(_read_row, store), runs))
    with tempfile.TemporaryDirectory(prefix="cdlabel-compact-") as folder:
        path = Path(folder) / "runs"
        path.write_bytes(small_to_bytes(rows))
        return _create(store, compacted_runs_name(generation), path, rows.num_rows)


def _read_row(store: Store, run_id: str) -> pa.Table:
    name = run_row_name(run_id)
    with fetch_parquet(store, name) as file:
        try:
            return as_schema(file.read(), RUN_SCHEMA)
        except (pa.ArrowException, KeyError, OSError) as error:
            raise damaged(store, name, "it is not the row of a run") from error


def _create(store: Store, name: str, path: Path, rows: int) -> PublishedFile:
    content = path.read_bytes()
    if not store.create_from_file(name, path) and store.read(name) != content:
        raise damaged(store, name, "it differs from what the runs of its generation have published")
    return PublishedFile(name=name, rows=rows, bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
