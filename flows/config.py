"""The settings of a labeling run: one model, composed of the groups that are declared beside their users.

Precedence, last wins: defaults, the TOML file, ``--set key=value``, the command's own arguments. Nothing comes from the
environment, and no secret belongs in here: S3 has its own ways.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from cdmodel.aggregation import Aggregation
from cdmodel.alarms import AlarmSettings
from cdmodel.audit_draw import AuditSettings
from cdmodel.budget import BudgetSettings
from cdmodel.cost import PriceTable
from cdmodel.decode_limits import DecodeLimits
from cdmodel.errors import ConfigError
from cdmodel.failure_policy import FailurePolicy
from cdmodel.policies import PolicyChoice
from cdmodel.sampling import ClipSampling
from cdmodel.setting_groups import FORBID_UNKNOWN
from flows.dispatch import ClusterSettings
from storage.bundles import absolute_bundle
from storage.corpus import CorpusRules
from storage.filesystem import absolute_uri
from storage.run_layout import RETRAIN_PREFIX
from storage.uri import lies_inside
from tasks.run_request import RetrySettings, RunRequest
from tasks.sharding import ShardingSettings

Settings = TypeVar("Settings")
Model = TypeVar("Model", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which bundle labels."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    bundle: str | None = None
    """Folder or URL, or REGISTRY@NAME, such as `s3://models@production`, where the name is an alias or a version; a run
    keeps the bundle that it began with. Without one the demo bundle that ships with the project is used."""
    allowed_builders: tuple[str, ...] = ()
    """Modules, besides this project's own, whose builders a bundle may name. Naming one runs its code."""

    def __post_init__(self) -> None:
        if self.bundle is not None:
            object.__setattr__(self, "bundle", absolute_bundle(self.bundle))


class LabelRunConfig(BaseModel):
    """Everything ``cdlabel label`` can be told."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="Folder, glob, URL or manifest of the videos.")
    out: str = Field(description="Folder or URL that receives the tables.")
    run_id: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$",
        description="Name of the run; by default made from the date and the plan's content. None begins with `retrain-`.",
    )
    relabel: bool = Field(default=False, description="Label also what has a terminal row under the same fingerprint.")
    retry: RetrySettings | None = None
    failures: FailurePolicy = FailurePolicy()
    corpus_name: str | None = Field(
        default=None, description="Value of the column corpus; by default SOURCE's last part."
    )
    corpus: CorpusRules = CorpusRules()
    models: ModelSettings = ModelSettings()
    sampling: ClipSampling | None = Field(default=None, description="By default the bundle's.")
    escalation: Annotated[PolicyChoice, Field(discriminator="kind")] | None = Field(
        default=None, description="Policy; by default the bundle's."
    )
    aggregation: Annotated[Aggregation, Field(discriminator="kind")] | None = Field(
        default=None, description="By default the bundle's."
    )
    decode: DecodeLimits = DecodeLimits()
    sharding: ShardingSettings = ShardingSettings()
    cluster: ClusterSettings = ClusterSettings()
    budget: BudgetSettings | None = Field(default=None, description="What the teacher may cost; no limit without it.")
    audit: AuditSettings = AuditSettings()
    alarms: AlarmSettings = AlarmSettings()
    prices: PriceTable | None = Field(default=None, description="Fills cost_usd; null without it.")
    profile: str | None = Field(
        default=None,
        description="New file, or URL, outside OUT: receives where the command's time went, see [throughput](throughput.md).",
    )

    @model_validator(mode="after")
    def _dollars_need_prices(self) -> LabelRunConfig:
        if self.budget is not None and self.budget.usd is not None and self.prices is None:
            raise ValueError("budget.usd needs a price table: set prices")
        return self

    @field_validator("run_id")
    @classmethod
    def _no_cycle(cls, run_id: str | None) -> str | None:
        if run_id is not None and run_id.startswith(RETRAIN_PREFIX):
            raise ValueError(f"names that begin with {RETRAIN_PREFIX} are those of retraining cycles")
        return run_id

    @field_validator("source", "out", "profile")
    @classmethod
    def _make_absolute(cls, place: str | None) -> str | None:
        """Workers have other working directories."""
        return None if place is None else absolute_uri(place)

    @model_validator(mode="after")
    def _profile_is_no_table(self) -> LabelRunConfig:
        if self.profile is not None and (self.profile == self.out or lies_inside(self.profile, self.out)):
            raise ValueError(f"profile must lie outside OUT, which holds tables alone: {self.profile}")
        return self


def load_config(
    file: Path | None,
    assignments: Sequence[str],
    arguments: Mapping[str, Any],
    defaults: Mapping[str, Any] | None = None,
) -> LabelRunConfig:
    """Compose the configuration; ``arguments`` holds dotted keys, and None means not given.

    ``defaults`` are the settings of another run; a table in the file replaces theirs of that name.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    settings = {**(defaults or {}), **read_toml(file)}
    assign(settings, assignments)
    for key, value in arguments.items():
        if value is not None:
            _put(settings, key, value)
    return validate_model(LabelRunConfig, settings)


def validate_model(kind: type[Model], settings: Mapping[str, Any]) -> Model:
    """Turn what was read into a configuration of that kind.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    try:
        return kind.model_validate(settings)
    except ValidationError as error:
        raise explain(error) from error


def load_settings(
    kind: type[Settings], file: Path | None, assignments: Sequence[str], arguments: Mapping[str, Any] | None = None
) -> Settings:
    """Compose the settings of one command from a TOML file, ``--set`` and its own options; None means not given.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    settings = read_toml(file)
    assign(settings, assignments)
    settings |= {key: value for key, value in (arguments or {}).items() if value is not None}
    return validate_settings(kind, settings)


def load_dataset_settings(
    kind: type[Settings], file: Path | None, assignments: Sequence[str]
) -> tuple[Settings, CorpusRules]:
    """Compose the settings of a command that reads a labeled data set, and from ``[corpus]`` how it may be read.

    Where a manifest's videos may lie decides nothing about the outcome, so it is no part of what a bundle records.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    settings = read_toml(file)
    assign(settings, assignments)
    corpus = {"corpus": settings.pop("corpus")} if "corpus" in settings else {}
    return validate_settings(kind, settings), validate_settings(_CorpusTable, corpus).corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class _CorpusTable:
    """Names the table in messages about what it holds."""

    corpus: CorpusRules = CorpusRules()  # noqa: RUF009 - frozen


def validate_settings(kind: type[Settings], settings: Mapping[str, Any]) -> Settings:
    """Turn what was read into settings of that kind.

    Raises:
        ConfigError: naming the setting and what is wrong with it.
    """
    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        raise explain(error) from error


def read_toml(file: Path | None) -> dict[str, Any]:
    """Return the tables of a TOML file; no file is no settings.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    if file is None:
        return {}
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(str(file), f"cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), f"is not TOML: {error}") from error


def explain(error: ValidationError) -> ConfigError:
    """Turn the first finding of a validation into one line."""
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "configuration"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return ConfigError(key, "unknown setting; see docs/configuration.md")
    if first["type"] == "missing":
        return ConfigError(key, "is missing")
    message = first["msg"].removeprefix("Value error, ")
    # A rule of a whole table names the setting and the value itself; the table would bury them.
    is_of_table = first["type"] == "value_error" and isinstance(first["input"], Mapping)
    got = "" if is_of_table else f" (got {first['input']!r})"
    return ConfigError(key, message + got)


def to_toml(config: LabelRunConfig) -> str:
    """Return the resolved configuration; settings without a value are left out."""
    return tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))


def to_json(config: LabelRunConfig) -> str:
    """Return the resolved configuration on one line."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True)


def to_request(config: LabelRunConfig) -> RunRequest:
    """Return the part of the configuration that planning needs."""
    return RunRequest(
        source=config.source,
        out=config.out,
        corpus=config.corpus_name,
        corpus_rules=config.corpus,
        bundle=config.models.bundle,
        sampling=config.sampling,
        policy=config.escalation,
        aggregation=config.aggregation,
        sharding=config.sharding,
        run_id=config.run_id,
        relabel=config.relabel,
        config_toml=to_toml(config),
        decode_device=config.decode.device,
        failures=config.failures,
        retry=config.retry,
        budget=config.budget,
    )


def assign(settings: dict[str, Any], assignments: Sequence[str]) -> None:
    """Put each ``key=value`` into the settings; dots lead into tables.

    Raises:
        ConfigError: one has another form, or leads into a value.
    """
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator:
            raise ConfigError(f"--set {assignment}", "must have the form key=value")
        _put(settings, key.strip(), _parse_value(text.strip()))


def _put(settings: dict[str, Any], dotted_key: str, value: object) -> None:
    *tables, name = dotted_key.split(".")
    table = settings
    for part in tables:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(dotted_key, f"{part} is a value, not a table of settings")
    table[name] = value


def _parse_value(text: str) -> object:
    """Read a value as TOML would; what is not TOML is a plain string, so that paths need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
