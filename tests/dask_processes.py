"""A Dask scheduler and workers as processes of their own, as an operator would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class DaskProcesses:
    """What was started, and how to start more."""

    address: str
    environment: Mapping[str, str] = field(default_factory=dict)
    worker_prefix: Sequence[str] = ()
    """A command that runs the workers, as one does that puts them elsewhere."""
    scheduler: subprocess.Popen[bytes] | None = None
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add_worker(self, environment: Mapping[str, str] | None = None, log: Path | None = None) -> None:
        command = ["distributed.cli.dask_worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
        self.workers.append(_start(command, {**self.environment, **(environment or {})}, log, self.worker_prefix))

    def end(self) -> None:
        for process in [self.scheduler, *self.workers]:
            if process is not None:
                process.kill()
                process.wait()


@contextmanager
def dask_processes(
    *,
    protocol: str = "tcp",
    address: str | None = None,
    environment: Mapping[str, str] | None = None,
    scheduler_prefix: Sequence[str] = (),
    worker_prefix: Sequence[str] = (),
) -> Iterator[DaskProcesses]:
    """A scheduler, by default on loopback, and one worker; ended with the context, whatever was added too."""
    address = address or f"{protocol}://127.0.0.1:{free_port()}"
    started = DaskProcesses(address=address, environment=environment or {}, worker_prefix=worker_prefix)
    command = ["distributed.cli.dask_scheduler", "--host", address, "--no-dashboard"]
    started.scheduler = _start(command, started.environment, prefix=scheduler_prefix)
    try:
        started.add_worker()
        yield started
    finally:
        started.end()


def _start(
    command: list[str], environment: Mapping[str, str], log: Path | None = None, prefix: Sequence[str] = ()
) -> subprocess.Popen[bytes]:
    with Path(os.devnull if log is None else log).open("wb") as stderr:
        return subprocess.Popen(
            [*prefix, sys.executable, "-m", *command], stderr=stderr, env={**os.environ, **environment}
        )


def free_port() -> int:
    """Return one of loopback that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
