"""Flow runs whose process was killed: Prefect shows them as running for ever, until the next run closes them here.

A flow run carries the place it writes to, its run id and the identity of its process as tags. Only runs whose process is
known to be dead are touched: on this machine and in this container, under another boot, or with no process of that number
and start time. What runs elsewhere may be alive.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import get_run_context
from prefect.states import Crashed

PROCESS = "process:"
SERVED = "served-by:"
"""Of a deployment, and so of its flow runs: the process that serves it, which starts theirs."""
KILLED = "Its process was killed; a later run went on with the work"
KILLED_BEFORE_SERVING = "Its process was killed; what is committed is kept, the next run goes on with it"
ORPHAN_SECONDS = 30.0
"""How long a run may take to notice that the process that served it is gone."""


def claim_flow_run(out: str, run_id: str) -> None:
    """Tag the flow run of this process, and close those of dead processes that worked on the same run."""
    work = [f"out:{out}", f"run:{run_id}"]
    flow_run = _tag_ours(work)
    if flow_run is not None:
        with get_client(sync_client=True) as client:
            _close_dead(client, [run for run in _running(client, work) if run.id != flow_run.id], KILLED)


def claim_process(out: str) -> None:
    """Tag the flow run of this process as writing to OUT, which it will be some time before it has planned a run."""
    _tag_ours([f"out:{out}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class RunsOfOut:
    """The flow runs at a place that Prefect took for running."""

    closed: tuple[FlowRun, ...]
    """Their processes were dead."""
    alive: tuple[FlowRun, ...]
    """Or not known to be dead."""


def close_dead_runs(client: SyncPrefectClient, out: str) -> RunsOfOut:
    """Close the flow runs of dead processes at OUT as Crashed, which frees their place in a concurrency limit.

    A run whose server is dead is given some time to end as well.
    """
    closed: list[FlowRun] = []
    deadline = time.monotonic() + ORPHAN_SECONDS
    while True:
        running = _running(client, [f"out:{out}"])
        dead = _close_dead(client, running, KILLED_BEFORE_SERVING)
        closed += dead
        alive = tuple(run for run in running if run not in dead)
        if not any(_is_orphan(run) for run in alive) or time.monotonic() > deadline:
            return RunsOfOut(closed=tuple(closed), alive=alive)
        time.sleep(0.5)


def process_identity() -> str:
    """Return host, process namespace, boot, process id and start time of this process, separated by spaces."""
    return " ".join((*_place(), _boot(), str(os.getpid()), str(_start(os.getpid()))))


def is_known_dead(identity: str) -> bool:
    """Tell whether the process of that identity is certainly gone; False where that cannot be known from here."""
    parts = identity.split(" ")
    if len(parts) != 5 or (parts[0], parts[1]) != _place():
        return False
    _, _, boot, pid, start = parts
    return boot != _boot() or not pid.isdecimal() or start != str(_start(int(pid)))


def is_known_alive(identity: str) -> bool:
    """Tell whether another process of that identity certainly runs; False where that cannot be known from here."""
    parts = identity.split(" ")
    if len(parts) != 5 or (parts[0], parts[1]) != _place() or is_known_dead(identity):
        return False
    return int(parts[3]) != os.getpid()


def _tag_ours(tags: list[str]) -> FlowRun | None:
    """Add tags, and who we are, to the flow run of this process; None outside of one."""
    flow_run = get_run_context().flow_run  # type: ignore[union-attr]
    if flow_run is None:
        return None
    flow_run.tags = sorted({*flow_run.tags, *tags, PROCESS + process_identity()})
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=flow_run.tags)
    return flow_run


def _close_dead(client: SyncPrefectClient, running: Iterable[FlowRun], message: str) -> list[FlowRun]:
    """Close and return those whose process is known to be dead."""
    dead = [run for run in running if is_known_dead(_identity_of(run))]
    for run in dead:
        client.set_flow_run_state(run.id, Crashed(message=message), force=True)
    return dead


def _is_orphan(flow_run: FlowRun) -> bool:
    return is_known_dead(tagged(flow_run.tags, SERVED))


def tagged(tags: Iterable[str], prefix: str) -> str:
    """Return the rest of the tag that starts like this; empty if there is none."""
    return next((tag.removeprefix(prefix) for tag in tags if tag.startswith(prefix)), "")


def _running(client: SyncPrefectClient, tags: list[str]) -> list[FlowRun]:
    unfinished = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=tags), state=FlowRunFilterState(type=unfinished))
    )


def _identity_of(flow_run: FlowRun) -> str:
    """Return the identity of the run's process; of the one that serves it while its own has not said so yet."""
    return tagged(flow_run.tags, PROCESS) or tagged(flow_run.tags, SERVED)


def _place() -> tuple[str, str]:
    """Return the machine and the process namespace, within which a process id means something."""
    try:
        return socket.gethostname(), str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return socket.gethostname(), "pid"


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"


def _start(pid: int) -> str:
    """Return when the process started, in hundredths of a second; empty if there is none, or it waits to be reaped."""
    try:
        process = psutil.Process(pid)
        return "" if process.status() == psutil.STATUS_ZOMBIE else f"{process.create_time() * 100:.0f}"
    except psutil.NoSuchProcess:
        return ""
