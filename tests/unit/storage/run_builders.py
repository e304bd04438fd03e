"""Small runs, built the way the flow builds them, with invented rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, date, datetime
from typing import Any

from cdmodel.cost import ComputeCost, PriceTable
from cdmodel.types import (
    ClipRecord,
    Damage,
    RankedLabel,
    Shard,
    ShardReceipt,
    VideoFacts,
    VideoFailure,
    VideoOutcome,
    VideoPrediction,
    VideoRef,
)
from storage.filesystem import Store
from storage.prediction_schema import SCHEMA_VERSION, RowContext
from storage.publish import PublishedRun, finish_run, publish_run
from storage.run_record import RunRecord
from storage.run_store import RunHeader, commit_shard, create_plan, make_shard
from tasks.finish_run import add_up

FINGERPRINT = "f0f0f0f0f0f0f0f0"
RUN_DATE = date(2026, 11, 23)
NOON = datetime(2026, 11, 23, 12, 0, 0, 250_000, tzinfo=UTC)
MODEL_VERSION = "m-0123456789ab"
COST = ComputeCost(
    frames_decoded=100,
    frames_used=40,
    frames_corrupt=1,
    packets_read=60,
    packets_damaged=1,
    bytes_read=5000,
    read_requests=7,
    student_flops=10**9,
    teacher_flops=10**10,
    dense_teacher_flops=10**11,
    decode_cpu_seconds=0.5,
    dense_decode_cpu_seconds=0.25,
    student_seconds=0.125,
    teacher_seconds=1.0,
    gpu_seconds=0.0,
    wall_seconds=2.0,
)
FACTS = VideoFacts(duration_seconds=2.5, fps=25.0, width=320, height=240, codec="h264")


def video(video_id: str, version: str = "10-1", size_bytes: int | None = 10) -> VideoRef:
    return VideoRef(video_id=video_id, uri=f"/videos/{video_id}.mp4", video_version=version, size_bytes=size_bytes)


def prediction(of: VideoRef, damage: Damage | None = None, at: datetime = NOON) -> VideoPrediction:
    student = ClipRecord(
        clip_index=0,
        start_seconds=0.0,
        end_seconds=1.0,
        scored_by="student",
        student_label_id=1,
        student_confidence=0.75,
        q_teacher=0.5,
        q_student=0.875,
        teacher_label_id=None,
        teacher_confidence=None,
        weight=0.25,
    )
    teacher = ClipRecord(
        clip_index=1,
        start_seconds=1.0,
        end_seconds=2.0,
        scored_by="teacher",
        student_label_id=0,
        student_confidence=0.5,
        q_teacher=0.75,
        q_student=0.25,
        teacher_label_id=1,
        teacher_confidence=0.875,
        weight=0.75,
    )
    return VideoPrediction(
        video=of,
        facts=FACTS,
        coverage=1.0 if damage is None else 0.5,
        damage=damage,
        top_labels=(
            RankedLabel(label_id=1, label="run", probability=0.75),
            RankedLabel(label_id=0, label="sit", probability=0.25),
        ),
        decided_by="both",
        student_label_id=1,
        student_confidence=0.625,
        clips=(student, teacher),
        clips_planned=3,
        cost=COST,
        device="cpu",
        decoder="pyav-1",
        labeled_at=at,
    )


def failure(of: VideoRef, at: datetime = NOON) -> VideoFailure:
    return VideoFailure(
        video=of,
        error_kind="not_found",
        message="does not exist",
        facts=None,
        cost=ComputeCost(wall_seconds=0.5),
        device="cpu",
        decoder="pyav-1",
        labeled_at=at,
    )


def outcomes_of(shard: Shard, at: datetime = NOON) -> list[VideoOutcome]:
    """Label every video but those whose id says that they fail."""
    return [failure(of, at) if "fails" in of.video_id else prediction(of, at=at) for of in shard.videos]


def context(
    run_id: str,
    shard_id: str,
    *,
    attempt_id: str = "attempt-1",
    fingerprint: str = FINGERPRINT,
    prices: PriceTable | None = None,
) -> RowContext:
    return RowContext(
        run_id=run_id,
        shard_id=shard_id,
        attempt_id=attempt_id,
        corpus="films",
        model_version=MODEL_VERSION,
        run_date=RUN_DATE,
        fingerprint=fingerprint,
        prices=prices,
    )


def shards_of(*members: Sequence[VideoRef], fingerprint: str = FINGERPRINT) -> tuple[Shard, ...]:
    return tuple(make_shard(videos, fingerprint) for videos in members)


def header(run_id: str, shards: Sequence[Shard], *, at: datetime = NOON, fingerprint: str = FINGERPRINT) -> RunHeader:
    return RunHeader(
        run_id=run_id,
        fingerprint=fingerprint,
        model_version=MODEL_VERSION,
        bundle_uri=None,
        source="/videos",
        corpus="films",
        run_date=RUN_DATE,
        created_at=at,
        videos=sum(len(shard.videos) for shard in shards),
        shards=len(shards),
        bytes=sum(of.size_bytes or 0 for shard in shards for of in shard.videos),
        videos_skipped=0,
        schema_version=SCHEMA_VERSION,
    )


def plan_run(
    store: Store, run_id: str, shards: Sequence[Shard], *, at: datetime = NOON, fingerprint: str = FINGERPRINT
) -> None:
    assert create_plan(store, header(run_id, shards, at=at, fingerprint=fingerprint), shards, "# settings\n")


def commit(
    store: Store, run_id: str, shard: Shard, *, at: datetime = NOON, fingerprint: str = FINGERPRINT
) -> ShardReceipt:
    return commit_shard(store, outcomes_of(shard, at), context(run_id, shard.shard_id, fingerprint=fingerprint), at)


def record_of(run_id: str, at: datetime = NOON) -> RunRecord:
    zeros: dict[str, Any] = {field.name: 0 for field in fields(RunRecord) if field.type == "int"}
    seconds: dict[str, Any] = {field.name: 0.0 for field in fields(RunRecord) if field.type == "float"}
    return RunRecord(
        run_id=run_id,
        flow="label",
        status="completed",
        started_at=at,
        ended_at=at,
        source="/videos",
        corpus="films",
        model_version=MODEL_VERSION,
        fingerprint=FINGERPRINT,
        config_json="{}",
        code_version="0",
        **zeros,
        **seconds,
    )


def publish_and_finish(store: Store, run_id: str, at: datetime = NOON) -> PublishedRun:
    publication = publish_run(store, run_id)
    published, counts = publication.run, add_up(publication.receipts)
    record = replace(
        record_of(run_id, at),
        videos_planned=published.rows,
        videos_labeled=counts.videos_labeled,
        videos_partial=counts.videos_partial,
        videos_failed=counts.videos_failed,
        clips_planned=counts.clips_planned,
        clips_student=counts.clips_student,
        clips_teacher=counts.clips_teacher,
    )
    finish_run(store, record, published)
    return published


def finished_run(
    store: Store, run_id: str, *members: Sequence[VideoRef], at: datetime = NOON, fingerprint: str = FINGERPRINT
) -> PublishedRun:
    shards = shards_of(*members, fingerprint=fingerprint)
    plan_run(store, run_id, shards, at=at, fingerprint=fingerprint)
    for shard in shards:
        commit(store, run_id, shard, at=at, fingerprint=fingerprint)
    return publish_and_finish(store, run_id, at)
