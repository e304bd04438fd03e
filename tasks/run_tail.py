"""How much of their time workers were idle at the end of a run, while the last ones still labeled."""

from __future__ import annotations

from collections.abc import Sequence

from cdmodel.types import ShardReceipt


def tail_idle_share(receipts: Sequence[ShardReceipt]) -> float | None:
    """Return idle worker seconds at the end, by all seconds of workers with shards; None where nothing was timed.

    Once the last shard has begun, every worker that commits one has no more to do until the end. That holds for a
    resumed run too, where it is the end of the last command. Workers that left count as if they had ended with their last
    shard, those that never had one not at all. Where workers have clocks of their own, it is as exact as these agree.
    """
    timed = [receipt for receipt in receipts if receipt.stages.worker]
    if not timed:
        return None
    committed = [receipt.committed_at.timestamp() for receipt in timed]
    ended = max(committed)
    last_began = max(at - receipt.stages.worker for at, receipt in zip(committed, timed, strict=True))
    idle_seconds = sum(ended - at for at in committed if at > last_began)
    return idle_seconds / (idle_seconds + sum(receipt.stages.worker for receipt in timed))
