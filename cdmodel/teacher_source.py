"""Where the teacher comes from, and how much of it is trained.

A builder of this project starts from random weights. N clips, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import JsonValue
from safetensors.torch import save_file
from torch import nn

from cdmodel.bundle import TEACHER_WEIGHTS, ModelSpec, file_sha256
from cdmodel.errors import ConfigError
from cdmodel.models import build_network
from cdmodel.sampling import ClipGeometry
from cdmodel.setting_groups import FORBID_UNKNOWN

Learn = Literal["all", "head", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """Which network teaches, and how it is trained."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    builder: str = "cdmodel.teacher:build_teacher"
    """``module:function`` of the network."""
    arguments: Mapping[str, JsonValue] = field(default_factory=dict)
    """Passed to the builder."""
    geometry: ClipGeometry = ClipGeometry(frames=16, height=64, width=64)  # noqa: RUF009 - frozen
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.25, 0.25, 0.25)
    learn: Learn = "all"
    """What of the network is trained."""
    steps: int = 1500
    learning_rate: float = 0.004
    """The highest; it rises to it and falls from it again (one cycle)."""

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ConfigError("teacher.steps", f"must be at least 2, got {self.steps}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError("teacher.learning_rate", f"must be above 0 and below 1, got {self.learning_rate}")


def open_teacher(
    settings: TeacherSettings, num_classes: int, allowed_builders: Sequence[str]
) -> tuple[nn.Module, ModelSpec]:
    """Return the network before any training of ours, and its description."""
    spec = ModelSpec(
        builder=settings.builder,
        arguments=dict(settings.arguments),
        geometry=settings.geometry,
        mean=settings.mean,
        std=settings.std,
        weights_sha256="",
    )
    return build_network(spec, num_classes, allowed_builders), spec


def choose_parameters(network: nn.Module, learn: Learn, num_classes: int) -> list[nn.Parameter]:
    """Return the parameters to train; the others stop taking gradients."""
    heads = [layer for layer in network.modules() if isinstance(layer, nn.Linear) and layer.out_features == num_classes]
    chosen = {"all": list(network.parameters()), "head": list(heads[-1].parameters()), "nothing": []}[learn]
    wanted = {id(parameter) for parameter in chosen}
    for parameter in network.parameters():
        parameter.requires_grad_(id(parameter) in wanted)
    return chosen


def write_teacher(network: nn.Module, spec: ModelSpec, folder: Path) -> ModelSpec:
    """Write the weights into a bundle's folder and return the description that names them."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    save_file(state, folder / TEACHER_WEIGHTS)
    return replace(spec, weights_sha256=file_sha256(folder / TEACHER_WEIGHTS))
