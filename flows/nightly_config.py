"""What ``cdlabel serve`` is told: the settings of a labeling run, and when it runs.

One TOML file: everything of ``cdlabel label`` at the top, and a table for each thing that is scheduled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar
from zoneinfo import ZoneInfo

from cdmodel.alarms import AlarmName
from cdmodel.errors import ConfigError
from cdmodel.setting_groups import FORBID_UNKNOWN
from flows.config import LabelRunConfig, load_config, read_toml, validate_settings
from flows.fire_times import next_fires
from flows.retrain_config import RetrainConfig, retrain_config

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
OF_ONE_RUN = ("run_id", "retry", "profile")
"""Settings of ``cdlabel label`` that mean one run, and nothing to a schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSettings:
    """When the archive is labeled."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    cron: str
    """Five fields: minute, hour, day of month, month, day of week."""
    timezone: str = "UTC"
    """IANA name of the zone that the cron's hours are in, such as `Europe/Berlin`."""
    name: str = "nightly"
    """Of the Prefect deployment; two schedules on one Prefect server need two names."""
    catch_up: bool = True
    """Start one run at once if a night was missed, or a run was cut short, while nothing was served."""
    notify: str | None = None
    """A Prefect block that is told of runs that failed or crashed, as `type/name`, such as `slack-webhook/ops`."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.notify is not None and len([part for part in self.notify.split("/") if part]) != 2:
            raise ValueError(f"notify must be type/name of a Prefect block, got {self.notify!r}")
        check_cron(self.cron, self.timezone)


def check_name(name: str) -> None:
    """Raise ValueError for what Prefect would not take as the name of a deployment."""
    if NAME.fullmatch(name) is None:
        raise ValueError(f"name must be letters, digits, '.', '_' and '-', got {name!r}")


def check_cron(cron: str, timezone: str) -> None:
    """Raise ValueError for a zone that there is not, and for a cron that is none or never fires."""
    try:
        ZoneInfo(timezone)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"timezone: there is no zone {timezone!r}") from error
    next_fires(cron, timezone, datetime.now(UTC), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainScheduleSettings:
    """When a cycle of retraining is begun."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    cron: str | None = None
    """As in `[schedule]`; without one only alarms begin a cycle."""
    timezone: str = "UTC"
    """As in `[schedule]`."""
    name: str = "retrain"
    """Of the Prefect deployment."""
    on_alarms: tuple[AlarmName, ...] = ()
    """Alarms of the nights (`[alarms]` sets their limits) that begin a cycle, but for `retrain.cooldown_hours`."""

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.cron is None and not self.on_alarms:
            raise ValueError("give a cron, or on_alarms, or both: nothing would ever begin a cycle")
        if self.cron is not None:
            check_cron(self.cron, self.timezone)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedTables:
    """The tables of the file that are no settings of ``cdlabel label``."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    schedule: ScheduleSettings
    retrain_schedule: RetrainScheduleSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRetraining:
    """What is retrained, and when."""

    config: RetrainConfig
    schedule: RetrainScheduleSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class NightlyConfig:
    """What is served, and when."""

    label: LabelRunConfig
    schedule: ScheduleSettings
    retraining: ServedRetraining | None = None


def load_nightly_config(file: Path) -> NightlyConfig:
    """Read the file and check all of it.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    settings = read_toml(file)
    tables = {name: settings.pop(name) for name in ServedTables.__dataclass_fields__ if name in settings}
    _refuse_settings_of_one_run(settings)
    served = validate_settings(ServedTables, tables)
    retraining = None
    if served.retrain_schedule is not None:
        retraining = ServedRetraining(config=retrain_config(settings), schedule=served.retrain_schedule)
        if served.retrain_schedule.name == served.schedule.name:
            raise ConfigError("retrain_schedule.name", f"{served.schedule.name} is the name of the nights' schedule")
    settings.pop("retrain", None)
    return NightlyConfig(label=load_config(None, [], {}, settings), schedule=served.schedule, retraining=retraining)


def _refuse_settings_of_one_run(settings: dict[str, Any]) -> None:
    for name in OF_ONE_RUN:
        if name in settings:
            raise ConfigError(name, "belongs to one run; leave it out of a schedule")
