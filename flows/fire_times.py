"""When a cron fires, and whether a night was missed: pure functions of times.

Fire times are those of the cron reader that Prefect's own scheduler uses, so that what is said here is what happens there.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Literal
from zoneinfo import ZoneInfo

from prefect._vendor.croniter.croniter import CroniterBadDateError, CroniterError, croniter

FIELDS = 5

CatchUp = Literal["unfinished", "missed"]
"""Why a run starts as soon as a schedule is served: one was cut short, or none ran at the last time that it should have."""


def next_fires(cron: str, timezone: str, now: datetime, count: int) -> tuple[datetime, ...]:
    """Return the next times, after ``now``, that the cron fires; aware, in the zone.

    Raises:
        ValueError: it is no cron of five fields, or one that never fires.
    """
    return tuple(islice(_fires(cron, timezone, now, backwards=False), count))


def last_fire(cron: str, timezone: str, now: datetime) -> datetime:
    """Return the latest time up to ``now`` at which the cron fired, or would have.

    Raises:
        ValueError: as ``next_fires``.
    """
    just_after = now.replace(second=0, microsecond=0) + timedelta(seconds=1)
    return next(_fires(cron, timezone, just_after, backwards=True))


def why_catch_up(
    *, last_due: datetime, last_run: datetime | None, served_since: datetime | None, unfinished: bool
) -> CatchUp | None:
    """Tell whether one run has to start now to make good for what was missed, and why; None if nothing was.

    ``last_due`` is the last time that the cron fired. ``last_run`` is when the latest run started that came to its end,
    and ``served_since`` when the schedule was first served; None is never. However many nights were missed, one run makes
    good for all: it labels whatever is there. A schedule that is served for the first time has missed nothing.
    """
    if unfinished:
        return "unfinished"
    known = [moment for moment in (last_run, served_since) if moment is not None]
    return "missed" if known and max(known) < last_due else None


def _fires(cron: str, timezone: str, now: datetime, *, backwards: bool) -> Iterator[datetime]:
    """Yield fire times from ``now`` on, in local time; an hour that does not exist or comes twice is counted once."""
    _check(cron)
    zone = ZoneInfo(timezone)
    moments = croniter(cron, now.astimezone(zone).replace(tzinfo=None))
    while True:
        try:
            local = (moments.get_prev if backwards else moments.get_next)(datetime)
        except CroniterBadDateError as error:
            raise ValueError(f"cron {cron!r} never fires") from error
        yield local.replace(tzinfo=zone)


def _check(cron: str) -> None:
    try:
        readable = len(cron.split()) == FIELDS and croniter.is_valid(cron)
    except CroniterError:
        readable = False
    if not readable or {"r", "h"} & {field.casefold() for field in cron.split()}:
        raise ValueError(f"cron {cron!r} is none: it needs minute, hour, day of month, month and day of week")
