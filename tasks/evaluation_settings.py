"""What an evaluation can be told, and how it tells how far it is. Light: the command line imports it for every command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from cdmodel.setting_groups import FORBID_UNKNOWN

Stage = Literal["score", "ablate", "replay", "plot"]
UnknownLabels = Literal["refuse", "wrong"]
EvaluationRoles = Literal["dataset", "fresh"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateSettings:
    """How a bundle is evaluated."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    roles: EvaluationRoles = "dataset"
    """``dataset``: the roles cal and test as the data set says, or, where it says none, as training divided it.
    ``fresh``: no video was used in training, so that all are divided by group, 30 % to cal and 70 % to test."""
    unknown_labels: UnknownLabels = "refuse"
    """What becomes of videos whose label the bundle does not know. ``refuse``: the data set is refused. ``wrong``: no answer
    to them is right, as for a bundle of before a class was added; means over classes are over those it knows."""
    epsilon: float = 0.02
    """Harm to certify: P(the cascade is wrong where the dense teacher is right)."""
    delta: float = 0.1
    """Probability with which the certificate may be wrong."""
    seed: int = 0
    """Of the bootstrap, of random baselines, and of the division with ``roles = "fresh"``."""
    videos_per_part: int = 100
    """Videos scored between two writes: what a killed evaluation loses at most."""
    allowed_builders: tuple[str, ...] = ()
    """Modules, besides this project's own, whose builders the bundle may name. Naming one runs its code."""

    def __post_init__(self) -> None:
        if not 0 < self.epsilon < 1 or not 0 < self.delta < 1:
            raise ValueError(f"epsilon and delta must lie between 0 and 1, got {self.epsilon} and {self.delta}")
        if self.videos_per_part < 1:
            raise ValueError(f"videos_per_part must be at least 1, got {self.videos_per_part}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationProgress:
    """How far one stage is."""

    stage: Stage
    done: int
    total: int
