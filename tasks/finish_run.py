"""Publish a run whose shards are all committed, and write its row in the table of runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

from cdmodel.budget import BudgetSettings, Unit, amount_of
from cdmodel.cost import ComputeCost
from cdmodel.drift import ConfidenceCounts
from cdmodel.stage_clock import StageSeconds
from cdmodel.student_pass import PassReceipt
from cdmodel.types import ShardReceipt
from storage.attempt_log import lost_seconds
from storage.filesystem import open_store
from storage.publish import finish_run, publish_run
from storage.run_record import RunRecord
from storage.run_store import RunHeader, read_header
from storage.student_passes import committed_passes, pass_winners, read_pass_receipts
from tasks.audit_run import AuditFigures, alarms_of, audit_figures, find_bundle
from tasks.lineage import code_commit, installed_versions, lineage_json
from tasks.run_tail import tail_idle_share


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTotals:
    """What the shards of a run add up to."""

    videos_labeled: int
    videos_partial: int
    videos_failed: int
    clips_planned: int
    clips_student: int
    clips_teacher: int
    clips_unfunded: int
    videos_unfunded: int
    cost: ComputeCost
    student_confidence: ConfidenceCounts = ConfidenceCounts()  # noqa: RUF009 - frozen
    teacher_confidence: ConfidenceCounts = ConfidenceCounts()  # noqa: RUF009 - frozen
    """On audited videos."""
    cost_usd: float | None = None
    """None where a shard was labeled without a price table."""
    stages: StageSeconds = StageSeconds()  # noqa: RUF009 - frozen
    tail_idle_share: float | None = None
    """None where no shard was timed."""


def publish_and_record(
    out: str,
    run_id: str,
    *,
    config_json: str,
    code_version: str,
    budget: BudgetSettings | None = None,
) -> RunRecord:
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
    passes = read_pass_receipts(store, run_id, header.fingerprint, committed_passes(store, run_id))
    totals = add_up(published.receipts, passes)
    bundle = find_bundle(header)
    record = summarise(
        header,
        totals,
        retry_cost=lost_seconds(store, run_id, winners | pass_winners(passes)),
        ended_at=datetime.now(UTC),
        config_json=config_json,
        code_version=code_version,
        budget=budget,
        audit=audit_figures(
            published.audited,
            totals.student_confidence,
            totals.teacher_confidence,
            None if bundle is None else bundle.reference,
        ),
        labels=None if bundle is None else bundle.labels,
    )
    lineage = lineage_json(
        header, published.run, winners, out=store.root, versions=installed_versions(), commit=code_commit()
    )
    return finish_run(store, replace(record, alarms=_alarm_names(record), lineage_json=lineage), published.run)


def add_up(receipts: Sequence[ShardReceipt], passes: Sequence[PassReceipt] = ()) -> RunTotals:
    """Sum the receipts of a run; none at all is zero.

    A shard's cost holds that of its student's pass, where that was a stage of its own; its seconds do not.
    """
    return RunTotals(
        videos_labeled=sum(receipt.videos_labeled for receipt in receipts),
        videos_partial=sum(receipt.videos_partial for receipt in receipts),
        videos_failed=sum(receipt.videos_failed for receipt in receipts),
        clips_planned=sum(receipt.clips_planned for receipt in receipts),
        clips_student=sum(receipt.clips_student for receipt in receipts),
        clips_teacher=sum(receipt.clips_teacher for receipt in receipts),
        clips_unfunded=sum(receipt.clips_unfunded for receipt in receipts),
        videos_unfunded=sum(receipt.videos_unfunded for receipt in receipts),
        cost=sum((receipt.cost for receipt in receipts), ComputeCost()),
        student_confidence=sum((receipt.student_confidence for receipt in receipts), ConfidenceCounts()),
        teacher_confidence=sum((receipt.teacher_confidence for receipt in receipts), ConfidenceCounts()),
        cost_usd=_add_prices([receipt.cost_usd for receipt in receipts]),
        stages=sum([*(taken.stages for taken in passes), *(receipt.stages for receipt in receipts)], StageSeconds()),
        tail_idle_share=tail_idle_share(receipts),
    )


def describe_budget(budget: BudgetSettings, totals: RunTotals) -> str:
    """Return each limit and what the run took of it as JSON; of the wall clock only the limit is known here."""

    def spent(unit: Unit) -> float | None:
        match unit:
            case "wall_clock":
                return None
            case "usd":
                return totals.cost_usd
            case _:
                return amount_of(unit, totals.cost)

    return json.dumps({unit: {"limit": limit, "spent": spent(unit)} for unit, limit in budget.limits.items()})


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
    return 1.0 - (cost.decode_cpu_seconds + cost.student_seconds + cost.teacher_seconds) / _dense_seconds(totals)


def _dense_seconds(totals: RunTotals) -> float:
    teacher_seconds_per_clip = totals.cost.teacher_seconds / totals.clips_teacher
    return totals.cost.dense_decode_cpu_seconds + teacher_seconds_per_clip * totals.clips_planned


def summarise(
    header: RunHeader,
    totals: RunTotals,
    *,
    ended_at: datetime,
    config_json: str,
    code_version: str,
    retry_cost: float,
    budget: BudgetSettings | None = None,
    audit: AuditFigures = AuditFigures(),  # noqa: B008 - frozen
    labels: tuple[str, ...] | None = None,
) -> RunRecord:
    """Build the run's row, but for its alarms. Figures that this run did not measure are None."""
    cost, saved_flops, saved_seconds = totals.cost, saved_flops_share(totals.cost), saved_seconds_share(totals)
    limited = budget if budget is not None and budget.is_limited else None
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
        saved_flops_share=saved_flops,
        saved_seconds_share=saved_seconds,
        saved_flops_share_with_audit=(
            None if saved_flops is None else saved_flops - cost.audit_flops / cost.dense_teacher_flops
        ),
        saved_seconds_share_with_audit=(
            None if saved_seconds is None else saved_seconds - cost.audit_seconds / _dense_seconds(totals)
        ),
        retry_cost=retry_cost,
        budget_json=None if limited is None else describe_budget(limited, totals),
        clips_unfunded=None if limited is None else totals.clips_unfunded,
        videos_unfunded=None if limited is None else totals.videos_unfunded,
        cost_usd=totals.cost_usd,
        speed_of_light=totals.stages.speed_of_light,
        slowest_stage=totals.stages.slowest_stage,
        tail_idle_share=totals.tail_idle_share,
        labels=labels,
        **{field.name: getattr(cost, field.name) for field in fields(ComputeCost)},
        **{field.name: getattr(audit, field.name) for field in fields(AuditFigures)},
    )


def _alarm_names(record: RunRecord) -> str | None:
    alarms = alarms_of(record)
    return None if alarms is None else ",".join(alarm.name for alarm in alarms)


def _add_prices(usd: Sequence[float | None]) -> float | None:
    return None if None in usd else sum(part for part in usd if part is not None)
