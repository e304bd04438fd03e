"""How far a run is, from what stands in storage alone."""

from __future__ import annotations

from dataclasses import dataclass

from cdmodel.cost import ComputeCost
from storage.filesystem import open_store
from storage.run_store import find_run, read_receipts
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
    shards: int
    shards_done: int
    clips_planned: int
    clips_teacher: int
    cost: ComputeCost


def read_status(out: str, run_id: str | None) -> RunStatus:
    """Return the counts of the run of that name, or of the latest one.

    Raises:
        RunError: there is no such run.
        DamagedObject: a plan or a shard's object was changed.
    """
    store = open_store(out)
    run = find_run(store, run_id)
    receipts = read_receipts(store, run.header.run_id)
    totals = add_up(receipts)
    done = totals.videos_labeled + totals.videos_partial + totals.videos_failed
    return RunStatus(
        run_id=run.header.run_id,
        finished=run.finished,
        videos_planned=run.header.videos,
        videos_labeled=totals.videos_labeled,
        videos_partial=totals.videos_partial,
        videos_failed=totals.videos_failed,
        videos_pending=run.header.videos - done,
        shards=run.header.shards,
        shards_done=len(receipts),
        clips_planned=totals.clips_planned,
        clips_teacher=totals.clips_teacher,
        cost=totals.cost,
    )
