"""A finished run with all that a report shows: audits, failures of two kinds, and texts that mean harm."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
from run_builders import (
    COST,
    MODEL_VERSION,
    NOON,
    RUN_DATE,
    context,
    failure,
    header,
    prediction,
    record_of,
    shards_of,
    video,
)

from cdmodel.types import Damage, RankedLabel, VideoOutcome
from storage.filesystem import Store
from storage.parquet import to_bytes
from storage.prediction_schema import PARTITIONS, PUBLISHED_SCHEMA, REPETITIVE_TEXT, outcomes_to_table
from storage.publish import PublishedFile, PublishedRun, finish_run
from storage.run_layout import predictions_name
from storage.run_record import RunRecord
from storage.run_store import create_plan
from tasks.finish_run import add_up, saved_flops_share, saved_seconds_share

HOSTILE = "</script><script>alert('x')</script>\"'&\n\x00\x1b[31m\u202egpj.exe"
"""Markup, quotes, a line break, control characters, and one that turns the order of reading."""
HOSTILE_NAME = "</code><img src=x onerror=alert(1)>.mp4"


def reported_run(
    store: Store, run_id: str = "r1", at: datetime = NOON, videos: int = 12, videos_folder: Path = Path("/videos")
) -> RunRecord:
    """Finish a run of ``videos`` labeled videos, every third audited, half of those with agreement, and two that failed."""
    outcomes: list[VideoOutcome] = [_labeled(number, at, videos_folder) for number in range(videos)]
    outcomes.append(replace(failure(video("fails-hostile"), at), message=HOSTILE, error_kind="decode_error"))
    outcomes.append(replace(failure(replace(video("fails-quietly"), uri=f"/videos/{HOSTILE_NAME}"), at)))
    table = _audited(outcomes_to_table(outcomes, context(run_id, "shard")))
    shards = shards_of([outcome.video for outcome in outcomes])
    run = header(run_id, shards, at=at)
    assert create_plan(store, run, shards, "# settings\n")
    name = predictions_name(run_id, RUN_DATE, MODEL_VERSION, 0)
    data = to_bytes(table.drop_columns(list(PARTITIONS)).cast(PUBLISHED_SCHEMA), REPETITIVE_TEXT)
    store.create(name, data)
    record = _record(run_id, at, outcomes)
    published = PublishedFile(name=name, rows=table.num_rows, bytes=len(data), sha256="")
    finish_run(store, record, PublishedRun(run_id=run_id, rows=table.num_rows, files=(published,)))
    return record


def _labeled(number: int, at: datetime, folder: Path) -> VideoOutcome:
    """Confidence ascends with the number; the first is the least certain, has a hostile label, and lost a part."""
    confidence = 0.4 + 0.05 * min(number, 11)
    damage = Damage(error_kind="decode_error", message="3 damaged packets") if number == 0 else None
    label = HOSTILE if number == 0 else "run"
    of = replace(video(f"v{number:03d}"), uri=str(folder / f"v{number:03d}.mp4"))
    told = prediction(of, damage, at + timedelta(seconds=number))
    ranking = (
        RankedLabel(label_id=1, label=label, probability=confidence),
        RankedLabel(label_id=0, label="sit", probability=1 - confidence),
    )
    return replace(told, top_labels=ranking, decided_by="student" if number % 2 else "both")


def _audited(table: pa.Table) -> pa.Table:
    """Have the dense teacher agree on every other audited video."""
    labeled = [label is not None for label in table.column("label").to_pylist()]
    audited = [is_labeled and number % 3 == 0 for number, is_labeled in enumerate(labeled)]
    answers = [(1 if number % 2 else 0) if is_audited else None for number, is_audited in enumerate(audited)]
    for name, values in (("audited", audited), ("teacher_label_id", answers)):
        place = table.schema.get_field_index(name)
        field = table.schema.field(name)
        table = table.set_column(place, field, pa.array(values, field.type))
    return table


def _record(run_id: str, at: datetime, outcomes: list[VideoOutcome]) -> RunRecord:
    failed = sum(outcome.video.video_id.startswith("fails") for outcome in outcomes)
    labeled = len(outcomes) - failed
    cost = sum([COST] * labeled, start=add_up([]).cost)
    totals = replace(
        add_up([]),
        videos_labeled=labeled - 1,
        videos_partial=1,
        videos_failed=failed,
        clips_planned=3 * labeled,
        clips_student=2 * labeled,
        clips_teacher=labeled,
        cost=cost,
    )
    return replace(
        record_of(run_id, at),
        ended_at=at + timedelta(minutes=5),
        videos_planned=len(outcomes),
        videos_labeled=totals.videos_labeled,
        videos_partial=totals.videos_partial,
        videos_failed=failed,
        clips_planned=totals.clips_planned,
        clips_student=totals.clips_student,
        clips_teacher=totals.clips_teacher,
        saved_flops_share=saved_flops_share(cost),
        saved_seconds_share=saved_seconds_share(totals),
        audit_videos=-(-labeled // 3),
        audit_agreement=0.5,
        audit_agreement_low=0.25,
        audit_agreement_high=0.75,
        cost_usd=1.5,
        **{name: getattr(cost, name) for name in cost.__slots__},
    )
