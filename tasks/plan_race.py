"""Settle who labels a video that several commands have planned at the same instant.

Each lists the runs, plans what is free, writes its plan, and lists again. Of two that overlap, the one that wrote later
sees the other's plan in its second listing, and withdraws; both may. Nobody labels by a plan that was not declared open,
and what is decided of a plan is decided once, for everybody who shares it (``storage.plan_decision``). So at most one of
two overlapping plans is ever open, at whatever point the commands stop or die.
"""

from __future__ import annotations

from cdmodel.failure_policy import FailurePolicy
from storage.filesystem import Store
from storage.ledger import share_videos
from storage.plan_decision import decide_plan, read_decision
from storage.run_store import RunHeader, committed_shards, iter_shards, list_runs
from tasks.pending_videos import are_all_pending


def claim_new_plan(store: Store, header: RunHeader, known: frozenset[str]) -> bool:
    """Open a plan that was just written, or withdraw it; ``known`` are the runs that it was made in view of."""
    rivals = [
        run.header.run_id
        for run in list_runs(store)
        if run.header.fingerprint == header.fingerprint and run.header.run_id not in known | {header.run_id}
    ]
    overlaps = any(share_videos(store, header.run_id, rival) for rival in rivals)
    return decide_plan(store, header.run_id, "withdrawn" if overlaps else "open") == "open"


def claim_standing_plan(store: Store, header: RunHeader, policy: FailurePolicy) -> bool:
    """Tell whether a plan found in storage is open; decide where its planner has not yet, or died before it could."""
    decision = read_decision(store, header.run_id)
    if decision is None:
        decision = decide_plan(store, header.run_id, "open" if _may_open(store, header, policy) else "withdrawn")
    return decision == "open"


def _may_open(store: Store, header: RunHeader, policy: FailurePolicy) -> bool:
    """Tell whether all videos of the plan are still free; which runs its planner knew of is not known here."""
    if committed_shards(store, header.run_id):
        # Planned by a version that did not decide, and under way.
        return True
    videos = [video for shard in iter_shards(store, header.run_id) for video in shard.videos]
    # Listed again, after the plan stood: an earlier listing may have missed a rival.
    others = [run for run in list_runs(store) if run.header.run_id != header.run_id]
    return are_all_pending(store, header, videos, policy, others)
