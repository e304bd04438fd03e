"""How far a run is, from what stands in storage alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cdmodel.cost import ComputeCost
from storage.filesystem import Store, open_store
from storage.run_record import read_run_row
from storage.run_store import RunState, find_run, read_receipts
from storage.student_passes import committed_passes, read_pass_receipts
from tasks.finish_run import add_up


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatus:
    """Counts of a run, under way or over."""

    run_id: str
    finished: bool
    videos_planned: int
    videos_labeled: int
    videos_partial: int
    videos_failed: int
    videos_pending: int
    videos_scored: int
    """Of those pending, in a run with a budget: the student has seen them."""
    shards: int
    shards_done: int
    clips_planned: int
    clips_teacher: int
    cost: ComputeCost
    """Of what is labeled, and of what the student has seen."""


def read_status(out: str, run_id: str | None) -> RunStatus:
    """Return the counts of the run of that name, or of the latest one.

    Raises:
        RunError: there is no such run.
        DamagedObject: a plan, an object of a shard or the run's row was changed.
        NewerSchema: a newer version of this project planned the run.
    """
    store = open_store(out)
    run = find_run(store, run_id)
    return _of_finished(store, run) if run.finished else _of_unfinished(store, run)


def _of_finished(store: Store, run: RunState) -> RunStatus:
    """Read the run's row: its shard objects may have been cleaned up."""
    record = read_run_row(store, run.header.run_id)
    return RunStatus(
        run_id=record.run_id,
        finished=True,
        videos_planned=run.header.videos,
        videos_labeled=record.videos_labeled,
        videos_partial=record.videos_partial,
        videos_failed=record.videos_failed,
        videos_pending=0,
        videos_scored=0,
        shards=run.header.shards,
        shards_done=run.header.shards,
        clips_planned=record.clips_planned,
        clips_teacher=record.clips_teacher,
        # Rows of an earlier state lack the cost of the audit.
        cost=ComputeCost(**{field.name: getattr(record, field.name) or 0 for field in fields(ComputeCost)}),
    )


def _of_unfinished(store: Store, run: RunState) -> RunStatus:
    receipts = read_receipts(store, run.header.run_id)
    totals = add_up(receipts)
    done = totals.videos_labeled + totals.videos_partial + totals.videos_failed
    # A labeled shard's receipt holds the cost of its passes too.
    only_scored = committed_passes(store, run.header.run_id) - {receipt.shard_id for receipt in receipts}
    passes = read_pass_receipts(store, run.header.run_id, run.header.fingerprint, only_scored)
    return RunStatus(
        run_id=run.header.run_id,
        finished=False,
        videos_planned=run.header.videos,
        videos_labeled=totals.videos_labeled,
        videos_partial=totals.videos_partial,
        videos_failed=totals.videos_failed,
        videos_pending=run.header.videos - done,
        videos_scored=sum(one.videos for one in passes),
        shards=run.header.shards,
        shards_done=len(receipts),
        clips_planned=totals.clips_planned,
        clips_teacher=totals.clips_teacher,
        cost=sum((one.cost for one in passes), totals.cost),
    )
