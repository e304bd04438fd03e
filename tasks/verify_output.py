"""Check that OUT keeps its promise: every planned video of a finished run has exactly one row, and files are intact."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cdmodel.errors import NewerSchema, RunError, StorageError
from storage.filesystem import Store, open_store
from storage.generations import Generation, is_complete, read_generation
from storage.output import check_output
from storage.publish import PublishedFile, check_file, read_success
from storage.row_checks import RunRows, count_rows, labeled_again, runs_that_differ, uneven_videos
from storage.run_layout import (
    COMPACTED,
    PREDICTIONS,
    RUNS_TABLE,
    generation_folder,
    is_retrain_row,
    manifest_name,
    plan_name,
    run_row_name,
    success_name,
)
from storage.run_record import read_run_row
from storage.run_store import RunHeader, iter_shards, read_state, run_ids
from storage.uri import base_name

OnProgress = Callable[[int, int], None]
RELATIVE_ROUNDING = 1e-12
"""Two ways to the same average may differ by so much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One broken promise."""

    kind: str
    """``missing_row``, ``unplanned_row``, ``duplicate_row``, ``damaged_file``, ``stray_file``, ``newer_schema``."""
    video_id: str | None
    path: str | None
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """What the folders of runs hold."""

    finished: tuple[RunHeader, ...]
    unreadable: frozenset[str]
    """Runs whose plan or marker cannot be read: what they published is not known."""
    unfinished: frozenset[str]


def verify_output(out: str, on_progress: OnProgress = lambda done, total: None) -> tuple[Problem, ...]:
    """Return all problems found; none means the promise holds. Reads every published byte. Writes nothing.

    Unfinished runs are no problem: nothing was promised of them yet. One damaged run does not hide the others. Memory is
    bounded by the largest file, not by the number of rows.

    Args:
        out: folder or URL.
        on_progress: takes how many runs and generations are checked, and of how many.

    Raises:
        OutputError: the folder holds something else.
        RunError: no run stands there, so that there is nothing to vouch for.
        StorageUnavailable: OUT cannot be read.
    """
    store = open_store(out)
    check_output(store)
    if not store.children():
        raise RunError(store.root, "no run stands here")
    problems: list[Problem] = []
    found = _look_at_runs(store, problems)
    generations = store.children(COMPACTED)
    total = len(found.finished) + len(generations)
    intact: list[RunRows] = []
    known: dict[str, PublishedFile] = {}
    unreadable = set(found.unreadable)
    for done, header in enumerate(found.finished):
        on_progress(done, total)
        try:
            files = read_success(store, header.run_id).files
        except StorageError as error:
            unreadable.add(header.run_id)
            problems.append(_damaged(error))
            continue
        known |= {file.name: file for file in files}
        of_run = list(_verify_run(store, header, files))
        if not any(problem.kind == "damaged_file" for problem in of_run):
            intact.append(RunRows(header=header, names=tuple(dict.fromkeys(file.name for file in files))))
        problems += of_run
    problems += _labeled_again(store, intact)
    for done, name in enumerate(generations, start=len(found.finished)):
        on_progress(done, total)
        problems += _verify_generation(store, name, intact)
    if total:
        on_progress(total, total)
    rows = {run_row_name(header.run_id) for header in found.finished}
    problems += _stray(store, known.keys() | rows, unreadable | found.unfinished)
    return tuple(problems)


def _look_at_runs(store: Store, problems: list[Problem]) -> _Found:
    """Read each run's state for itself, so that one damaged plan is one problem."""
    finished: list[RunHeader] = []
    unreadable: set[str] = set()
    unfinished: set[str] = set()
    for run_id in run_ids(store):
        try:
            state = read_state(store, run_id)
        except NewerSchema as error:
            unreadable.add(run_id)
            problems.append(_problem("newer_schema", plan_name(run_id), error.reason))
        except StorageError as error:
            unreadable.add(run_id)
            problems.append(_damaged(error))
        else:
            if state is not None and state.finished:
                finished.append(state.header)
            elif state is not None:
                unfinished.add(run_id)
            elif store.exists(success_name(run_id)):
                unreadable.add(run_id)
                problems.append(_problem("damaged_file", plan_name(run_id), "the run is finished, but has no plan"))
    finished.sort(key=lambda header: (header.created_at, header.run_id))
    return _Found(finished=tuple(finished), unreadable=frozenset(unreadable), unfinished=frozenset(unfinished))


def _verify_run(store: Store, header: RunHeader, files: Sequence[PublishedFile]) -> Iterator[Problem]:
    try:
        for _ in iter_shards(store, header.run_id):  # each shard's id is compared with its videos
            pass
        for file in files:
            fault = check_file(store, file)
            if fault is not None:
                yield _problem("damaged_file", file.name, fault)
                return
        uneven = list(_compare_with_plan(store, RunRows(header=header, names=tuple(file.name for file in files))))
        yield from uneven
        if not uneven:
            yield from _verify_run_row(store, header, [file.name for file in files])
    except StorageError as error:
        yield _damaged(error)


def _compare_with_plan(store: Store, run: RunRows) -> Iterator[Problem]:
    where = plan_name(run.header.run_id)
    for video in uneven_videos(store, run):
        if not video.rows:
            yield _problem("missing_row", where, "planned, but has no row", video.video_id)
        if not video.planned:
            yield _problem("unplanned_row", where, "has a row, but was not planned", video.video_id)
        if video.rows > 1:
            yield _problem("duplicate_row", where, "has several rows in one run", video.video_id)


def _verify_run_row(store: Store, header: RunHeader, names: Sequence[str]) -> Iterator[Problem]:
    name = run_row_name(header.run_id)
    if not store.exists(name):
        yield _problem("damaged_file", name, "the run's row is missing")
        return
    record = read_run_row(store, header.run_id)
    expected = {"videos_planned": header.videos, **count_rows(store, names)}
    told = {key: getattr(record, key) for key in expected}
    wrong = [f"{key} {told[key]} for {expected[key]}" for key in expected if not _agrees(told[key], expected[key])]
    if wrong:
        yield _problem("damaged_file", name, f"the run's row does not agree with its rows: {', '.join(wrong)}")


def _agrees(told: float | None, expected: float | None) -> bool:
    """Compare a figure of a run's row with its rows; one that an earlier state of this project did not count is null."""
    if told is None:
        return not expected
    return expected is not None and math.isclose(told, expected, rel_tol=RELATIVE_ROUNDING)


def _labeled_again(store: Store, runs: Sequence[RunRows]) -> Iterator[Problem]:
    for video_id, earlier, later in labeled_again(store, runs):
        yield _problem(
            "duplicate_row",
            plan_name(later),
            f"run {earlier} had labeled it with the same models and settings",
            video_id,
        )


def _verify_generation(store: Store, name: str, runs: Sequence[RunRows]) -> Iterator[Problem]:
    """Check a complete generation; what a compaction under way has written yet promises nothing."""
    try:
        generation = read_generation(store, name) if is_complete(store, name) else None
        if generation is None:
            return
        faults = [(file.name, check_file(store, file)) for file in (*generation.files, generation.runs_table)]
    except StorageError as error:
        yield _damaged(error)
        return
    yield from (_problem("damaged_file", path, fault) for path, fault in faults if fault is not None)
    if all(fault is None for _, fault in faults):
        yield from _compare_with_runs(store, generation, runs)
    named = {manifest_name(name), generation.runs_table.name, *(file.name for file in generation.files)}
    for item in store.list(generation_folder(name)):
        if item.name not in named:
            yield _problem("stray_file", item.name, "the generation's manifest does not name it")


def _compare_with_runs(store: Store, generation: Generation, runs: Sequence[RunRows]) -> Iterator[Problem]:
    """Compare the rows with those of the included runs, unless one of these is damaged, which is told already."""
    path = manifest_name(generation.generation)
    included = [run for run in runs if run.header.run_id in set(generation.runs)]
    if len(included) == len(generation.runs):
        published = [name for run in included for name in run.names]
        for run_id in runs_that_differ(store, [file.name for file in generation.files], published):
            yield _problem("damaged_file", path, f"its rows of run {run_id} are not those that the run has published")


def _stray(store: Store, known: set[str], not_known: set[str]) -> Iterator[Problem]:
    """Yield files of the tables that no run has published; those of runs that may have are passed over."""
    for item in (*store.list(PREDICTIONS), *store.list(RUNS_TABLE)):
        name = base_name(item.name)
        run_id = name.rpartition("-")[0] if item.name.startswith(PREDICTIONS) else name.removesuffix(".parquet")
        if item.name not in known and run_id not in not_known and not is_retrain_row(item.name):
            yield _problem("stray_file", item.name, "no run has published it")


def _problem(kind: str, path: str, detail: str, video_id: str | None = None) -> Problem:
    return Problem(kind=kind, video_id=video_id, path=path, detail=detail)


def _damaged(error: StorageError) -> Problem:
    return _problem("damaged_file", error.subject, error.reason)
