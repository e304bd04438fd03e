"""Which students an ablation trains, and how: what ``cdlabel ablate`` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pydantic import JsonValue

from cdmodel.bundle import BundleManifest
from cdmodel.errors import ConfigError
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.student_recipes import ABLATIONS
from cdmodel.train_settings import StudentSettings, TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSettings:
    """Which ablations are trained, and how often."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training of every arm each; all arms of a seed start alike and see the same clips."""
    arms: tuple[str, ...] = tuple(ABLATIONS)
    """Names of ablations, see docs/evaluation.md; by default all."""
    steps: int = 2000
    """Of each student; as in the training of a bundle."""
    learning_rate: float = 0.004
    """The highest; it rises to it and falls from it again (one cycle)."""
    clips_per_step: int = 32
    """Of each role."""
    background_weight: float = 0.15
    """Least weight of a clip that does not seem to show its video's label; not used where a video may have several."""
    allowed_builders: tuple[str, ...] = ()
    """Modules, besides this project's own, whose builders the bundle may name. Naming one runs its code."""

    def __post_init__(self) -> None:
        self._check_plan()
        for name, at_least in (("steps", 2), ("clips_per_step", 2)):
            if getattr(self, name) < at_least:
                raise ConfigError(name, f"must be at least {at_least}, got {getattr(self, name)}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError("learning_rate", f"must be above 0 and below 1, got {self.learning_rate}")
        if not 0 <= self.background_weight <= 1:
            raise ConfigError("background_weight", f"must lie between 0 and 1, got {self.background_weight}")

    def _check_plan(self) -> None:
        unknown = [arm for arm in self.arms if arm not in ABLATIONS]
        if unknown:
            raise ConfigError("arms", f"{', '.join(unknown)} is no ablation; there are {', '.join(ABLATIONS)}")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ConfigError("arms", f"must be different names, at least one, got {list(self.arms)}")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("seeds", f"must be different numbers, none negative, got {list(self.seeds)}")

    def train_settings(self, manifest: BundleManifest) -> TrainSettings:
        """Return the settings of a training whose student has the shape of the bundle's."""
        return TrainSettings(
            label_kind=manifest.label_kind,
            clips_per_step=self.clips_per_step,
            background_weight=self.background_weight,
            allowed_builders=self.allowed_builders,
            sampling=manifest.sampling,
            student=StudentSettings(
                builder=manifest.student.builder,
                arguments=shared_arguments(manifest),
                geometry=manifest.student.geometry,
                steps=self.steps,
                learning_rate=self.learning_rate,
            ),
        )


def shared_arguments(manifest: BundleManifest) -> dict[str, JsonValue]:
    """Return what the student's builder is told in every arm; the recipe decides the rest."""
    return {name: value for name, value in manifest.student.arguments.items() if name != "detach_teacher_head"}
