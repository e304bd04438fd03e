"""Counts and comparisons over whole tables, in DuckDB: memory is bounded however many rows there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from storage.duckdb_tables import connect_for_large_work, create_table_view, read_files
from storage.filesystem import Store
from storage.prediction_schema import PREDICTION_SCHEMA, PUBLISHED_SCHEMA
from storage.run_layout import plan_name
from storage.run_store import RunHeader

COUNTED = {
    "videos_labeled": "count_if(status = 'labeled')",
    "videos_partial": "count_if(status = 'partial')",
    "videos_failed": "count_if(status = 'failed')",
    "clips_planned": "coalesce(sum(clips_planned), 0)::bigint",
    "clips_student": "coalesce(sum(clips_student), 0)::bigint",
    "clips_teacher": "coalesce(sum(clips_teacher), 0)::bigint",
    "audit_videos": "count_if(audited)",
    "audit_agreement": "avg((label_id = teacher_label_id)::int) filter (audited)",
}
"""Columns of a run's row that follow from its rows of predictions, and how; an average of no rows is null."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnevenVideo:
    """A video that a run did not plan once and answer once."""

    video_id: str
    planned: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRows:
    """A finished run and the files of its rows."""

    header: RunHeader
    names: tuple[str, ...]


def uneven_videos(store: Store, run: RunRows) -> list[UnevenVideo]:
    """Return the videos of a run that have no row, several rows, or a row without a plan; ascending by id."""
    rows = f"union all select video_id, 0, 1 from {read_files(store, run.names)}" if run.names else ""
    with connect_for_large_work(store) as connection:
        found = connection.execute(
            f"""select video_id, sum(planned)::bigint, sum(answered)::bigint
            from (select video_id, 1 as planned, 0 as answered from {read_files(store, [plan_name(run.header.run_id)])} {rows})
            group by video_id having sum(planned) <> 1 or sum(answered) <> 1 order by video_id"""
        ).fetchall()
    return [UnevenVideo(video_id=video_id, planned=planned, rows=rows) for video_id, planned, rows in found]


def count_rows(store: Store, names: Sequence[str]) -> dict[str, int | float | None]:
    """Return what a run's rows add up to, by the names of ``COUNTED``."""
    with connect_for_large_work(store) as connection:
        create_table_view(connection, store, "rows_of_run", names, PUBLISHED_SCHEMA)
        counts = connection.execute(f"select {', '.join(COUNTED.values())} from rows_of_run").fetchone()
    return dict(zip(COUNTED, counts or (), strict=True))


def labeled_again(store: Store, runs: Sequence[RunRows]) -> list[tuple[str, str, str]]:
    """Return video, earlier and later run wherever a labeled video of the same fingerprint was answered once more.

    What failed or was partial may have been tried again, and a run with ``relabel`` or ``carry_over`` was asked to.
    ``runs`` are finished; their order is that of their planning.
    """
    names = [name for run in runs for name in run.names]
    if len(runs) < 2 or not names:
        return []
    with connect_for_large_work(store) as connection:
        connection.register("runs", _ordered(runs))
        # Keys that occur once, nearly all of them, are told by a hash of eight bytes; only the others are looked at.
        return connection.execute(
            f"""with rows as (
                select video_id, video_version, fingerprint, run_id, status,
                    hash(video_id, video_version, fingerprint) as key from {read_files(store, names)}),
            repeated as (select key from rows group by key having count(*) > 1),
            in_order as (
                select video_id, run_id, status, relabel,
                    lag(status) over history as status_before, lag(run_id) over history as run_before
                from rows join runs using (run_id) where key in (from repeated)
                window history as (partition by video_id, video_version, fingerprint order by position))
            select video_id, run_before, run_id from in_order
            where status_before = 'labeled' and status <> 'failed' and not relabel and run_before <> run_id
            order by video_id, run_id"""
        ).fetchall()


def runs_that_differ(store: Store, compacted: Sequence[str], published: Sequence[str]) -> list[str]:
    """Return the runs whose rows in ``compacted`` are not, all and exactly, those in ``published``."""
    with connect_for_large_work(store) as connection:
        for view, names in (("compacted", compacted), ("published", published)):
            create_table_view(connection, store, view, names, PREDICTION_SCHEMA)
            connection.execute(
                f"create view {view}_sums as "
                f"select run_id, count(*) as rows, sum(hash({view})::hugeint) as content from {view} group by run_id"
            )
        found = connection.execute(
            """select coalesce(c.run_id, p.run_id) as run_id from compacted_sums c full join published_sums p
            on c.run_id = p.run_id and c.rows = p.rows and c.content = p.content
            where c.run_id is null or p.run_id is null group by 1 order by 1"""
        ).fetchall()
    return [run_id for (run_id,) in found]


def _ordered(runs: Sequence[RunRows]) -> pa.Table:
    ordered = sorted((run.header for run in runs), key=lambda header: (header.created_at, header.run_id))
    return pa.table(
        {
            "run_id": [header.run_id for header in ordered],
            "relabel": [header.relabel or header.carry_over for header in ordered],
            "position": list(range(len(ordered))),
        }
    )
