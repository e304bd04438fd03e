"""In what order a run's shards go out: the dearest first, so that only small ones are left when workers fall idle.

The order is that of the plan's own figures, so that it is the same for whoever goes on with the run. A plan is read in
order of ids, though, and may be large: it is gone through in waves of shards of like cost, each held in memory by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cdmodel.types import Shard
from storage.filesystem import Store
from storage.parquet import open_parquet, reading_rows
from storage.run_layout import plan_name
from storage.run_store import iter_shards

WAVES = 16
"""At most: each reads the plan once."""
WAVE_VIDEOS = 65_536
"""A plan of fewer videos is one wave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCost:
    """What a plan says of a shard without its videos."""

    shard_id: str
    videos: int
    expected_share: float
    """Of the run's cost; 0 where the plan does not say."""


def iter_dearest_first(store: Store, run_id: str, done: Collection[str] = ()) -> Iterator[Shard]:
    """Yield the shards of a plan that are not done, the dearest first; of equal ones that with the smaller ids first.

    Raises:
        DamagedObject: as ``run_store.iter_shards``.
    """
    pending = [cost for cost in read_costs(store, run_id) if cost.shard_id not in done]
    for wave in cut_waves(pending):
        yield from dearest_first(iter_shards(store, run_id, frozenset(cost.shard_id for cost in wave)))


def dearest_first(shards: Iterable[Shard]) -> list[Shard]:
    """Return the shards in the order in which a run hands them out; equal ones stay as they are."""
    return sorted(shards, key=lambda shard: shard.expected_share or 0.0, reverse=True)


def read_costs(store: Store, run_id: str) -> list[ShardCost]:
    """Return what a plan says of its shards, in the order of the plan.

    Raises:
        DamagedObject: the plan's rows cannot be read.
    """
    name = plan_name(run_id)
    with reading_rows(store, name), open_parquet(store, name) as plan:
        known = [column for column in ("shard_id", "shard_share") if column in plan.schema_arrow.names]
        rows = plan.read(columns=known)
        # One thread keeps the order of the plan.
        shards = rows.group_by(known, use_threads=False).aggregate([([], "count_all")]).to_pylist()
    return [
        ShardCost(shard_id=row["shard_id"], videos=row["count_all"], expected_share=row.get("shard_share") or 0.0)
        for row in shards
    ]


def count_videos(store: Store, run_id: str, shards: Collection[str]) -> int:
    """Return how many videos of a plan are in these shards; raises as ``read_costs``."""
    if not shards:
        return 0
    return sum(cost.videos for cost in read_costs(store, run_id) if cost.shard_id in shards)


def cut_waves(costs: Sequence[ShardCost]) -> list[list[ShardCost]]:
    """Sort shards, the dearest first, and cut them into waves of about equally many videos."""
    wave_videos = max(sum(cost.videos for cost in costs) / WAVES, WAVE_VIDEOS)
    waves: list[list[ShardCost]] = []
    videos = 0
    for cost in sorted(costs, key=lambda cost: cost.expected_share, reverse=True):
        if videos >= len(waves) * wave_videos:
            waves.append([])
        waves[-1].append(cost)
        videos += cost.videos
    return waves
