"""What a run is expected to take, in words: one line per figure, each with its interval."""

from __future__ import annotations

from collections.abc import Callable

from cdmodel.cost_estimate import LEVEL, Estimate
from tasks.sample_run import RunEstimate

BYTES_PER_MB = 1e6
FLOPS_UNITS = ((1e18, "EFLOPs"), (1e15, "PFLOPs"), (1e12, "TFLOPs"), (1e9, "GFLOPs"))


def estimate_text(estimate: RunEstimate) -> str:
    """Return the estimate as aligned lines."""
    failed = f", {estimate.sampled_failures} of them failed" if estimate.sampled_failures else ""
    counts = f"{estimate.sampled_videos:,} of {estimate.videos:,} videos{failed}"
    head = f"estimated from {counts}; {LEVEL:.0%} intervals over which videos were drawn"
    shown = [
        ("wall time", _spread(estimate.wall_seconds, duration)),
        ("CPU time", _spread(estimate.cpu_seconds, duration)),
        ("GPU time", _spread(estimate.gpu_seconds, duration)),
        ("student", _spread(estimate.student_flops, flops)),
        ("teacher", _spread(estimate.teacher_flops, flops)),
        ("budget", f"pays for {estimate.budget_share:.0%} of the clips wanted" if estimate.budget_share < 1 else None),
        ("audit", _spread(estimate.audit_flops, flops) if estimate.audit_flops.value else None),
        ("price", None if estimate.usd is None else _spread(estimate.usd, lambda usd: f"{usd:.2f} USD")),
        ("memory", f"{estimate.peak_memory_bytes / BYTES_PER_MB:,.0f} MB at most in the sample, all workers together"),
        ("slowest stage", f"{estimate.slowest_stage} ({_shares(estimate)})"),
    ]
    width = max(len(name) for name, _ in shown)
    lines = [f"{name:<{width}}  {text}" for name, text in shown if text is not None]
    return "\n".join([head, *lines, _parts_of_wall(estimate)])


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:.1f} days"


def flops(count: float) -> str:
    """Return a number of operations in the unit that suits it."""
    size, unit = next((one for one in FLOPS_UNITS if count >= one[0]), FLOPS_UNITS[-1])
    return f"{count / size:,.1f} {unit}"


def _spread(estimate: Estimate, shown: Callable[[float], str]) -> str:
    return f"{shown(estimate.value)}  ({shown(estimate.low)} to {shown(estimate.high)})"


def _shares(estimate: RunEstimate) -> str:
    whole = sum(seconds.value for seconds in estimate.stage_seconds.values()) or 1.0
    return ", ".join(f"{stage} {seconds.value / whole:.0%}" for stage, seconds in estimate.stage_seconds.items())


def _parts_of_wall(estimate: RunEstimate) -> str:
    start, publish = duration(estimate.startup_seconds), duration(estimate.publish_seconds)
    return f"wall time is with {estimate.workers} workers; {start} of it to start, {publish} to publish"
