"""Shards on the cluster, in one stage of a run: those that kill their workers again, without the videos they died of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from cdmodel.budget import Allotment
from cdmodel.types import Shard
from flows.dispatch import Cluster, WorkerKilled, run_on_workers
from storage.attempt_log import can_go_on, died_of
from storage.filesystem import open_store
from tasks.label_shard import LabelingSpec

Receipt = TypeVar("Receipt")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardWork(Generic[Receipt]):
    """What workers do with each shard in one stage."""

    run: Callable[..., Receipt]
    """Of a shard, or of a shard with its allotment, and of the labeling spec."""
    name: str
    on_done: Callable[[Receipt], None]
    allot: Callable[[Shard], Allotment] | None = None
    """What a shard may ask and spend, decided when a worker is free for it."""
    log_name: Callable[[str], str] = str
    """Under which name attempts at a shard of that id are logged."""


def run_in_rounds(
    cluster: Cluster, spec: LabelingSpec, shards: Iterator[Shard], work: ShardWork[Receipt]
) -> list[Shard]:
    """Do the work on all shards and return those that were given up.

    A shard that killed its workers is tried again as long as that names videos that are then left out.

    Raises:
        RunError: as ``dispatch.run_on_workers``; and whatever the work raises.
    """
    run = partial(work.run, spec=spec)
    store = open_store(spec.out)
    given_up: list[Shard] = []
    named: dict[str, frozenset[str] | None] = {}
    rounds = 0
    while True:
        rounds += 1
        killed: list[Shard] = []
        completed = 0
        for outcome in run_on_workers(cluster, run, _keyed(spec.run_id, rounds, shards, work)):
            if isinstance(outcome, WorkerKilled):
                killed.append(outcome.item if isinstance(outcome.item, Shard) else outcome.item[0])
            else:
                completed += 1
                work.on_done(outcome.result)
        named_before = named
        named = {
            shard.shard_id: died_of(store, spec.run_id, work.log_name(shard.shard_id), spec.launch_id)
            for shard in killed
        }
        again = [shard for shard in killed if can_go_on(named[shard.shard_id], named_before.get(shard.shard_id))]
        given_up += [shard for shard in killed if shard not in again]
        if not again or (not completed and all(videos is None for videos in named.values())):
            return given_up + again
        shards = iter(again)


def _keyed(
    run_id: str, number: int, shards: Iterator[Shard], work: ShardWork[Receipt]
) -> Iterator[tuple[str, Shard | tuple[Shard, Allotment]]]:
    """Return a Dask key with what a worker is given for each shard; every round needs its own."""
    for shard in shards:
        key = f"{work.name}-{run_id}-{shard.shard_id}-{number}"
        yield key, shard if work.allot is None else (shard, work.allot(shard))
