"""Check that OUT keeps its promise: every planned video of a finished run has exactly one row, and files are intact."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cdmodel.errors import StorageError
from storage.filesystem import Store, open_store
from storage.ledger import duplicates, published_ids
from storage.publish import check_file, read_success
from storage.run_layout import PREDICTIONS, plan_name, run_row_name, success_name
from storage.run_store import RunState, iter_shards, list_runs


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One broken promise."""

    kind: str
    """``missing_row``, ``unplanned_row``, ``duplicate_row``, ``damaged_file``, ``stray_file``."""
    video_id: str | None
    path: str | None
    detail: str


def verify_output(out: str) -> tuple[Problem, ...]:
    """Return all problems found; none means the promise holds. Reads every published byte once. Writes nothing.

    Unfinished runs are no problem: nothing was promised of them yet.
    """
    store = open_store(out)
    try:
        runs = [run for run in list_runs(store) if run.finished]
    except StorageError as error:
        return (Problem(kind="damaged_file", video_id=None, path=error.subject, detail=error.reason),)
    problems: list[Problem] = []
    known: set[str] = set()
    for run in runs:
        run_id = run.header.run_id
        try:
            names = [file.name for file in read_success(store, run_id).files]
            known.update(names)
            found = list(_verify_run(store, run, names))
        except StorageError as error:
            found = [Problem(kind="damaged_file", video_id=None, path=error.subject, detail=error.reason)]
        problems += found
    for item in store.list(PREDICTIONS):
        if item.name not in known and not _is_of_unfinished_run(store, item.name):
            problems.append(Problem(kind="stray_file", video_id=None, path=item.name, detail="no run has published it"))
    return tuple(problems)


def _verify_run(store: Store, run: RunState, names: list[str]) -> Iterator[Problem]:
    run_id = run.header.run_id
    for file in read_success(store, run_id).files:
        fault = check_file(store, file)
        if fault is not None:
            yield Problem(kind="damaged_file", video_id=None, path=file.name, detail=fault)
            return
    if not store.exists(run_row_name(run_id)):
        yield Problem(kind="damaged_file", video_id=None, path=run_row_name(run_id), detail="the run's row is missing")
    planned = {video.video_id for shard in iter_shards(store, run_id) for video in shard.videos}
    found = published_ids(store, names)
    where = plan_name(run_id)
    for video_id in sorted(planned - found):
        yield Problem(kind="missing_row", video_id=video_id, path=where, detail="planned, but has no row")
    for video_id in sorted(found - planned):
        yield Problem(kind="unplanned_row", video_id=video_id, path=where, detail="has a row, but was not planned")
    for video_id in duplicates(store, names):
        yield Problem(kind="duplicate_row", video_id=video_id, path=where, detail="has several rows in one run")


def _is_of_unfinished_run(store: Store, name: str) -> bool:
    run_id = name.rpartition("/")[2].rpartition("-")[0]
    return store.exists(plan_name(run_id)) and not store.exists(success_name(run_id))
