"""Publish a run whose shards are all committed, and write its row in the table of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime

from cdmodel.cost import ComputeCost
from cdmodel.types import ShardReceipt
from storage.attempt_log import lost_seconds
from storage.filesystem import open_store
from storage.publish import finish_run, publish_run
from storage.run_record import RunRecord
from storage.run_store import RunHeader, read_header


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """What the shards of a run add up to."""

    videos_labeled: int
    videos_partial: int
    videos_failed: int
    clips_planned: int
    clips_student: int
    clips_teacher: int
    cost: ComputeCost
    cost_usd: float | None = None
    """None where a shard was labeled without a price table."""


def publish_and_record(out: str, run_id: str, *, config_json: str, code_version: str) -> RunRecord:
    """Merge the shards into the published table, then write the run's row and its success marker.

    Safe to repeat after a crash at any point: every name is deterministic and every object is created only once.

    Raises:
        RunError: a shard is missing; run the same command again.
        DamagedObject: a shard's object was changed after it was written.
    """
    store = open_store(out)
    published = publish_run(store, run_id)
    header = read_header(store, run_id)
    winners = {receipt.shard_id: receipt.attempt_id for receipt in published.receipts}
    record = summarise(
        header,
        add_up(published.receipts),
        retry_cost=lost_seconds(store, run_id, winners),
        ended_at=datetime.now(UTC),
        config_json=config_json,
        code_version=code_version,
    )
    return finish_run(store, record, published.run)


def add_up(receipts: Sequence[ShardReceipt]) -> RunTotals:
    """Sum the receipts of a run; none at all is zero."""
    return RunTotals(
        videos_labeled=sum(receipt.videos_labeled for receipt in receipts),
        videos_partial=sum(receipt.videos_partial for receipt in receipts),
        videos_failed=sum(receipt.videos_failed for receipt in receipts),
        clips_planned=sum(receipt.clips_planned for receipt in receipts),
        clips_student=sum(receipt.clips_student for receipt in receipts),
        clips_teacher=sum(receipt.clips_teacher for receipt in receipts),
        cost=sum((receipt.cost for receipt in receipts), ComputeCost()),
        cost_usd=_add_prices([receipt.cost_usd for receipt in receipts]),
    )


def saved_flops_share(cost: ComputeCost) -> float | None:
    """Return the share of the dense teacher's FLOPs that was not spent; None where there was nothing to spend."""
    if not cost.dense_teacher_flops:
        return None
    return 1.0 - (cost.student_flops + cost.teacher_flops) / cost.dense_teacher_flops


def saved_seconds_share(totals: RunTotals) -> float | None:
    """Return the share of the dense teacher's seconds that was not spent, decoding included on both sides.

    The dense teacher would have decoded once and scored every planned clip at the pace measured on the escalated ones.
    None where the teacher scored nothing, since its pace was then not measured.
    """
    if not totals.clips_teacher:
        return None
    cost = totals.cost
    teacher_seconds_per_clip = cost.teacher_seconds / totals.clips_teacher
    dense_seconds = cost.dense_decode_cpu_seconds + teacher_seconds_per_clip * totals.clips_planned
    return 1.0 - (cost.decode_cpu_seconds + cost.student_seconds + cost.teacher_seconds) / dense_seconds


def summarise(
    header: RunHeader,
    totals: RunTotals,
    *,
    ended_at: datetime,
    config_json: str,
    code_version: str,
    retry_cost: float,
) -> RunRecord:
    """Build the run's row. Figures that this run did not measure are None."""
    return RunRecord(
        run_id=header.run_id,
        flow="label",
        status="completed",
        started_at=header.created_at,
        ended_at=ended_at,
        source=header.source,
        corpus=header.corpus,
        model_version=header.model_version,
        fingerprint=header.fingerprint,
        config_json=config_json,
        code_version=code_version,
        videos_planned=header.videos,
        videos_labeled=totals.videos_labeled,
        videos_partial=totals.videos_partial,
        videos_failed=totals.videos_failed,
        videos_skipped=header.videos_skipped,
        videos_quarantined=header.videos_quarantined,
        create_only_honoured=header.create_only_honoured,
        clips_planned=totals.clips_planned,
        clips_student=totals.clips_student,
        clips_teacher=totals.clips_teacher,
        saved_flops_share=saved_flops_share(totals.cost),
        saved_seconds_share=saved_seconds_share(totals),
        retry_cost=retry_cost,
        cost_usd=totals.cost_usd,
        **{field.name: getattr(totals.cost, field.name) for field in fields(ComputeCost)},
    )


def _add_prices(usd: Sequence[float | None]) -> float | None:
    return None if None in usd else sum(part for part in usd if part is not None)
