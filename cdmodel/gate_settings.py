"""What the gate between a candidate and production can be told. Light: every command imports it with the configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from cdmodel.setting_groups import FORBID_UNKNOWN

Audits = Literal["if_enough", "required"]
Better = Literal["any_set", "every_set", "pooled"]
"""On which sets the interval of the gain in accuracy must lie above 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """When a retrained bundle takes the place of the one in production. Accuracies and harm are shares of videos, 0 to 1."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    accuracy_margin: float = 0.03
    """How much accuracy a candidate may lose against production, on the benchmark, and still count as not worse."""
    audit_margin: float = 0.05
    """The same on the audits, where the teacher's answer is the truth: a candidate that is right where the teacher errs
    counts as wrong there, and one that asks it less often agrees with it less often."""
    teacher_margin: float = 0.03
    """The same for the dense teacher of the candidate against that of production."""
    min_saving: float = 0.03
    """Share of production's FLOPs per video that a candidate must save to be promoted for its cost."""
    cost_margin: float = 0.1
    """Share of production's FLOPs per video that a candidate may cost more to be promoted for its accuracy."""
    accuracy_price: float = 0.05
    """Accuracy that a dense teacher more has to bring: a candidate that costs more than ``cost_margin`` allows is promoted if
    its gain in accuracy likely exceeds that times the share of its dense teacher that it costs more. The default is the
    price by which bundles choose their threshold; at 1, a point for a percent, hardly any is."""
    better: Better = "any_set"
    """Where accuracy must likely be better, or worth its price, to be promoted for it: on one set at least, on each, or on
    all videos taken together. The mean gain over all videos must be above 0 in any case."""
    confidence: float = 0.95
    """Of the one-sided bounds of what must not happen: accuracy lost, nothing saved."""
    better_confidence: float = 0.8
    """Of the one-sided bounds of what is hoped for, a gain in accuracy. Lower, since who is mistaken there promotes a
    bundle that is no worse."""
    harm_limit: float = 0.1
    """Largest harm: P(the cascade is wrong where the dense teacher is right), on the benchmark; on the audits, where the
    teacher is right by definition, only if there is no benchmark. So are calibration, teacher and classes."""
    harm_confidence: float = 0.9
    """With which harm must be shown to be at most ``harm_limit``."""
    calibration_limit: float = 0.05
    """Largest expected calibration error of the videos' confidence, beyond what chance alone gives so many videos."""
    calibration_margin: float = 0.03
    """How much above production's that error may lie even where it exceeds the limit."""
    class_drop: float = 0.25
    """Loss of a class's recall from which it can count as collapsed; it does where chance does not explain it."""
    student_class_drop: float = 0.4
    """The same of the student alone, whose recalls vary more from one training to the next."""
    class_alpha: float = 0.05
    """Probability of calling any class collapsed where none has; shared by all classes (Holm)."""
    dropped_labels: tuple[str, ...] = ()
    """Labels of production that a candidate may lack; their videos are then left out. Any other one stops it."""
    untaught_labels: tuple[str, ...] = ()
    """Labels that no training video of a candidate need show; any other one stops it, unless production's has not seen it
    either."""
    min_groups: int = 30
    """Fewest groups of a set that the gate decides by."""
    audits: Audits = "if_enough"
    """``if_enough``: audits of fewer groups than that are left out where there is a benchmark; ``required``: the gate then
    refuses."""
    unreadable_limit: float = 0.1
    """Largest share of a set's videos that may be unreadable."""
    first_accuracy: float = 0.5
    """Accuracy that a first bundle must surely have, with nothing in production to compare with."""
    first_loss: float = 0.05
    """Accuracy that a first bundle may lose against its own dense teacher."""
    first_saving: float = 0.1
    """Share of its dense teacher's FLOPs that a first bundle must save."""
    draws: int = 2000
    """Of each bootstrap and simulation."""
    seed: int = 0
    """Of the same."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, float) and not (math.isfinite(value) and 0 <= value <= 1):
                raise ValueError(f"{field.name} must lie between 0 and 1, got {value}")
        for name in ("confidence", "better_confidence", "harm_confidence", "harm_limit", "class_alpha"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must lie strictly between 0 and 1, got {getattr(self, name)}")
        for name in ("confidence", "better_confidence"):
            if getattr(self, name) <= 0.5:
                raise ValueError(f"{name} must lie above 0.5, got {getattr(self, name)}")
        if self.min_groups < 2:
            raise ValueError(f"min_groups must be at least 2, got {self.min_groups}")
        if self.draws < 100:
            raise ValueError(f"draws must be at least 100, got {self.draws}")
