"""How the latest run of a schedule ended, as OUT has it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from storage.filesystem import absolute_uri, open_store
from storage.output import check_output
from storage.run_store import list_runs
from tasks.run_request import RunRequest
from tasks.work_identity import resolve_work


@dataclass(frozen=True, slots=True, kw_only=True)
class LastNight:
    """The runs of a source under one OUT."""

    planned_at: datetime | None
    """When the latest finished run was planned; None if none is finished."""
    unfinished: str | None
    """The run that a run of this request goes on with."""


def read_last_night(request: RunRequest) -> LastNight:
    """Return what OUT knows of earlier runs of the same source.

    Raises:
        UsageError: the request cannot be carried out: its bundle or OUT cannot be used.
        StorageError: OUT cannot be read.
    """
    store = open_store(request.out)
    check_output(store)
    fingerprint = resolve_work(request).fingerprint
    nights = [
        run
        for run in list_runs(store)
        if run.header.source == absolute_uri(request.source) and run.header.retry_reasons is None
    ]
    open_runs = [run.header.run_id for run in nights if not run.finished and run.header.fingerprint == fingerprint]
    return LastNight(
        planned_at=max((run.header.created_at for run in nights if run.finished), default=None),
        unfinished=open_runs[-1] if open_runs else None,
    )
