"""Dask for real: processes that work, fail and die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psutil
import pytest

from cdmodel.errors import ClusterError, RunError
from flows import dispatch
from flows.dispatch import (
    Cluster,
    ClusterSettings,
    Completed,
    WorkerKilled,
    check_scheduler,
    open_cluster,
    run_on_workers,
)

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def square(number: int) -> int:
    return number * number


def square_or_die(number: int) -> int:
    if number == 3:
        os._exit(9)
    return number * number


def square_or_fail(number: int) -> int:
    if number == 3:
        raise RunError("three", "is not wanted")
    return number * number


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with open_cluster(ClusterSettings(workers=2), gpus=0) as cluster:
        yield cluster


def test_every_item_comes_back_once(cluster: Cluster) -> None:
    outcomes = list(run_on_workers(cluster, square, ((f"square-{n}", n) for n in range(12))))
    assert sorted(outcome.result for outcome in outcomes if isinstance(outcome, Completed)) == [
        n * n for n in range(12)
    ]


def test_an_exception_of_the_work_is_raised_with_its_facts(cluster: Cluster) -> None:
    with pytest.raises(RunError) as raised:
        list(run_on_workers(cluster, square_or_fail, ((f"fail-{n}", n) for n in range(6))))
    assert (raised.value.subject, raised.value.reason) == ("three", "is not wanted")


def test_the_item_that_kills_workers_is_named_and_the_others_complete(cluster: Cluster) -> None:
    outcomes = list(run_on_workers(cluster, square_or_die, ((f"die-{n}", n) for n in range(8))))
    assert [outcome.item for outcome in outcomes if isinstance(outcome, WorkerKilled)] == [3]
    done = sorted(outcome.item for outcome in outcomes if isinstance(outcome, Completed))
    assert done == [0, 1, 2, 4, 5, 6, 7]


def test_a_storage_package_on_a_worker_is_ours(cluster: Cluster) -> None:
    """A worker's scratch folder holds a directory called storage, and comes first on its path."""
    [outcome] = run_on_workers(cluster, where_is_storage, iter([("where", 0)]))
    assert isinstance(outcome, Completed)
    assert outcome.result.endswith("storage/__init__.py")


def test_workers_do_not_hear_the_terminal(cluster: Cluster) -> None:
    """A Ctrl-C goes to them too; the command is to end them, in its own order."""
    [outcome] = run_on_workers(cluster, blocked_signals, iter([("signals", 0)]))
    assert isinstance(outcome, Completed)
    assert {signal.SIGINT, signal.SIGHUP} <= outcome.result


def test_workers_keep_what_a_network_frees_for_the_next_clip(cluster: Cluster) -> None:
    [outcome] = run_on_workers(cluster, mmap_threshold, iter([("memory", 0)]))
    assert isinstance(outcome, Completed)
    assert outcome.result == os.environ.get("MALLOC_MMAP_THRESHOLD_", str(32 * 2**20))


def mmap_threshold(_: int) -> str | None:
    return os.environ.get("MALLOC_MMAP_THRESHOLD_")


def blocked_signals(_: int) -> set[signal.Signals]:
    return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())}


def where_is_storage(_: int) -> str:
    import storage

    return str(storage.__file__)


def test_a_local_worker_that_dies_while_it_starts_is_started_again() -> None:
    killed = ThreadPoolExecutor(1).submit(kill_the_first_new_child, set(psutil.Process().children()))
    with open_cluster(ClusterSettings(workers=1), gpus=0) as cluster:
        [outcome] = run_on_workers(cluster, square, iter([("square", 3)]))
        assert isinstance(outcome, Completed)
    killed.result()


def test_local_workers_that_do_not_start_are_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "STARTS", 1)
    killed = ThreadPoolExecutor(1).submit(kill_the_first_new_child, set(psutil.Process().children()))
    with pytest.raises(RunError, match="its workers did not start"), open_cluster(ClusterSettings(workers=1), gpus=0):
        pass
    killed.result()


def kill_the_first_new_child(known: set[psutil.Process]) -> None:
    while True:
        workers = [
            one for one in psutil.Process().children() if one not in known and "spawn_main" in str(one.cmdline())
        ]
        if workers:
            return workers[0].kill()
        time.sleep(0.01)


def test_nobody_at_the_address_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.dispatch.CONNECT_SECONDS", 1)
    with pytest.raises(ClusterError, match=r"127\.0\.0\.1:9"):
        check_scheduler(ClusterSettings(scheduler="tcp://127.0.0.1:9"))


@pytest.fixture
def external() -> Iterator[list[subprocess.Popen[bytes]]]:
    """A scheduler process and one worker, in this order; ended with the test."""
    port = free_port()
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", str(port)]
    processes = [subprocess.Popen([*command, "--no-dashboard"], stderr=subprocess.DEVNULL)]
    try:
        processes.append(start_worker(port))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_worker(port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distributed.cli.dask_worker", f"tcp://127.0.0.1:{port}", "--no-nanny"]
    return subprocess.Popen([*command, "--nthreads", "1", "--no-dashboard"], stderr=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.mark.parametrize(("dies", "reason"), [(0, "scheduler is gone"), (1, "had no worker for 1 s")])
def test_a_cluster_that_dies_ends_the_run_with_its_address(
    external: list[subprocess.Popen[bytes]], dies: int, reason: str
) -> None:
    address = str(external[1].args[3])  # type: ignore[index]
    settings = ClusterSettings(scheduler=address, worker_wait_seconds=1)
    with open_cluster(settings, gpus=0) as cluster:
        outcomes = run_on_workers(cluster, time.sleep, ((f"slow-{n}", 0.2) for n in range(200)))
        next(outcomes)
        external[dies].kill()
        with pytest.raises(RunError, match=reason) as raised:
            list(outcomes)
    assert raised.value.subject == address


TELL_WORKER = ["sh", "-c", "sleep 0.05; echo $PPID"]
"""Work that workers can do which do not know this file."""


def test_workers_that_join_get_work(external: list[subprocess.Popen[bytes]]) -> None:
    address = str(external[1].args[3])  # type: ignore[index]
    with open_cluster(ClusterSettings(scheduler=address), gpus=0) as cluster:
        outcomes = run_on_workers(cluster, subprocess.check_output, ((f"slow-{n}", TELL_WORKER) for n in range(1000)))
        workers = {next(outcomes).result}  # type: ignore[union-attr]
        external.append(start_worker(int(address.rpartition(":")[2])))
        while len(workers) < 2:
            workers.add(next(outcomes).result)  # type: ignore[union-attr]
        outcomes.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("moment", ["while shards run", "before a result is fetched"])
def test_a_scheduler_that_hangs_ends_the_run(
    external: list[subprocess.Popen[bytes]], moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = str(external[1].args[3])  # type: ignore[index]
    finished = dispatch._finished

    def stop_the_scheduler(client: Any, futures: list[Any]) -> list[Any]:
        done = finished(client, futures)
        if done:
            external[0].send_signal(signal.SIGSTOP)
        return done

    with open_cluster(ClusterSettings(scheduler=address), gpus=0) as cluster:
        outcomes = run_on_workers(cluster, subprocess.check_output, ((f"slow-{n}", TELL_WORKER) for n in range(1000)))
        next(outcomes)
        monkeypatch.setattr(dispatch, "ANSWER_SECONDS", 1)
        if moment == "while shards run":
            external[0].send_signal(signal.SIGSTOP)
        else:
            monkeypatch.setattr(dispatch, "_finished", stop_the_scheduler)
        with pytest.raises(RunError, match="has not answered for 1 s") as raised:
            list(outcomes)
        external[0].send_signal(signal.SIGCONT)  # closing the connection would take as long as it waits for an answer
    assert raised.value.subject == address
