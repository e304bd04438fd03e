"""Which videos are done: the difference between what was found and what has a terminal row.

Reads published rows of the same fingerprint, and the plans of runs that are not finished. Identity is the video's id and
version; a changed video is a new one. What may be a million rows stays in Arrow; only failed ones become objects.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc

from cdmodel.failure_policy import FailurePolicy, PastFailure, is_worth_another_attempt
from cdmodel.types import VideoRef
from storage.filesystem import Store
from storage.lookahead import map_ahead
from storage.parquet import open_parquet, reading_rows
from storage.prediction_schema import PREDICTION_SCHEMA, as_schema
from storage.publish import read_success
from storage.run_layout import plan_name
from storage.run_store import RunState

_KEYS = ["video_id", "video_version"]
_PAST = [*_KEYS, "status", "error_kind", "decoder", "labeled_at", "clips_unfunded"]
_LATEST = ["video_id", "uri", "status", "error_kind", "labeled_at", "source_group"]
FILES_AHEAD = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLeft:
    """What is to be labeled of the videos that were found."""

    videos: tuple[VideoRef, ...]
    """In the order they were found."""
    tried_again: frozenset[str]
    """Ids of those among them that failed before."""
    quarantined: int
    """How many others failed before and are left alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedVideo:
    """A video whose latest row is a failure."""

    video_id: str
    uri: str
    error_kind: str
    group: str | None = None
    """As the corpus named it when the row was written."""


def work_left(
    store: Store,
    videos: Sequence[VideoRef],
    runs: Sequence[RunState],
    fingerprint: str,
    policy: FailurePolicy,
    decoder: str,
    *,
    carry_over: bool = False,
) -> WorkLeft:
    """Return the videos that no finished run of this fingerprint has a terminal row for.

    ``labeled`` is terminal, and so is ``partial`` unless what was lost may be had by trying again; what failed is tried
    again as ``policy`` says. ``decoder`` is the one of today. With ``carry_over`` a row some of whose clips did not fit a
    budget is not terminal, unless a later one has all.
    """
    names = _published(store, (run for run in runs if run.header.fingerprint == fingerprint))
    if not names:
        return WorkLeft(videos=tuple(videos), tried_again=frozenset(), quarantined=0)
    terminal, failures = _split(store, names, policy, carry_over=carry_over)
    left = _to_table(videos).join(terminal, keys=_KEYS, join_type="left anti")
    worth_it = {
        position: is_worth_another_attempt(past, decoder, policy)
        for position, past in _by_position(failures.join(left, keys=_KEYS, join_type="inner"))
    }
    kept = [position for position in sorted(left.column("position").to_pylist()) if worth_it.get(position, True)]
    return WorkLeft(
        videos=tuple(videos[position] for position in kept),
        tried_again=frozenset(videos[position].video_id for position, again in worth_it.items() if again),
        quarantined=sum(not again for again in worth_it.values()),
    )


def failed_videos(
    store: Store, runs: Sequence[RunState], of: RunState, fingerprint: str, kinds: Sequence[str]
) -> list[FailedVideo]:
    """Return the videos of a run's source whose latest row is a failure of one of these kinds, ascending by id.

    Latest of all rows under the run's fingerprint and under ``fingerprint``, the one they would get now. No kinds means
    all, of failed rows; a partial row counts where its kind is named.
    """
    same_work = [run for run in runs if run.header.fingerprint in (of.header.fingerprint, fingerprint)]
    same_source = [run for run in same_work if run.header.source == of.header.source]
    latest: dict[str, dict[str, object]] = {}
    suspects = pa.concat_arrays(
        [
            rows.filter(_failed_as(rows, kinds)).column("video_id").combine_chunks()
            for rows in _read(store, _published(store, same_source), _LATEST)
        ]
        or [pa.array([], pa.string())]
    )
    for rows in _read(store, _published(store, same_work), _LATEST):
        of_suspects = rows.filter(pc.is_in(rows.column("video_id"), suspects))
        failed = _failed_as(of_suspects, kinds)
        for row in of_suspects.append_column("failed", failed).to_pylist():
            known = latest.setdefault(row["video_id"], row)
            if row["labeled_at"] >= known["labeled_at"]:
                latest[row["video_id"]] = row
    return [
        FailedVideo(
            video_id=video_id,
            uri=str(row["uri"]),
            error_kind=str(row["error_kind"]),
            group=None if row["source_group"] is None else str(row["source_group"]),
        )
        for video_id, row in sorted(latest.items())
        if row["failed"]
    ]


def planned_elsewhere(store: Store, runs: Sequence[RunState], fingerprint: str) -> dict[str, str]:
    """Return, for each video of an unfinished run of this fingerprint, that run's id: it is that run's to label."""
    owners: dict[str, str] = {}
    for run in runs:
        if not run.finished and run.header.fingerprint == fingerprint:
            owners.update(dict.fromkeys(_planned_ids(store, run.header.run_id).to_pylist(), run.header.run_id))
    return owners


def share_videos(store: Store, run_id: str, other_id: str) -> bool:
    """Tell whether two runs have planned the same video, in whatever version."""
    shared = pc.is_in(_planned_ids(store, run_id), _planned_ids(store, other_id))
    return bool(pc.any(shared).as_py())


def _published(store: Store, runs: Iterable[RunState]) -> list[str]:
    return [file.name for run in runs if run.finished for file in read_success(store, run.header.run_id).files]


def _split(store: Store, names: Sequence[str], policy: FailurePolicy, *, carry_over: bool) -> tuple[pa.Table, pa.Table]:
    """Return the keys of terminal rows, and the rows of failures."""
    terminal, failures = [], []
    for rows in _read(store, names, _PAST):
        is_failure = _failed_as(rows, (), partial_kinds=policy.retry_kinds)
        is_terminal = pc.invert(is_failure)
        if carry_over:
            is_unfunded = pc.greater(pc.fill_null(rows.column("clips_unfunded"), 0), 0)
            is_terminal = pc.and_(is_terminal, pc.invert(is_unfunded))
        terminal.append(rows.select(_KEYS).filter(is_terminal))
        failures.append(rows.drop_columns(["status", "clips_unfunded"]).filter(is_failure))
    return pa.concat_tables(terminal), pa.concat_tables(failures)


def _failed_as(rows: pa.Table, kinds: Sequence[str], partial_kinds: Sequence[str] | None = None) -> pa.ChunkedArray:
    """Tell for each row whether it failed as one of ``kinds`` (none means all), or lost a part as one of the others."""
    status, kind = rows.column("status"), rows.column("error_kind")
    failed = pc.equal(status, "failed")
    if kinds:
        failed = pc.and_(failed, _is_one_of(kind, kinds))
    lost_a_part = pc.and_(
        pc.equal(status, "partial"), _is_one_of(kind, kinds if partial_kinds is None else partial_kinds)
    )
    return pc.or_(failed, lost_a_part)


def _is_one_of(values: pa.ChunkedArray, wanted: Sequence[str]) -> pa.ChunkedArray:
    return pc.is_in(values, pa.array(list(wanted), pa.string()))


def _by_position(failures: pa.Table) -> Iterable[tuple[int, list[PastFailure]]]:
    """Group the failures of each video by its place in the listing."""
    by_position: dict[int, list[PastFailure]] = defaultdict(list)
    for row in failures.select(["position", "error_kind", "decoder", "labeled_at"]).to_pylist():
        past = PastFailure(error_kind=row["error_kind"], decoder=row["decoder"], failed_at=row["labeled_at"])
        by_position[row["position"]].append(past)
    return by_position.items()


def _to_table(videos: Sequence[VideoRef]) -> pa.Table:
    return pa.table(
        {
            "video_id": pa.array([video.video_id for video in videos], pa.string()),
            "video_version": pa.array([video.video_version for video in videos], pa.string()),
            "position": pa.array(range(len(videos)), pa.int64()),
        }
    )


def _planned_ids(store: Store, run_id: str) -> pa.ChunkedArray:
    name = plan_name(run_id)
    with reading_rows(store, name), open_parquet(store, name) as plan:
        return plan.read(columns=["video_id"]).column("video_id")


def _read(store: Store, names: Sequence[str], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns of published files; column-pruned, so that a large table costs little."""
    return map_ahead(partial(_read_one, store, columns), names, FILES_AHEAD)


def _read_one(store: Store, columns: Sequence[str], name: str) -> pa.Table:
    with reading_rows(store, name), open_parquet(store, name) as file:
        rows = file.read(columns=[name for name in columns if name in file.schema_arrow.names])
        return as_schema(rows, pa.schema([PREDICTION_SCHEMA.field(name) for name in columns]))
