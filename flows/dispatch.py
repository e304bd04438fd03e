"""The only place that talks to Dask: opens a cluster, hands out shards a few at a time, and gives back receipts.

Shards go out in a window of a few per worker, so that a worker's death is blamed on the shard it ran and not on all that
were queued; a future is released as soon as its result is in hand, or Dask would compute it again when its worker dies.
Knows nothing of what a shard is.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from asyncio import CancelledError
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError as FutureCancelled
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from multiprocessing import resource_tracker
from typing import Any, ClassVar, Generic, TypeVar

import dask
from distributed import Client, KilledWorker, LocalCluster, Security, wait
from distributed.comm.core import FatalCommClosedError

from cdmodel.errors import ClusterError, RunError
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.stretches import stretch
from flows.command import say
from flows.worker_versions import same_code
from tasks.cores import count_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

CONNECT_SECONDS = 10
CHECK_SECONDS = 1.0
"""How often the cluster is looked at while shards are out."""
MOST_VIDEOS_AT_ONCE, MOST_VIDEOS_AHEAD = 4, 8
CORES_OF_A_GPU_WORKER = 2
"""Which its own threads keep busy: the one that feeds the GPU, and those of the videos."""
CERTIFICATES = "see docs/scale-out.md, TLS"
STARTS = 3
"""Times that a local cluster is started, should a worker die meanwhile."""
ANSWER_SECONDS = 30.0
"""How long the scheduler may take to say which workers it has."""
SCHEDULER_SETTINGS = {
    # Lets a model's own code start processes by multiprocessing; decoders are started without it.
    "distributed.worker.daemon": False,
    # A nanny whose worker is not back within this time is closed for good; models take longer to load than the 15 s
    # that Dask allows.
    "distributed.deploy.lost-worker-timeout": "10 minutes",
    # glibc keeps what a network's layers free, for the next clip. Dask has it given back to the system at once, so that every
    # layer waits for new pages: twice the CPU time of the teacher (docs/experiments.md). deploy/dask.env says the same.
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 * 2**20,
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 128 * 2**20,
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
    worker_wait_seconds: float = 300.0
    """How long a run waits for a worker where there is none yet, or none is left; then it ends, and can be gone on with."""
    model_threads: int | None = None
    """CPU threads for the models of one worker; by default the machine's cores divided by the local workers."""
    videos_at_once: int | None = None
    """Videos that ask a worker's models at the same time, in common batches; by default 1, and of a local cluster whose models
    have a GPU one per core that is left, up to 4."""
    videos_ahead: int | None = None
    """Videos that a worker's decoders are at beyond those that its models work on; by default 1, and of a local cluster whose
    models have a GPU one per core that is left then, up to 8."""
    gpu_resource: bool = False
    """Ask the scheduler for one unit of the resource GPU per shard; workers must have been started with it."""

    def __post_init__(self) -> None:
        for name in ("workers", "shards_in_flight_per_worker", "model_threads", "videos_at_once"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.videos_ahead is not None and self.videos_ahead < 0:
            raise ValueError(f"videos_ahead must not be negative, got {self.videos_ahead}")
        if self.worker_wait_seconds <= 0:
            raise ValueError(f"worker_wait_seconds must be above 0, got {self.worker_wait_seconds}")
        if self.scheduler is not None and self.workers is not None:
            raise ValueError("workers belongs to the local cluster; a running scheduler has its own")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A connected cluster with at least one worker."""

    client: Client
    model_threads: int | None
    worker_cores: int | None
    """Of the machine's, for each worker; None where it is not ours."""
    videos_at_once: int
    videos_ahead: int
    address: str
    dashboard: str | None
    """Address of its page."""
    shards_in_flight_per_worker: int
    worker_wait_seconds: float
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
        ClusterError: nobody answers at the address or its certificates are not ours, no worker comes, or one has other
            code than we.
        RunError: a local worker died while it was started.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(SCHEDULER_SETTINGS))
        if settings.scheduler is None:
            workers = settings.workers or gpus or count_cores()
            address = stack.enter_context(_local_cluster(workers, gpus)).scheduler_address
            cores: int | None = max(1, count_cores() // workers)
        else:
            address = settings.scheduler
            cores = None
        client = stack.enter_context(_connect(address))
        _wait_for_a_worker(client, address, settings.worker_wait_seconds)
        if settings.scheduler is not None:
            stack.enter_context(same_code(client, address, say))
        free_cores = 0 if cores is None or not gpus else cores - CORES_OF_A_GPU_WORKER
        videos_at_once = settings.videos_at_once or _within(free_cores, MOST_VIDEOS_AT_ONCE)
        videos_ahead = settings.videos_ahead
        if videos_ahead is None:
            videos_ahead = _within(free_cores - videos_at_once, MOST_VIDEOS_AHEAD)
        yield Cluster(
            client=client,
            model_threads=settings.model_threads or cores,
            worker_cores=cores,
            videos_at_once=videos_at_once,
            videos_ahead=videos_ahead,
            address=address,
            dashboard=client.dashboard_link,
            shards_in_flight_per_worker=settings.shards_in_flight_per_worker,
            worker_wait_seconds=settings.worker_wait_seconds,
            resources={"GPU": 1} if settings.gpu_resource or (settings.scheduler is None and gpus) else {},
        )


def describe_workers(cluster: Cluster) -> str:
    """Return how the cores are shared out, in a line."""
    cores = "all cores of its machine" if cluster.worker_cores is None else f"{cluster.worker_cores} cores"
    threads = "torch's own number of" if cluster.model_threads is None else cluster.model_threads
    return (
        f"each of {count_workers(cluster)} workers: {cores}, {threads} threads for the models, "
        f"{cluster.videos_at_once + cluster.videos_ahead} decoders"
    )


def _within(cores: int, most: int) -> int:
    """Return how many videos so many cores are good for: one at least."""
    return max(1, min(cores, most))


def run_on_workers(
    cluster: Cluster, work: Callable[[Item], Result], items: Iterator[tuple[str, Item]]
) -> Iterator[Completed[Item, Result] | WorkerKilled[Item]]:
    """Run ``work`` on every item and yield what came of each, in order of completion.

    ``items`` are (key, item) pairs with distinct keys; they are taken one by one, as workers become free. The window
    follows the cluster: workers that join get work, those that leave free their share. An exception of ``work`` is
    raised here and ends the iteration; work already handed out is cancelled.

    Raises:
        RunError: the scheduler is gone or silent, or there was no worker for as long as the settings allow.
    """
    in_flight: dict[Any, Item] = {}
    watch = _ClusterWatch(cluster)
    with _scheduler_watched(cluster):
        try:
            is_last_out = False
            while in_flight or not is_last_out:
                room = max(watch.window() - len(in_flight), 0)
                taken = list(islice(items, room))
                is_last_out = is_last_out or len(taken) < room
                for key, item in taken:
                    future = cluster.client.submit(
                        work, item, key=key, resources=cluster.resources, retries=0, pure=False
                    )
                    in_flight[future] = item
                if in_flight:
                    for future in _finished(cluster.client, list(in_flight)):
                        yield _outcome(cluster, future, in_flight.pop(future))
        finally:
            if cluster.client.status == "running":
                cluster.client.cancel(list(in_flight))


def count_workers(cluster: Cluster) -> int:
    """Ask the scheduler how many workers there are now.

    Raises:
        RunError: it does not answer.
    """
    client: Any = cluster.client
    try:
        return len(client.sync(client.scheduler.ncores, callback_timeout=ANSWER_SECONDS))
    except TimeoutError as error:
        raise _silent(cluster) from error


def _finished(client: Client, futures: list[Any]) -> list[Any]:
    """Return the futures that are done, waiting a moment for the first one."""
    try:
        with client.as_current():
            return list(wait(futures, timeout=CHECK_SECONDS, return_when="FIRST_COMPLETED").done)
    except TimeoutError:
        return []


def _outcome(cluster: Cluster, future: Any, item: Item) -> Completed[Item, Any] | WorkerKilled[Item]:
    """Fetch the result of a future that is done; it comes through the scheduler, which may have stopped since."""
    try:
        return Completed(item, future.result(timeout=ANSWER_SECONDS))
    except KilledWorker as error:
        return WorkerKilled(item, str(error))
    except TimeoutError as error:
        if future.status == "error":  # the work's own
            raise
        raise _silent(cluster) from error
    finally:
        future.release()


@contextmanager
def _scheduler_watched(cluster: Cluster) -> Iterator[None]:
    """Turn what Dask raises once its scheduler is gone into one error that says so."""
    try:
        yield
    except (CancelledError, FutureCancelled, OSError, RuntimeError) as error:
        # Futures are cancelled, and calls fail, a moment before the client knows why.
        deadline = time.monotonic() + CHECK_SECONDS
        while cluster.client.status == "running" and time.monotonic() < deadline:
            time.sleep(0.05)
        if cluster.client.status == "running" and not isinstance(error, CancelledError | FutureCancelled):
            raise
        raise RunError(
            cluster.address, "the Dask scheduler is gone; what is committed is kept, start one and run the same command"
        ) from error


def _silent(cluster: Cluster) -> RunError:
    return RunError(
        cluster.address,
        f"the Dask scheduler has not answered for {ANSWER_SECONDS:g} s; what is committed is kept, "
        "start it again and run the same command",
    )


class _ClusterWatch:
    """How many shards may be out, by how many workers there are now; gives up when there are none for too long."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._workers = 0
        self._seen = -CHECK_SECONDS
        self._without_workers_since: float | None = None

    def window(self) -> int:
        """Return the window's size, asking the scheduler at most once in a while.

        It is never 0: an adaptive cluster without workers starts some only for work that waits for them.

        Raises:
            RunError: there were no workers for as long as the settings allow, or the scheduler does not answer.
        """
        now = time.monotonic()
        if now - self._seen >= CHECK_SECONDS:
            self._workers = count_workers(self._cluster)
            self._seen = now
            self._give_up_without_workers(now)
        return max(1, self._workers * self._cluster.shards_in_flight_per_worker)

    def _give_up_without_workers(self, now: float) -> None:
        if self._workers:
            self._without_workers_since = None
            return
        limit = self._cluster.worker_wait_seconds
        if self._without_workers_since is None:
            self._without_workers_since = now
            say(f"no worker is left at {self._cluster.address}; waiting {limit:g} s for one")
        if now - self._without_workers_since >= limit:
            raise RunError(
                self._cluster.address,
                f"had no worker for {limit:g} s; what is committed is kept, start workers and run the same command",
            )


def check_scheduler(settings: ClusterSettings) -> None:
    """Raise ClusterError if a scheduler is named and does not answer. Its workers may come later."""
    if settings.scheduler is not None:
        with dask.config.set(SCHEDULER_SETTINGS), _connect(settings.scheduler):
            pass


@stretch("driver", "start workers")
def _local_cluster(workers: int, gpus: int) -> Any:
    """Start workers that do not hear the terminal's signals: this process ends them, when it has unwound.

    Signals blocked in the thread that starts a process stay blocked in that process. Not so where that thread has to
    start multiprocessing's resource tracker first, which lets SIGINT through again: it is started here.
    """
    resource_tracker.ensure_running()
    starter = ThreadPoolExecutor(1, initializer=_block_terminal_signals)
    try:
        for start in range(STARTS):
            try:
                return starter.submit(_start_local_cluster, workers, gpus).result()
            except (RuntimeError, OSError, TimeoutError) as error:
                # A worker that dies later is replaced; one that dies while it starts is what Dask gives up for.
                if start == STARTS - 1:
                    raise RunError(
                        "the local cluster",
                        f"its workers did not start ({error}); what is committed is kept, run the same command again",
                    ) from error
    finally:
        starter.shutdown(wait=False)


def _block_terminal_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})


def _start_local_cluster(workers: int, gpus: int) -> Any:
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
    # What it would log about a scheduler that dies is a traceback; the run ends with an error that says so.
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)
    security = _security(address)
    try:
        client = Client(address, timeout=CONNECT_SECONDS, set_as_default=False, security=security)
    except FatalCommClosedError as error:
        raise ClusterError(
            address, f"its certificate is not of our authority, or ours not of its; {CERTIFICATES}"
        ) from error
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            address, "no Dask scheduler answers there; check cluster.scheduler, and whether it is tcp:// or tls://"
        ) from error
    except RuntimeError as error:  # encryption is asked for by Dask's configuration, and not by the address
        raise ClusterError(address, f"{error}; {CERTIFICATES}") from error
    with client:
        yield client


def _security(address: str) -> Security:
    """Return what Dask's own configuration says of certificates: by files, or by the environment.

    Raises:
        ClusterError: the address needs some, and there are none, or they cannot be read.
    """
    security = Security()
    if address.startswith("tls://"):
        try:
            context = security.get_connection_args("client").get("ssl_context")
        except OSError as error:
            raise ClusterError(address, f"our certificates cannot be read ({error}); {CERTIFICATES}") from error
        if context is None:
            raise ClusterError(address, f"Dask is configured with no certificates for a client; {CERTIFICATES}")
    return security


@stretch("driver", "wait for a worker")
def _wait_for_a_worker(client: Client, address: str, wait_seconds: float) -> None:
    if client.nthreads():
        return
    waiting = client.submit(os.getpid, pure=False)  # for an adaptive cluster, which starts workers for work only
    say(f"no worker is at {address} yet; waiting {wait_seconds:g} s for one")
    try:
        client.wait_for_workers(1, timeout=wait_seconds)
    except TimeoutError as error:
        raise ClusterError(address, f"got no worker within {wait_seconds:g} s; start some and run again") from error
    finally:
        waiting.release()
