"""What a report tells of a run: its state, its row, and what its predictions add up to.

Aggregated in SQL over the views, so that a million videos cost little more than a hundred: what leaves DuckDB is a handful of
rows. Knows nothing of pages; pictures are ``tasks.report_thumbnails``'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from cdmodel.types import ClipRecord, VideoRef
from storage.duckdb_tables import damage_named
from storage.filesystem import open_store
from storage.run_record import RunRecord, read_run_row
from storage.run_store import RunHeader, find_run
from storage.views import connect_views
from tasks.read_status import RunStatus, read_status
from tasks.report_costs import split_alarms

if TYPE_CHECKING:
    import duckdb

LABELS_SHOWN = 30
EXAMPLES_PER_KIND = 3
RUNS_SHOWN = 14
CONFIDENCE_BINS = 20
RELIABILITY_BINS = 10
LEAST_RUNNER_UP = 0.005
"""Probability of another label that is worth naming."""
MESSAGE_CHARACTERS = 500
"""Of a message or a name; a driver may quote a whole page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelShare:
    """The videos that got one label."""

    label: str | None
    """None: all labels that are not listed, together."""
    labels: int
    """How many labels these are."""
    videos: int
    videos_escalated: int
    clips: int
    """Planned, so what the teacher on every clip would have scored."""
    clips_teacher: int
    mean_confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfidenceBin:
    """Labeled videos whose confidence lies in [low, high), the last bin closed."""

    low: float
    high: float
    videos_student: int
    """Decided without the teacher."""
    videos_teacher: int
    """Decided with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityBin:
    """Audited videos whose confidence lies in [low, high), the last bin closed."""

    low: float
    high: float
    videos: int
    mean_confidence: float
    agreement: float
    """Share whose label is the dense teacher's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureExample:
    """One of the videos that failed or lost a part."""

    uri: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureKind:
    """Videos that failed, or were labeled in part, for one reason."""

    status: str
    error_kind: str
    videos: int
    examples: tuple[FailureExample, ...]
    """The first by URI."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UncertainVideo:
    """One of the labeled videos with the lowest confidence."""

    video: VideoRef
    label: str
    confidence: float
    runners_up: tuple[tuple[str, float], ...]
    """Other likely labels and their probability, best first."""
    decided_by: str
    status: str
    duration_seconds: float | None
    width: int | None
    height: int | None
    clips: tuple[ClipRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPoint:
    """One run in the history of OUT. None is what a run did not measure."""

    run_id: str
    started_at: datetime
    model_version: str
    videos: int
    videos_failed: int
    saved_flops_share: float | None
    saved_seconds_share: float | None
    agreement: float | None
    agreement_low: float | None
    agreement_high: float | None
    cost_usd: float | None
    alarms: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRows:
    """What the rows of a finished run add up to."""

    labels: tuple[LabelShare, ...]
    """Most frequent first; the rest of them together at the end."""
    confidence: tuple[ConfidenceBin, ...]
    reliability: tuple[ReliabilityBin, ...]
    """Bins with a video only; empty where no video was audited."""
    failures: tuple[FailureKind, ...]
    uncertain: tuple[UncertainVideo, ...]
    """Least certain first."""
    label_names: dict[int, str]
    """Of the labels of ``uncertain``'s clips, by position in the run's bundle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """All that a report tells, but pictures."""

    header: RunHeader
    status: RunStatus
    record: RunRecord | None
    """None where the run is not finished: then only its status is known."""
    rows: RunRows | None
    history: tuple[RunPoint, ...]
    """Finished runs of the same OUT, oldest first, this one last; empty where this one is not finished."""


def gather_report(out: str, run_id: str | None, *, uncertain_videos: int) -> ReportFacts:
    """Return what is known of the run of that name, or of the latest one.

    Raises:
        RunError: there is no such run.
        DamagedObject: a plan, a published file or the run's row was changed.
        NewerSchema: a newer version of this project planned a run.
        StorageUnavailable: OUT cannot be read.
    """
    store = open_store(out)
    run = find_run(store, run_id)
    status = read_status(out, run.header.run_id)
    if not run.finished or not status.finished:
        return ReportFacts(header=run.header, status=status, record=None, rows=None, history=())
    record = read_run_row(store, run.header.run_id)
    with connect_views(store) as connection, damage_named(store):
        return ReportFacts(
            header=run.header,
            status=status,
            record=record,
            rows=summarise_rows(connection, record.run_id, uncertain_videos),
            history=_history(connection, record.started_at),
        )


def summarise_rows(connection: duckdb.DuckDBPyConnection, run_id: str, uncertain_videos: int) -> RunRows:
    """Return what the rows of a run add up to, given the views of ``storage.views``."""
    name = run_id.replace("'", "''")
    connection.execute(f"create temp view run_rows as select * from predictions where run_id = '{name}'")
    uncertain = _uncertain(connection, uncertain_videos)
    return RunRows(
        labels=_labels(connection),
        confidence=_confidence(connection),
        reliability=_reliability(connection),
        failures=_failures(connection),
        uncertain=uncertain,
        label_names=_label_names(connection, uncertain),
    )


def _labels(connection: duckdb.DuckDBPyConnection) -> tuple[LabelShare, ...]:
    rows = connection.execute(
        """
        with by_label as (
            select label, count(*) as videos, count(*) filter (escalated) as videos_escalated,
                   sum(clips_planned) as clips, sum(clips_teacher) as clips_teacher, sum(confidence) as confidence
            from run_rows where label is not null group by label
        ), ranked as (
            select *, row_number() over (order by videos desc, label) > $shown as is_rest from by_label
        )
        select if(is_rest, null, label) as shown, count(*), sum(videos), sum(videos_escalated), sum(clips),
               sum(clips_teacher), sum(confidence) / sum(videos)
        from ranked group by shown, is_rest order by is_rest, sum(videos) desc, shown
        """,
        {"shown": LABELS_SHOWN},
    ).fetchall()
    return tuple(
        LabelShare(
            label=label,
            labels=labels,
            videos=int(videos),
            videos_escalated=int(escalated),
            clips=int(clips),
            clips_teacher=int(clips_teacher),
            mean_confidence=mean_confidence,
        )
        for label, labels, videos, escalated, clips, clips_teacher, mean_confidence in rows
    )


def _confidence(connection: duckdb.DuckDBPyConnection) -> tuple[ConfidenceBin, ...]:
    rows = connection.execute(
        f"""
        select least(floor(confidence * {CONFIDENCE_BINS})::int, {CONFIDENCE_BINS - 1}) as bin,
               count(*) filter (decided_by = 'student'), count(*) filter (decided_by <> 'student')
        from run_rows where confidence is not null group by bin
        """
    ).fetchall()
    counts = {number: (student, teacher) for number, student, teacher in rows}
    return tuple(
        ConfidenceBin(
            low=number / CONFIDENCE_BINS,
            high=(number + 1) / CONFIDENCE_BINS,
            videos_student=counts.get(number, (0, 0))[0],
            videos_teacher=counts.get(number, (0, 0))[1],
        )
        for number in range(CONFIDENCE_BINS)
    )


def _reliability(connection: duckdb.DuckDBPyConnection) -> tuple[ReliabilityBin, ...]:
    rows = connection.execute(
        f"""
        select least(floor(confidence * {RELIABILITY_BINS})::int, {RELIABILITY_BINS - 1}) as bin, count(*),
               avg(confidence), avg((label_id = teacher_label_id)::int)
        from run_rows where audited and confidence is not null and teacher_label_id is not null group by bin order by bin
        """
    ).fetchall()
    return tuple(
        ReliabilityBin(
            low=number / RELIABILITY_BINS,
            high=(number + 1) / RELIABILITY_BINS,
            videos=videos,
            mean_confidence=mean_confidence,
            agreement=agreement,
        )
        for number, videos, mean_confidence, agreement in rows
    )


def _failures(connection: duckdb.DuckDBPyConnection) -> tuple[FailureKind, ...]:
    rows = connection.execute(
        f"""
        select status, error_kind, count(*) as videos,
               min_by({{'uri': left(uri, {MESSAGE_CHARACTERS}),
                        'message': left(coalesce(error_message, ''), {MESSAGE_CHARACTERS})}}, uri, {EXAMPLES_PER_KIND})
        from run_rows where error_kind is not null group by status, error_kind order by status, videos desc, error_kind
        """
    ).fetchall()
    return tuple(
        FailureKind(
            status=status,
            error_kind=kind,
            videos=videos,
            examples=tuple(FailureExample(**example) for example in examples),
        )
        for status, kind, videos, examples in rows
    )


def _uncertain(connection: duckdb.DuckDBPyConnection, videos: int) -> tuple[UncertainVideo, ...]:
    # Two steps: the clips of a million videos need not be read to find the few that are shown.
    least = connection.execute(
        "select video_id from run_rows where confidence is not null order by confidence, video_id limit $videos",
        {"videos": videos},
    ).fetchall()
    if not least:
        return ()
    answer = connection.execute(
        """
        select video_id, uri, video_version, size_bytes, label, confidence, top_labels, decided_by, status,
               duration_seconds, width, height, clips
        from run_rows where video_id in (select unnest($video_ids)) order by confidence, video_id
        """,
        {"video_ids": [video_id for (video_id,) in least]},
    )
    columns = [column[0] for column in answer.description]
    return tuple(_uncertain_video(dict(zip(columns, row, strict=True))) for row in answer.fetchall())


def _uncertain_video(row: dict[str, Any]) -> UncertainVideo:
    names = [field.name for field in fields(ClipRecord)]
    return UncertainVideo(
        video=VideoRef(**{name: row[name] for name in ("video_id", "uri", "video_version", "size_bytes")}),
        label=row["label"],
        confidence=row["confidence"],
        runners_up=tuple(
            (top["label"], top["probability"])
            for top in (row["top_labels"] or [])[1:3]
            if top["probability"] >= LEAST_RUNNER_UP
        ),
        decided_by=row["decided_by"],
        status=row["status"],
        duration_seconds=row["duration_seconds"],
        width=row["width"],
        height=row["height"],
        clips=tuple(ClipRecord(**{name: clip[name] for name in names}) for clip in row["clips"] or []),
    )


def _label_names(connection: duckdb.DuckDBPyConnection, videos: Sequence[UncertainVideo]) -> dict[int, str]:
    clips = [clip for video in videos for clip in video.clips]
    wanted = {number for clip in clips for number in (clip.student_label_id, clip.teacher_label_id)} - {None}
    if not wanted:
        return {}
    rows = connection.execute(
        """
        select label_id, label from labels
        where model_version in (select distinct model_version from run_rows) and label_id in (select unnest($wanted))
        """,
        {"wanted": sorted(number for number in wanted if number is not None)},
    ).fetchall()
    return dict(rows)


def _history(connection: duckdb.DuckDBPyConnection, until: datetime) -> tuple[RunPoint, ...]:
    answer = connection.execute(
        "select * exclude (config_json) from runs where flow = 'label' and started_at <= $until "
        "order by started_at desc, run_id limit $runs",
        {"until": until, "runs": RUNS_SHOWN},
    )
    columns = [column[0] for column in answer.description]
    rows = [dict(zip(columns, row, strict=True)) for row in answer.fetchall()]
    return tuple(_point(row) for row in reversed(rows))


def _point(row: dict[str, Any]) -> RunPoint:
    return RunPoint(
        run_id=row["run_id"],
        started_at=row["started_at"],
        model_version=row["model_version"],
        videos=row["videos_planned"],
        videos_failed=row["videos_failed"],
        saved_flops_share=row["saved_flops_share"],
        saved_seconds_share=row["saved_seconds_share"],
        agreement=row["audit_agreement"],
        agreement_low=row["audit_agreement_low"],
        agreement_high=row["audit_agreement_high"],
        cost_usd=row["cost_usd"],
        alarms=split_alarms(row.get("alarms")),
    )
