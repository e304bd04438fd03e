"""A worker's piece of work with the stretches that it was made of, for a run that is profiled.

They travel beside the receipt and are kept nowhere: the receipt that stands in storage is the same with and without.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from cdmodel.budget import Allotment
from cdmodel.stretches import Stretch, recorded
from cdmodel.types import Shard

if TYPE_CHECKING:
    from tasks.label_shard import LabelingSpec


class _Receipt(Protocol):
    @property
    def shard_id(self) -> str: ...

    @property
    def videos(self) -> int: ...


Receipt = TypeVar("Receipt", bound=_Receipt)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerThread:
    """Who did it: where a worker process has several threads, each takes shards of its own."""

    host: str
    process_id: int
    thread_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profiled(Generic[Receipt]):
    """What came of a shard, and when."""

    receipt: Receipt
    worker: WorkerThread
    stretches: tuple[Stretch, ...]
    """The last one is the shard's own."""


def profile_shard(
    work: Callable[..., Receipt], name: str, item: Shard | tuple[Shard, Allotment], spec: LabelingSpec
) -> Profiled[Receipt]:
    """Do the work on a shard, or a shard with its allotment, and tell what it was at meanwhile.

    Raises: what the work raises; then nothing is told.
    """
    with recorded() as recorder:
        began_ns = time.perf_counter_ns()
        receipt = work(item, spec=spec)
        ended_ns = time.perf_counter_ns()
        recorder.note("shard", receipt.shard_id, began_ns, ended_ns, {"work": name, "videos": receipt.videos})
    return Profiled(receipt=receipt, worker=this_thread(), stretches=recorder.stretches)


def this_thread() -> WorkerThread:
    """Return the thread that asks."""
    return WorkerThread(host=socket.gethostname(), process_id=os.getpid(), thread_id=threading.get_native_id())
