"""The savings receipt: what a run labeled, what it cost, and what the teacher on every clip would have cost.

Text only; the figures are those of the run's row in ``runs_table``.
"""

from __future__ import annotations

from storage.run_record import RunRecord

FLOPS_PER_GFLOP = 1e9
BYTES_PER_MB = 1e6


def savings_receipt(record: RunRecord) -> str:
    """Return the receipt as a Markdown table, readable as plain text too."""
    lines = [("", f"run {record.run_id}"), *_counts(record), *_costs(record), *_savings(record)]
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
    if record.retry_cost:
        rows.append(("lost to workers that died", f"{record.retry_cost:.1f} s of their time"))
    return rows if record.cost_usd is None else [*rows, ("price", f"{record.cost_usd:.4f} USD")]


def _savings(record: RunRecord) -> list[tuple[str, str]]:
    return [
        ("saved FLOPs", _share(record.saved_flops_share)),
        (
            "saved seconds",
            f"{_share(record.saved_seconds_share)} (decoding included; estimated from the run's own pace)",
        ),
    ]


def _share(share: float | None) -> str:
    return "not measurable" if share is None else f"{share:.1%}"
