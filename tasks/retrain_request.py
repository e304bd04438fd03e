"""What a user asks of the learning loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from cdmodel.example_settings import CollectSettings
from cdmodel.gate_settings import GateSettings
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.train_settings import TrainSettings
from storage.corpus import CorpusRules
from storage.filesystem import absolute_uri
from storage.published_datasets import published_source


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainSettings:
    """How tomorrow's student is made from what the teacher said."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    registry: str
    """Folder or URL of the models. Cycles are recorded there too."""
    alias: str = "production"
    """What labels, and what a better candidate replaces."""
    benchmark: str | None = None
    """Labeled data set (as of ``cdlabel evaluate``) that is never learned from: the gate's fixed yardstick."""
    warm_start: bool = True
    """Whether the student starts from the one in production instead of from nothing."""
    keep_cost: bool = False
    """Let the candidate send no more clips to the teacher than production would of the same videos (``no_dearer_than``), for
    whom there is no more to spend: in a harder world it then stays as cheap, and agrees with the teacher less often."""
    train: TrainSettings | None = None
    """How the candidate is trained. By default: the architecture in production, its teacher taken as it is, and 800 steps at
    a low rate, or with ``warm_start = false`` as ``cdlabel train`` does."""
    collect: CollectSettings = field(default_factory=CollectSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    cooldown_hours: float = 0.0
    """A cycle that an alarm asks for is not begun within so many hours of the last one's beginning."""

    def __post_init__(self) -> None:
        # Workers have other working directories.
        object.__setattr__(self, "registry", absolute_uri(self.registry))
        if self.benchmark is not None and published_source(self.benchmark) is None:
            object.__setattr__(self, "benchmark", absolute_uri(self.benchmark))
        if not 0 <= self.cooldown_hours < float("inf"):
            raise ValueError(f"cooldown_hours must be at or above 0, got {self.cooldown_hours}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrainRequest:
    """One call of the loop."""

    out: str
    settings: RetrainSettings
    corpus: CorpusRules = CorpusRules()  # noqa: RUF009 - frozen
    allowed_builders: tuple[str, ...] = ()
    reason: str = "by hand"
