"""The only place that talks to Dask: opens a cluster, hands out shards a few at a time, and gives back receipts.

Shards go out in a window of a few per worker, so that a worker's death is blamed on the shard it ran and not on all that
were queued; a future is released as soon as its result is in hand, or Dask would compute it again when its worker dies.
Knows nothing of what a shard is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Generic, TypeVar

import dask
from distributed import Client, KilledWorker, LocalCluster, as_completed

from cdmodel.errors import ClusterError
from cdmodel.setting_groups import FORBID_UNKNOWN

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_SECONDS = 10
SCHEDULER_SETTINGS = {
    # A decoder's child process needs a worker that may have children.
    "distributed.worker.daemon": False,
    # A nanny whose worker is not back within this time is closed for good; models take longer to load than the 15 s
    # that Dask allows.
    "distributed.deploy.lost-worker-timeout": "10 minutes",
    "distributed.scheduler.worker-saturation": 1.0,
    # How many workers one shard may kill before it is given up.
    "distributed.scheduler.allowed-failures": 2,
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    "distributed.admin.log-format": "%(message)s",
    "distributed.logging": {"distributed": "error", "distributed.nanny": "error", "distributed.worker": "error"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Where shards are computed."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    scheduler: str | None = None
    """Address of a running Dask scheduler; without one a cluster is started on this machine and ended with the run."""
    workers: int | None = None
    """Worker processes of the local cluster; by default one per GPU, or one per core."""
    shards_in_flight_per_worker: int = 2
    """One that runs and one that waits, so that no worker idles between shards."""
    model_threads: int | None = None
    """CPU threads for the models of one worker; by default the machine's cores divided by the local workers."""
    gpu_resource: bool = False
    """Ask the scheduler for one unit of the resource GPU per shard; workers must have been started with it."""

    def __post_init__(self) -> None:
        for name in ("workers", "shards_in_flight_per_worker", "model_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.scheduler is not None and self.workers is not None:
            raise ValueError("workers belongs to the local cluster; a running scheduler has its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A connected cluster with at least one worker."""

    client: Client
    model_threads: int | None
    window: int
    """How many shards may be out at once."""
    resources: dict[str, int]


@dataclass(frozen=True, slots=True)
class Completed(Generic[Item, Result]):
    """A piece of work and what came of it."""

    item: Item
    result: Result


@dataclass(frozen=True, slots=True)
class WorkerKilled(Generic[Item]):
    """A piece of work that killed every worker it was given to."""

    item: Item
    reason: str


@contextmanager
def open_cluster(settings: ClusterSettings, gpus: int) -> Iterator[Cluster]:
    """Start a local cluster, or connect to the one at ``settings.scheduler``; end what was started.

    Raises:
        ClusterError: nobody answers at the address, or the scheduler has no workers.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SCHEDULER_SETTINGS))
        if settings.scheduler is None:
            workers = settings.workers or gpus or _cores()
            address = stack.enter_context(_local_cluster(workers, gpus)).scheduler_address
            threads: int | None = max(1, _cores() // workers)
        else:
            address = settings.scheduler
            threads = None
        client = stack.enter_context(_connect(address))
        connected = _count_workers(client, address)
        yield Cluster(
            client=client,
            model_threads=settings.model_threads or threads,
            window=connected * settings.shards_in_flight_per_worker,
            resources={"GPU": 1} if settings.gpu_resource or (settings.scheduler is None and gpus) else {},
        )


def run_on_workers(
    cluster: Cluster, work: Callable[[Item], Result], items: Iterator[tuple[str, Item]]
) -> Iterator[Completed[Item, Result] | WorkerKilled[Item]]:
    """Run ``work`` on every item and yield what came of each, in order of completion.

    ``items`` are (key, item) pairs with distinct keys; they are taken one by one, as workers become free. An exception
    of ``work`` is raised here and ends the iteration; work already handed out is cancelled.
    """
    in_flight: dict[Any, Item] = {}

    def submit(key: str, item: Item) -> Any:
        future = cluster.client.submit(work, item, key=key, resources=cluster.resources, retries=0, pure=False)
        in_flight[future] = item
        return future

    try:
        first = [submit(key, item) for key, item in islice(items, cluster.window)]
        finished = as_completed(first, loop=cluster.client.loop)
        for future in finished:
            item = in_flight.pop(future)
            try:
                yield Completed(item, future.result())
            except KilledWorker as error:
                yield WorkerKilled(item, str(error))
            finally:
                future.release()
            for key, following in islice(items, 1):
                finished.add(submit(key, following))
    finally:
        cluster.client.cancel(list(in_flight))


def check_scheduler(settings: ClusterSettings) -> None:
    """Raise ClusterError if a scheduler is named and does not answer, or has no worker."""
    if settings.scheduler is not None:
        with dask.config.set(SCHEDULER_SETTINGS), _connect(settings.scheduler) as client:
            _count_workers(client, settings.scheduler)


def _local_cluster(workers: int, gpus: int) -> Any:
    if gpus > 1:
        return _local_gpu_cluster(workers)
    return LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",  # any free port: two runs on one machine must not trip over 8787
        resources={"GPU": 1} if gpus else {},
        silence_logs=logging.CRITICAL,
    )


def _local_gpu_cluster(workers: int) -> Any:
    try:
        from dask_cuda import LocalCUDACluster
    except ImportError as error:
        raise ClusterError("cluster.workers", "several GPUs need dask-cuda: pip install 'cdlabel[cuda]'") from error
    return LocalCUDACluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0", resources={"GPU": 1}
    )


@contextmanager
def _connect(address: str) -> Iterator[Client]:
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(address, "no Dask scheduler answers there; check cluster.scheduler") from error
    with client:
        yield client


def _count_workers(client: Client, address: str) -> int:
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise ClusterError(address, "the scheduler has no workers; start some and run again") from error
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _cores() -> int:
    """Return the cores this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
