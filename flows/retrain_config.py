"""What ``cdlabel retrain`` is told: where the labels are, which cluster trains, and the table ``[retrain]``.

The file is the one that labels every night: its other settings belong to ``cdlabel label`` and are checked, not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cdmodel.errors import ConfigError
from flows.config import LabelRunConfig, ModelSettings, assign, read_toml, validate_model
from flows.dispatch import ClusterSettings
from storage.corpus import CorpusRules
from storage.filesystem import absolute_uri
from tasks.retrain_request import RetrainRequest, RetrainSettings

OF_THE_SCHEDULES = ("schedule", "retrain_schedule")
"""Tables of the same file that ``cdlabel serve`` reads."""


class RetrainConfig(BaseModel):
    """Everything a cycle of retraining can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: str = Field(description="Folder or URL of the tables that are learned from.")
    retrain: RetrainSettings
    corpus: CorpusRules = CorpusRules()
    models: ModelSettings = ModelSettings()
    cluster: ClusterSettings = ClusterSettings()

    @field_validator("out")
    @classmethod
    def _make_absolute(cls, place: str) -> str:
        """Workers have other working directories."""
        return absolute_uri(place)


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyNow:
    """What a cycle was asked for by."""

    reason: str = "by hand"
    by_alarm: bool = False
    """It then keeps the cool-down."""


def load_retrain_config(file: Path, assignments: Sequence[str]) -> RetrainConfig:
    """Read the file and check all of it.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    settings = read_toml(file)
    assign(settings, assignments)
    return retrain_config(settings)


def retrain_config(settings: dict[str, Any]) -> RetrainConfig:
    """Pick what retraining needs out of the settings of a night, and refuse those that nobody knows.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    if "retrain" not in settings:
        raise ConfigError("retrain", "is missing: name at least retrain.registry, see docs/retraining.md")
    unknown = set(settings) - set(LabelRunConfig.model_fields) - {"retrain", *OF_THE_SCHEDULES}
    if unknown:
        raise ConfigError(min(unknown), "unknown setting; see docs/configuration.md")
    return validate_model(
        RetrainConfig, {name: value for name, value in settings.items() if name in RetrainConfig.model_fields}
    )


def to_retrain_request(config: RetrainConfig, why: WhyNow) -> RetrainRequest:
    """Return the part of the configuration that a cycle needs."""
    return RetrainRequest(
        out=config.out,
        settings=config.retrain,
        corpus=config.corpus,
        allowed_builders=config.models.allowed_builders,
        reason=why.reason,
    )
