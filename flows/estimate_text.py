"""What a run is expected to take, in words: one line per figure, each with its interval."""

from __future__ import annotations

from collections.abc import Callable

from cdmodel.cost_estimate import LEVEL, Estimate
from flows import wording as words
from tasks.sample_run import RunEstimate


def estimate_text(estimate: RunEstimate) -> str:
    """Return the estimate as aligned lines."""
    failed = f", {estimate.sampled_failures} of them failed" if estimate.sampled_failures else ""
    counts = f"{estimate.sampled_videos:,} of {estimate.videos:,} videos{failed}"
    head = f"estimated from {counts}; {LEVEL:.0%} intervals over which videos were drawn"
    shown = [
        ("wall time", _spread(estimate.wall_seconds, words.seconds)),
        ("CPU time", _spread(estimate.cpu_seconds, words.seconds)),
        ("GPU time", _spread(estimate.gpu_seconds, words.seconds)),
        ("student", _spread(estimate.student_flops, words.flops)),
        ("teacher", _spread(estimate.teacher_flops, words.flops)),
        ("budget", f"pays for {estimate.budget_share:.0%} of the clips wanted" if estimate.budget_share < 1 else None),
        ("audit", _spread(estimate.audit_flops, words.flops) if estimate.audit_flops.value else None),
        ("price", None if estimate.usd is None else _spread(estimate.usd, words.usd)),
        ("memory", f"{words.size(estimate.peak_memory_bytes)} at most in the sample, all workers together"),
        ("slowest stage", f"{estimate.slowest_stage} ({_shares(estimate)})"),
    ]
    width = max(len(name) for name, _ in shown)
    lines = [f"{name:<{width}}  {text}" for name, text in shown if text is not None]
    return "\n".join([head, *lines, _parts_of_wall(estimate)])


def _spread(estimate: Estimate, shown: Callable[[float], str]) -> str:
    return f"{shown(estimate.value)}  ({shown(estimate.low)} to {shown(estimate.high)})"


def _shares(estimate: RunEstimate) -> str:
    whole = sum(seconds.value for seconds in estimate.stage_seconds.values()) or 1.0
    return ", ".join(f"{stage} {seconds.value / whole:.0%}" for stage, seconds in estimate.stage_seconds.items())


def _parts_of_wall(estimate: RunEstimate) -> str:
    start, publish = words.seconds(estimate.startup_seconds), words.seconds(estimate.publish_seconds)
    return f"wall time is with {estimate.workers} workers; {start} of it to start, {publish} to publish"
