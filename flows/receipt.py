"""The savings receipt: what a run labeled, what it cost, and what the teacher on every clip would have cost.

Text only; the figures are those of the run's row in ``runs_table``.
"""

from __future__ import annotations

from cdmodel.alarms import Alarm
from storage.run_record import RunRecord
from tasks.audit_run import alarms_of, watched
from tasks.report_costs import budget_facts

FLOPS_PER_GFLOP = 1e9
BYTES_PER_MB = 1e6


def savings_receipt(record: RunRecord) -> str:
    """Return the receipt as a Markdown table, readable as plain text too."""
    lines = [("", f"run {record.run_id}"), *_counts(record), *_costs(record), *_budget(record), *_savings(record)]
    lines += _audit(record)
    width = max(len(name) for name, _ in lines)
    head, *body = (f"| {name:<{width}} | {value} |" for name, value in lines)
    return "\n".join([head, f"|{'-' * (width + 2)}|---|", *body])


def _counts(record: RunRecord) -> list[tuple[str, str]]:
    counts = f"{record.videos_labeled} labeled, {record.videos_partial} partial, {record.videos_failed} failed"
    escalated = record.clips_teacher / max(record.clips_planned, 1)
    return [
        ("videos", f"{record.videos_planned}: {counts}; {record.videos_skipped} skipped as done before"),
        ("clips", f"{record.clips_planned}, of which {record.clips_teacher} ({escalated:.1%}) went to the teacher"),
    ]


def _costs(record: RunRecord) -> list[tuple[str, str]]:
    spent_gflops = (record.student_flops + record.teacher_flops) / FLOPS_PER_GFLOP
    seconds = (
        f"decode {record.decode_cpu_seconds:.1f} s, student {record.student_seconds:.1f} s, "
        f"teacher {record.teacher_seconds:.1f} s"
    )
    rows = [
        ("spent", f"{spent_gflops:,.1f} GFLOPs"),
        ("teacher on every clip", f"{record.dense_teacher_flops / FLOPS_PER_GFLOP:,.1f} GFLOPs"),
        ("time", seconds),
        ("read", f"{record.bytes_read / BYTES_PER_MB:,.1f} MB in {record.read_requests:,} requests"),
    ]
    if record.speed_of_light is not None:
        share = f"{record.speed_of_light:.0%} of what the busiest part allows; slowest stage: {record.slowest_stage}"
        rows.append(("speed of light", f"{share}, see docs/throughput.md"))
    if record.tail_idle_share is not None:
        rows.append(
            ("end of the run", f"workers idled {record.tail_idle_share:.1%} of their time, waiting for the last")
        )
    if record.retry_cost:
        rows.append(("lost to workers that died", f"{record.retry_cost:.1f} s of their time"))
    return rows if record.cost_usd is None else [*rows, ("price", f"{record.cost_usd:.4f} USD")]


def _budget(record: RunRecord) -> list[tuple[str, str]]:
    budget = budget_facts(record)
    if budget is None:
        return []
    parts = [
        f"{one.unit} {one.limit:.4g}" if one.spent is None else f"{one.unit} {one.spent:.4g} of {one.limit:.4g}"
        for one in budget.limits
    ]
    left_out = f"{budget.clips_unfunded} clips of {budget.videos_unfunded} videos did not fit"
    return [("budget", f"{', '.join(parts)}; {left_out}")]


def _savings(record: RunRecord) -> list[tuple[str, str]]:
    return [
        ("saved FLOPs", _share(record.saved_flops_share)),
        (
            "saved seconds",
            f"{_share(record.saved_seconds_share)} (decoding included; estimated from the run's own pace)",
        ),
    ]


def _audit(record: RunRecord) -> list[tuple[str, str]]:
    rows = []
    if record.audit_videos:
        rows.append(("agrees with the teacher", _agreement(record)))
        rows.append(("confidence", _calibration(record)))
        rows.append(("audit's own cost", _audit_cost(record)))
    drifts = [("student", record.student_drift), ("teacher", record.teacher_drift)]
    known = [f"{model} {drift:.3f}" for model, drift in drifts if drift is not None]
    if known:
        rows.append(("drift of confidence", f"{', '.join(known)} (below 0.1 is none, from 0.25 on much)"))
    alarms = alarms_of(record)
    return rows if alarms is None else [*rows, ("alarms", _alarms(alarms))]


def _agreement(record: RunRecord) -> str:
    videos, least = record.audit_videos or 0, watched(record).audit.min_videos
    recordings = "" if record.audit_groups is None else f" of {record.audit_groups} recordings"
    interval = f"95 % interval {_share(record.audit_agreement_low)} to {_share(record.audit_agreement_high)}"
    text = f"{_share(record.audit_agreement)} of {videos} audited videos{recordings} ({interval})"
    return text if videos >= least else f"{text}; fewer than {least}: too few to tell"


def _calibration(record: RunRecord) -> str:
    error = "" if record.audit_ece is None else f", off by {record.audit_ece:.3f} (ECE against agreement)"
    return f"{_share(record.audit_confidence)} on average on the audited videos{error}"


def _audit_cost(record: RunRecord) -> str:
    gflops, seconds = (record.audit_flops or 0) / FLOPS_PER_GFLOP, record.audit_seconds or 0.0
    with_it = _share(record.saved_flops_share_with_audit)
    return f"{gflops:,.1f} GFLOPs, {seconds:.1f} s beyond the above; with it {with_it} of FLOPs saved"


def _alarms(alarms: tuple[Alarm, ...]) -> str:
    return "; ".join(f"{alarm.name}: {alarm.message}" for alarm in alarms) or "none"


def _share(share: float | None) -> str:
    return "not measurable" if share is None else f"{share:.1%}"
