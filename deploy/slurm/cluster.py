"""A Dask cluster whose workers are SLURM jobs that come with the work and go when there is none, until Ctrl-C.

    pip install dask-jobqueue
    python deploy/slurm/cluster.py --partition gpu --most 32 --tls /shared/certificates/dask-tls.env

Runs where jobs can reach it, such as a login node; then, on the same machine or another one:

    cdlabel label SOURCE --out OUT --scheduler ADDRESS
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import dask

DASK_ENV = Path(__file__).resolve().parents[1] / "dask.env"


def main() -> None:
    """Read the options, start the cluster, and say its address."""
    options = parse_options()
    export_settings([DASK_ENV, *options.tls])
    cluster = open_cluster(options)
    if options.print_job:
        sys.stdout.write(cluster.job_script())
    else:
        # A worker is let go after three minutes without work.
        cluster.adapt(minimum=options.least, maximum=options.most, interval="10s", wait_count=18)
        sys.stderr.write(f"cdlabel label SOURCE --out OUT --scheduler {cluster.scheduler_address}\n")
        wait_for_a_signal()
    cluster.close()


def parse_options() -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="A Dask cluster of SLURM jobs, one worker each.")
    parser.add_argument("--partition", help="queue of the jobs")
    parser.add_argument("--account")
    parser.add_argument("--least", type=int, default=0, help="workers that stay")
    parser.add_argument("--most", type=int, default=16, help="workers at once")
    parser.add_argument("--cores", type=int, default=8, help="per worker")
    parser.add_argument("--memory", default="32GB", help="per worker")
    parser.add_argument("--gpus", type=int, default=1, choices=(0, 1), help="per worker")
    parser.add_argument("--minutes", type=int, default=240, help="time limit of a job")
    parser.add_argument("--port", type=int, default=8786, help="of the scheduler")
    parser.add_argument("--tls", type=Path, nargs=1, default=[], metavar="DASK_TLS_ENV", help="encrypt, with these")
    parser.add_argument("--print-job", action="store_true", help="print a worker's job and end")
    return parser.parse_args()


def export_settings(files: list[Path]) -> None:
    """Put the lines of the files into our environment, which the scheduler and the jobs inherit."""
    for file in files:
        for line in shlex.split(file.read_text(encoding="utf-8"), comments=True):
            name, _, value = line.partition("=")
            os.environ[name] = value
    dask.config.refresh()


def open_cluster(options: argparse.Namespace) -> Any:
    """Return a cluster without workers."""
    from dask_jobqueue import SLURMCluster

    return SLURMCluster(
        queue=options.partition,
        account=options.account,
        cores=1,  # threads: a worker labels one shard at a time
        processes=1,
        job_cpu=options.cores,
        memory=options.memory,
        walltime=f"{options.minutes // 60:02d}:{options.minutes % 60:02d}:00",
        job_extra_directives=[f"--gpus={options.gpus}"] if options.gpus else [],
        # Leaves before its job is ended, so that its shard goes to another at once; not all in the same minute.
        worker_extra_args=["--lifetime", f"{options.minutes - 10}m", "--lifetime-stagger", "5m"],
        local_directory=os.environ.get("TMPDIR", "/tmp"),
        protocol="tls://" if options.tls else "tcp://",
        scheduler_options={"port": options.port, "dashboard_address": ":0"},
    )


def wait_for_a_signal() -> None:
    """Return at the first SIGINT or SIGTERM."""
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    asked.wait()


if __name__ == "__main__":
    main()
