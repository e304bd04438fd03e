"""Delete from OUT what no reader and no unfinished run can need any more, once it has been so for the time of grace.

Rows are never guarded by age alone: a shard's object goes only after the published files of its run were read and found to be
what the success marker says, and no published file that a marker names is ever deleted. Age protects what is under way
(a query on an older generation, a write on a disk). It is told by the store's clock, or by ours where that is behind; and what
belongs together is as young as its youngest part, so that a clock set back does not make a new thing look old.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cdmodel.errors import NewerSchema, StorageError
from storage.filesystem import STAGING, Store, StoredObject, open_store
from storage.generations import newest_generation
from storage.lookahead import map_ahead
from storage.output import check_output
from storage.publish import PublishedRun, check_file, read_success
from storage.run_layout import (
    COMPACTED,
    PREDICTIONS,
    RUNS,
    RUNS_TABLE,
    attempts_folder,
    config_name,
    generation_folder,
    is_retrain_row,
    manifest_name,
    passes_folder,
    run_row_name,
    shards_folder,
)
from storage.run_record import read_run_row
from storage.run_store import read_state, run_ids
from storage.uri import base_name

_OUR_FILE = re.compile(rf"{PREDICTIONS}/run_date=[^/]+/model_version=[^/]+/(?P<run_id>[^/]+)-\d{{5}}\.parquet")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundGarbage:
    """How much there was of one kind."""

    kind: str
    """``staging``, ``unplanned_run``, ``attempts``, ``shards``, ``passes``, ``orphans``, ``superseded_generation``."""
    objects: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Something that would have gone, had its run been intact."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What was deleted, or with ``dry_run`` would have been."""

    dry_run: bool
    found: tuple[FoundGarbage, ...]
    kept: tuple[Kept, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doomed:
    kind: str
    item: StoredObject


def collect_garbage(
    out: str,
    *,
    grace: timedelta = timedelta(hours=24),
    dry_run: bool = False,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Garbage:
    """Delete what is of no use any more; safe to repeat after a crash, and while others read, label or compact.

    Args:
        out: folder or URL.
        grace: how long something must have been of no use; longer than the longest query and the longest write.
        dry_run: write and delete nothing, only tell.
        clock: our own time, with its zone.
        on_progress: takes how many steps are done, and of how many.

    Raises:
        OutputError: OUT holds something else.
        StorageUnavailable: the store failed; what was deleted until then was garbage, and running again goes on.
    """
    store = open_store(out)
    check_output(store)
    if not store.children():
        return Garbage(dry_run=dry_run, found=(), kept=())
    before = clock() - grace if dry_run else min(clock(), _clock_of(store) or clock()) - grace
    kept: list[Kept] = []
    steps: tuple[Callable[[], Iterable[_Doomed]], ...] = (
        lambda: _staging(store, before),
        lambda: _unplanned_runs(store, before),
        lambda: _finished_runs(store, before, kept),
        lambda: _superseded_generations(store, before),
    )
    doomed: list[_Doomed] = []
    for done, step in enumerate(steps):
        on_progress(done, len(steps))
        found = list(step())
        if not dry_run:
            _delete(store, found)
        doomed += found
    on_progress(len(steps), len(steps))
    return Garbage(dry_run=dry_run, found=_summary(doomed), kept=tuple(kept))


def _clock_of(store: Store) -> datetime | None:
    """Return what time it is for the store, by an object that is deleted again."""
    name = f"{STAGING}/clock-{uuid.uuid4().hex}"
    try:
        store.create(name, b"now")
        return next((item.modified for item in store.list(STAGING) if item.name == name), None)
    finally:
        store.delete(name)


def _staging(store: Store, before: datetime) -> Iterator[_Doomed]:
    for item in store.list(STAGING):
        if _is_old([item], before):
            yield _Doomed(kind="staging", item=item)


def _unplanned_runs(store: Store, before: datetime) -> Iterator[_Doomed]:
    """Yield configurations beside which no plan came to stand. A folder that holds more has lost its plan: left alone."""
    for run_id in run_ids(store):
        if store.children(f"{RUNS}/{run_id}") == (base_name(config_name(run_id)),):
            items = store.list(f"{RUNS}/{run_id}")
            if _is_old(items, before):
                yield from (_Doomed(kind="unplanned_run", item=item) for item in items)


def _finished_runs(store: Store, before: datetime, kept: list[Kept]) -> Iterator[_Doomed]:
    """Yield what finished runs no longer need: their shards, attempts, and files of the tables that they do not name."""
    of_run = _tables_by_run(store)
    for run_id in run_ids(store):
        own = store.list(f"{RUNS}/{run_id}")
        folders = {
            "attempts": attempts_folder(run_id),
            "shards": shards_folder(run_id),
            "passes": passes_folder(run_id),
        }
        tables = of_run.get(run_id, [])
        if not _is_old([*own, *tables], before):
            continue
        try:
            state = read_state(store, run_id)
            if state is None or not state.finished:
                continue
            published = read_success(store, run_id)
            named = {run_row_name(run_id), *(file.name for file in published.files)}
            spare = [
                _Doomed(kind=kind, item=item)
                for kind, folder in folders.items()
                for item in own
                if item.name.startswith(f"{folder}/")
            ]
            spare += [_Doomed(kind="orphans", item=item) for item in tables if item.name not in named]
            if spare:
                _require_intact(store, published)
        except (StorageError, NewerSchema) as error:
            kept.append(Kept(path=f"{RUNS}/{run_id}", reason=f"{error.subject}: {error.reason}"))
        else:
            yield from spare


def _require_intact(store: Store, published: PublishedRun) -> None:
    """Read the run's row and all that it has published.

    Raises:
        StorageError: something is missing or differs from the success marker.
    """
    read_run_row(store, published.run_id)
    for file in published.files:
        fault = check_file(store, file)
        if fault is not None:
            raise StorageError(file.name, fault)


def _tables_by_run(store: Store) -> dict[str, list[StoredObject]]:
    """Return the files of the tables whose names are ours, by the run that their name tells."""
    found: dict[str, list[StoredObject]] = {}
    for item in (*store.list(PREDICTIONS), *store.list(RUNS_TABLE)):
        if is_retrain_row(item.name):
            continue
        match = _OUR_FILE.fullmatch(item.name)
        run_id = match["run_id"] if match else base_name(item.name).removesuffix(".parquet")
        if match or item.name == run_row_name(run_id):
            found.setdefault(run_id, []).append(item)
    return found


def _superseded_generations(store: Store, before: datetime) -> Iterator[_Doomed]:
    """Yield the generations before the newest complete one, finished or not, manifests first.

    One without a manifest that comes after it is being written, or will be completed by the next compaction. Should a
    compaction that was asleep complete one that was deleted here, nobody reads it: a newer one stands.
    """
    newest = newest_generation(store)
    if newest is None:
        return
    standing = store.list(generation_folder(newest.generation))
    for name in store.children(COMPACTED):
        items = store.list(generation_folder(name))
        if name < newest.generation and _is_old([*standing, *items], before):
            manifest_first = sorted(items, key=lambda item: item.name != manifest_name(name))
            yield from (_Doomed(kind="superseded_generation", item=item) for item in manifest_first)


def _is_old(items: Sequence[StoredObject], before: datetime) -> bool:
    """Tell whether all of these were last written before that time, as far as the store tells."""
    return all(item.modified is not None and item.modified <= before for item in items)


def _delete(store: Store, doomed: Sequence[_Doomed]) -> None:
    manifests = {manifest_name(name) for name in store.children(COMPACTED)}
    first = [each.item.name for each in doomed if each.item.name in manifests]
    others = [each.item.name for each in doomed if each.item.name not in manifests]
    for names in (first, others):
        for _ in map_ahead(store.delete, names):
            pass


def _summary(doomed: Sequence[_Doomed]) -> tuple[FoundGarbage, ...]:
    kinds = dict.fromkeys(each.kind for each in doomed)
    return tuple(
        FoundGarbage(
            kind=kind,
            objects=sum(each.kind == kind for each in doomed),
            bytes=sum(each.item.size_bytes for each in doomed if each.kind == kind),
        )
        for kind in kinds
    )
