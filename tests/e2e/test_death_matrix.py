"""Every death at every moment: minutes of processes, hence only by ``make test-faults``.

Prints what each death cost. ``CDLABEL_FAULT_SEED`` draws other times.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import psutil
import pytest
from conftest import CORPUS_VIDEOS
from killed_runs import (
    VIDEOS_PER_SHARD,
    WORKERS,
    CommittedObjects,
    LabelRun,
    Moment,
    assert_complete,
    file_is_published,
    lost_attempts,
    plan_stands,
    shards_stand,
    workers_among,
)

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]

VIDEOS = CORPUS_VIDEOS + 1
SHARDS = -(-VIDEOS // VIDEOS_PER_SHARD)
LOCAL = ("--workers", str(WORKERS))
SEED = int(os.environ.get("CDLABEL_FAULT_SEED", "1"))
RANDOM_TIMES = 3
LABELING_SECONDS = 8.0
"""Random deaths are drawn from so many seconds after the plan stands."""
CLUSTER_SETTINGS = {
    "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "2",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION": "1.0",
    "DASK_DISTRIBUTED__WORKER__DAEMON": "False",
    "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "10 min",
}
"""As docs/reliability.md asks for."""
LOST_AT_MOST = {"worker": 1, "all workers": WORKERS, "nanny": 1, "scheduler": WORKERS, "flow": WORKERS}
"""Attempts at shards that may come to nothing: one for each worker that dies or is left alone."""
MOMENTS: dict[str, Moment] = {
    "plan": plan_stands,
    "first shard": shards_stand(1),
    "last shard": shards_stand(SHARDS),
    "first published file": file_is_published,
}


class Cluster:
    """A scheduler, and nannies with a worker each, as processes of somebody else's cluster."""

    def __init__(self, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{probe.getsockname()[1]}"
        self._environment = {**environment, **CLUSTER_SETTINGS, "PYTHONPATH": str(Path(__file__).parents[2])}
        port = self.address.rpartition(":")[2]
        self.scheduler = self._start("dask_scheduler", "--host", "127.0.0.1", "--port", port)
        self.nannies = [
            self._start("dask_worker", self.address, "--nanny", "--nthreads", "1", "--nworkers", "1")
            for _ in range(WORKERS)
        ]

    def _start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", f"distributed.cli.{module}", *arguments, "--no-dashboard"]
        return subprocess.Popen(command, env=self._environment, stderr=subprocess.DEVNULL)

    def kill_nanny_with_worker(self) -> None:
        nanny = psutil.Process(self.nannies[0].pid)
        for process in (nanny, *nanny.children(recursive=True)):
            process.kill()

    def workers(self) -> list[psutil.Process]:
        return workers_among(one for nanny in self.nannies for one in psutil.Process(nanny.pid).children())

    def end(self) -> None:
        for process in (*self.nannies, self.scheduler):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()
            process.wait()


@contextmanager
def running_cluster(environment: dict[str, str]) -> Iterator[Cluster]:
    cluster = Cluster(environment)
    try:
        deadline = time.monotonic() + 60
        while len(cluster.workers()) < WORKERS and time.monotonic() < deadline:
            time.sleep(0.1)
        yield cluster
    finally:
        cluster.end()


def kill_a_worker(run: LabelRun, _: Cluster | None) -> None:
    run.wait_for_workers(1)[0].kill()


def kill_all_workers(run: LabelRun, _: Cluster | None) -> None:
    for worker in run.wait_for_workers(WORKERS):
        worker.kill()


def kill_a_nanny(_: LabelRun, cluster: Cluster | None) -> None:
    assert cluster is not None
    cluster.kill_nanny_with_worker()


def kill_the_scheduler(_: LabelRun, cluster: Cluster | None) -> None:
    assert cluster is not None
    cluster.scheduler.kill()


def kill_the_flow(run: LabelRun, _: Cluster | None) -> None:
    run.signal(signal.SIGKILL)


DEATHS: dict[str, Callable[[LabelRun, Cluster | None], None]] = {
    "worker": kill_a_worker,
    "all workers": kill_all_workers,
    "nanny": kill_a_nanny,
    "scheduler": kill_the_scheduler,
    "flow": kill_the_flow,
}
EXTERNAL = ("nanny", "scheduler")
KILLED_RUN_ENDS = {"flow": (-signal.SIGKILL,), "scheduler": (1, 2)}
"""What the command may end with; 2 where the scheduler died before it was asked for. All others complete."""


def moments_of(death: str) -> list[str]:
    times = [f"{random.Random(f'{SEED} {death} {n}').uniform(0, LABELING_SECONDS):.1f} s" for n in range(RANDOM_TIMES)]
    # Once all shards stand no worker and no scheduler is needed: publishing is the flow's own.
    named = list(MOMENTS) if death == "flow" else ["plan", "first shard"]
    return named + times


@pytest.mark.parametrize(("death", "moment"), [(death, moment) for death in DEATHS for moment in moments_of(death)])
def test_the_run_or_the_same_command_completes(
    corpus: Path,
    environment: dict[str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    death: str,
    moment: str,
) -> None:
    out = tmp_path / "out"
    with running_cluster(environment) if death in EXTERNAL else nullcontext() as cluster:
        place = LOCAL if cluster is None else ("--scheduler", cluster.address)
        run = LabelRun(corpus, out, environment, *place)
        run.wait_for(MOMENTS.get(moment) or seconds_after_the_plan(float(moment.removesuffix(" s"))))
        stood, shards = CommittedObjects(out), len(list(out.glob("runs/*/shards/*.parquet")))
        DEATHS[death](run, cluster)
        ended = run.end()
    # Of workers that die while they are started, too, the command may make one error.
    expected = KILLED_RUN_ENDS.get(death, (0, 1) if moment == "plan" else (0,))
    assert ended.exit_code in expected, ended.stderr
    if ended.exit_code != 0:
        assert LabelRun(corpus, out, environment, *LOCAL).end().exit_code == 0
    assert_complete(out, videos=VIDEOS)
    stood.assert_unchanged()
    lost = sum(lost_attempts(out).values())
    with capsys.disabled():
        sys.stdout.write(
            f"\n{death} at {moment}, {shards} of {SHARDS} shards stood: exit {ended.exit_code} after {ended.seconds:.1f} s, "
            f"{lost} attempts lost, at most {lost * VIDEOS_PER_SHARD} of {VIDEOS} videos labeled again\n"
        )
    assert lost <= LOST_AT_MOST[death]


def seconds_after_the_plan(seconds: float) -> Moment:
    """Return the moment so long after the plan was first seen to stand."""
    stands_since: list[float] = []

    def has_come(out: Path) -> bool:
        if not stands_since and plan_stands(out):
            stands_since.append(time.monotonic())
        return bool(stands_since) and time.monotonic() - stands_since[0] >= seconds

    return has_come
