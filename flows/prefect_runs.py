"""Flow runs whose process was killed: Prefect shows them as running for ever, until the next run closes them here.

A flow run carries the place it writes to, its run id and the identity of its process as tags. Only runs whose process is
known to be dead are touched: on this machine and in this container, under another boot, or with no process of that number
and start time. What runs elsewhere may be alive.
"""

from __future__ import annotations

import os
import socket
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


def claim_flow_run(out: str, run_id: str) -> None:
    """Tag the flow run of this process, and close those of dead processes that worked on the same run."""
    work = [f"out:{out}", f"run:{run_id}"]
    flow_run = get_run_context().flow_run  # type: ignore[union-attr]
    if flow_run is None:
        return
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags={*flow_run.tags, *work, PROCESS + process_identity()})
        for other in _running(client, work):
            if other.id != flow_run.id and is_known_dead(_identity_of(other)):
                message = "Its process was killed; a later run went on with the work"
                client.set_flow_run_state(other.id, Crashed(message=message), force=True)


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


def _running(client: SyncPrefectClient, tags: list[str]) -> list[FlowRun]:
    unfinished = FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=tags), state=FlowRunFilterState(type=unfinished))
    )


def _identity_of(flow_run: FlowRun) -> str:
    return next((tag.removeprefix(PROCESS) for tag in flow_run.tags if tag.startswith(PROCESS)), "")


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
