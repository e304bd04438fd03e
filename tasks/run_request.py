"""What a user asks of a run, and what planning answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cdmodel.aggregation import Aggregation
from cdmodel.budget import BudgetSettings
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode_limits import DecodeDevice
from cdmodel.errors import ErrorKind
from cdmodel.failure_policy import FailurePolicy
from cdmodel.policies import PolicyChoice
from cdmodel.sampling import ClipSampling
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.types import Shard
from storage.corpus import CorpusRules
from storage.run_store import RunHeader
from tasks.sharding import ShardingSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrySettings:
    """Label again what failed, instead of what SOURCE holds. ``cdlabel retry`` fills it in."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    run_id: str
    """A finished run: of all rows of its source under its models and settings, the latest per video says what failed."""
    reasons: tuple[ErrorKind, ...] = ()
    """Error kinds; none means every failed video. Partial ones are labeled again where their kind is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the user wants labeled, with what, and where the rows go. None means: as the bundle says."""

    source: str
    out: str
    config_toml: str
    corpus: str | None = None
    corpus_rules: CorpusRules = CorpusRules()  # noqa: RUF009 - frozen
    bundle: str | None = None
    """Folder, URL or REGISTRY@NAME."""
    sampling: ClipSampling | None = None
    policy: PolicyChoice | None = None
    aggregation: Aggregation | None = None
    sharding: ShardingSettings = ShardingSettings()  # noqa: RUF009 - frozen
    run_id: str | None = None
    relabel: bool = False
    decode_device: DecodeDevice = "cpu"
    failures: FailurePolicy = FailurePolicy()  # noqa: RUF009 - frozen
    retry: RetrySettings | None = None
    """None looks for videos in ``source``."""
    budget: BudgetSettings | None = None

    @property
    def carry_over(self) -> bool:
        """Whether videos are labeled again some of whose clips did not fit an earlier budget."""
        return self.budget is not None and self.budget.carry_over

    @property
    def retry_reasons(self) -> tuple[str, ...] | None:
        """As the header of the run says it."""
        return None if self.retry is None else self.retry.reasons


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelingPlan:
    """A run that has something to do, and how."""

    header: RunHeader
    shards: tuple[Shard, ...] | None
    """None where the plan is already in storage."""
    resumed: bool
    bundle: str | None
    """Folder or URL that the workers load, the same one until the run is finished; None is the project's own."""
    sampling: ClipSampling
    cascade: CascadeSettings
    videos_tried_again: int = 0
    """Of those planned, the ones that failed before; not known of a run that is resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingToDo:
    """Every video found has a terminal row already, or another run has planned it; or nothing failed."""

    out: str
    videos_skipped: int
    finished_run_id: str | None
    """The run asked for by name, where that is finished."""
    planned_by: tuple[str, ...]
    """Unfinished runs that have planned some of the videos."""
    videos_quarantined: int = 0
    """Of those skipped, the ones that failed before and are not tried again."""
