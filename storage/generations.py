"""What a reader of OUT reads: the newest generation, and what was published by runs that it does not include.

A generation is the published tables once more, in fewer files and with one manifest. ``predictions/`` itself stays as it is:
no reader that lists and then opens could be shown a merged file and its sources as one switch. The manifest is the switch:
a reader that took the older one goes on with it, since its files stay for the time of grace (``tasks/collect_garbage.py``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pydantic import TypeAdapter, ValidationError

from storage.filesystem import Store
from storage.lookahead import map_ahead
from storage.parquet import damaged
from storage.prediction_schema import SCHEMA_VERSION
from storage.publish import PublishedFile, PublishedRun, read_success
from storage.run_layout import (
    COMPACTED,
    RUNS_TABLE,
    generation_folder,
    is_retrain_row,
    manifest_name,
    run_row_name,
)
from storage.run_store import read_state, run_ids
from storage.uri import base_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """The contents of a generation's manifest."""

    generation: str
    schema_version: int
    runs: tuple[str, ...]
    """All finished runs at that time, ascending."""
    rows: int
    files: tuple[PublishedFile, ...]
    """Of the table of predictions, ascending by partition and by ``video_id``."""
    runs_table: PublishedFile


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedTables:
    """The files that a reader reads, each run once."""

    compacted: tuple[str, ...]
    """Files of predictions in the newest generation."""
    published: tuple[str, ...]
    """Files of predictions of the finished runs that it does not include."""
    run_rows: tuple[str, ...]
    """Files of rows of the table of runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    schema_version: int


_VERSION = TypeAdapter(_Version)
_GENERATION = TypeAdapter(Generation)


def published_tables(store: Store) -> PublishedTables:
    """Return what finished runs have published. Reads one manifest, and the records of runs that came after it.

    Raises:
        DamagedObject: a manifest, a plan or a success marker was changed.
        NewerSchema: a newer version of this project planned a run.
    """
    newest = newest_generation(store)
    included = frozenset() if newest is None else frozenset(newest.runs)
    others = [run_id for run_id in run_ids(store) if run_id not in included]
    states = map_ahead(partial(read_state, store), others)
    finished = sorted(
        (state.header for state in states if state is not None and state.finished), key=lambda header: header.created_at
    )
    markers = list(map_ahead(partial(read_success, store), [header.run_id for header in finished]))
    cycles = (name for name in map(_row_name, store.children(RUNS_TABLE)) if is_retrain_row(name))
    rows = (*(run_row_name(header.run_id) for header in finished), *cycles)
    return PublishedTables(
        compacted=() if newest is None else tuple(file.name for file in newest.files),
        published=tuple(file.name for marker in markers for file in marker.files),
        run_rows=rows if newest is None else (newest.runs_table.name, *rows),
    )


def _row_name(file: str) -> str:
    return f"{RUNS_TABLE}/{file}"


def newest_generation(store: Store) -> Generation | None:
    """Return the newest complete generation that this version can read; None where there is none.

    One of a newer schema is passed over: its runs are read one by one, which refuses those of a newer schema.

    Raises:
        DamagedObject: its manifest was changed.
    """
    for name in reversed(store.children(COMPACTED)):
        if is_complete(store, name):
            generation = read_generation(store, name)
            if generation is not None:
                return generation
    return None


def is_complete(store: Store, generation: str) -> bool:
    """Tell whether the generation's manifest stands."""
    return base_name(manifest_name(generation)) in store.children(generation_folder(generation))


def read_generation(store: Store, generation: str) -> Generation | None:
    """Return what a complete generation's manifest says; None if a newer schema wrote it.

    Raises:
        DamagedObject: the manifest was changed.
    """
    name = manifest_name(generation)
    content = store.read(name)
    try:
        if _VERSION.validate_json(content).schema_version > SCHEMA_VERSION:
            return None
        found = _GENERATION.validate_json(content)
    except ValidationError as error:
        raise damaged(store, name, "not the manifest of a generation") from error
    if found.generation != generation:
        raise damaged(store, name, f"it is the manifest of {found.generation}")
    return found


def generation_name(runs: Sequence[PublishedRun], made_by: str) -> str:
    """Return the name of the generation of these runs: names ascend with the number of runs, so the last is the newest.

    ``made_by`` names everything else that the bytes of its files depend on: another state of the software makes another
    generation, so that what a crash left is only ever completed by the same one.
    """
    digest = hashlib.sha256(made_by.encode())
    for run in sorted(runs, key=lambda run: run.run_id):
        for file in run.files:
            digest.update(f"\n{run.run_id}\0{file.name}\0{file.sha256}".encode())
    return f"{len(runs):08d}-{digest.hexdigest()[:12]}"


def create_manifest(store: Store, generation: Generation) -> bool:
    """Write the manifest; False if it stands already."""
    return store.create(manifest_name(generation.generation), _GENERATION.dump_json(generation, indent=2) + b"\n")
