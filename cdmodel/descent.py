"""The training loop: steps down a loss, reports, and can go on where a killed process stopped.

Knows nothing of what is learned. Everything random in a step follows from (seed, stream, step) alone, so a run that was
resumed is the run that was never interrupted, bit for bit on the same machine.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from cdmodel.errors import TrainingError
from cdmodel.train_settings import Precision

WEIGHT_DECAY = 0.02
WARM_UP_SHARE = 0.15
REPORTS = 50
STEPS_PER_REPORT_AT_LEAST = 10
SECONDS_BETWEEN_CHECKPOINTS = 60.0
_MOMENTUM_LOW, _MOMENTUM_HIGH = 0.85, 0.95
_START_SHARE, _END_SHARE = 1 / 25, 1 / 250_000

Stage = Literal["read", "fold", "teacher", "score", "student", "calibrate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """How far a training run is."""

    stage: Stage
    step: int
    steps: int
    loss: float | None
    """Mean since the last report; None where the stage has none."""
    accuracy: float | None
    """Share of training clips whose best-scored label is true, since the last report."""
    validation_accuracy: float | None = None
    """The same of a few fixed clips that nothing is trained on; for the eye only, nothing is chosen by it."""


OnProgress = Callable[[TrainingProgress], None]


class Checkpoints(Protocol):
    """Keeps bytes by name; a reader sees all of what was last written or None."""

    def read(self, name: str) -> bytes | None:
        """Return what was written last under this name."""
        ...

    def write(self, name: str, content: bytes) -> None:
        """Replace what stands under this name."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Keeper:
    """Where a training run keeps how far it is, and how often."""

    checkpoints: Checkpoints
    every_seconds: float = SECONDS_BETWEEN_CHECKPOINTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one batch says."""

    loss: Tensor
    accuracy: Tensor
    """Share of its clips whose best-scored label is true."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """One network's way down its loss."""

    stage: Stage
    name: str
    """Of its checkpoint: another one for every network of a run."""
    seed: int
    stream: int
    """Another one for every network of a run."""
    steps: int
    learning_rate: float
    """The highest."""
    precision: Precision
    measure: Callable[[int], Measured]
    """Given the step, draws a batch and returns its loss."""
    name_videos: Callable[[int], Sequence[str]]
    """Given the step, tells which videos its batch shows."""
    examine: Callable[[], float] | None = None
    """Returns the validation accuracy."""
    enter_training: Callable[[nn.Module], object] = lambda network: network.train()
    """Switches the network to training mode, or as much of it as is trained."""


def descend(
    network: nn.Module,
    parameters: Sequence[nn.Parameter],
    descent: Descent,
    on_progress: OnProgress,
    keeper: Keeper | None = None,
) -> None:
    """Train the parameters of the network in place, by AdamW on a one-cycle schedule, and leave it ready to score.

    With a keeper it goes on after the last checkpoint of the same name.

    Raises:
        TrainingError: the loss is no longer a number; names stage, step and the videos of the batch.
    """
    device = parameters[0].device
    dtype = pick_dtype(descent.precision, device)
    optimiser = torch.optim.AdamW(parameters, lr=descent.learning_rate, weight_decay=WEIGHT_DECAY)
    trail = _Trail(network, parameters, optimiser, descent.name, keeper)
    done = trail.resume()
    report_every = max(descent.steps // REPORTS, STEPS_PER_REPORT_AT_LEAST)
    losses: list[float] = []
    accuracies: list[Tensor] = []
    descent.enter_training(network)
    for step in range(done + 1, descent.steps + 1):
        torch.manual_seed(torch_seed(descent.seed, descent.stream, step))
        with torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32):
            measured = descent.measure(step)
        losses.append(measured.loss.item())
        accuracies.append(measured.accuracy)
        if not math.isfinite(losses[-1]):
            raise _diverged(descent, step)
        _set_rates(optimiser, step - 1, descent)
        optimiser.zero_grad(set_to_none=True)
        measured.loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 5.0)
        optimiser.step()
        trail.keep(step, last=step == descent.steps)
        if step % report_every == 0 or step == descent.steps:
            on_progress(_report(descent, network, step, losses, accuracies))
            losses.clear()
            accuracies.clear()
    network.eval()


def one_cycle(step: int, steps: int) -> tuple[float, float]:
    """Return the share of the highest learning rate and the momentum of a step, counted from 0.

    Source: Smith and Topin 2018, with cosine arcs; the same numbers as ``torch.optim.lr_scheduler.OneCycleLR``.
    """
    peak, last = WARM_UP_SHARE * steps - 1, steps - 1
    if step <= peak:
        return (
            _arc(_START_SHARE, 1.0, step / peak if peak else 1.0),
            _arc(_MOMENTUM_HIGH, _MOMENTUM_LOW, step / peak if peak else 1.0),
        )
    way = (step - peak) / (last - peak)
    return _arc(1.0, _END_SHARE, way), _arc(_MOMENTUM_LOW, _MOMENTUM_HIGH, way)


def torch_seed(seed: int, stream: int, step: int) -> int:
    """Return the seed of everything torch draws in a step, dropout above all."""
    return int(np.random.SeedSequence((seed, stream, step)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def pick_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the arithmetic of a training step on this device."""
    match precision:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "auto":
            has_units = torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bfloat16_units()
            return torch.bfloat16 if has_units else torch.float32


class _Trail:
    """The checkpoints of one descent: what is trained, the optimiser's memory and the step, in one safetensors file."""

    def __init__(
        self,
        network: nn.Module,
        parameters: Sequence[nn.Parameter],
        optimiser: torch.optim.Optimizer,
        name: str,
        keeper: Keeper | None,
    ) -> None:
        trained = {id(parameter) for parameter in parameters}
        self._tensors: dict[str, Tensor] = {
            **{name: tensor for name, tensor in network.named_parameters() if id(tensor) in trained},
            **dict(network.named_buffers()),
        }
        self._parameters = parameters
        self._optimiser = optimiser
        self._name = f"{name}.safetensors"
        self._keeper = keeper
        self._kept_at = time.monotonic()

    def resume(self) -> int:
        """Take over the last checkpoint; return the step it was made after, 0 without one."""
        content = self._keeper.checkpoints.read(self._name) if self._keeper else None
        if content is None:
            return 0
        saved = load(content)
        with torch.no_grad():
            for name, tensor in self._tensors.items():
                tensor.copy_(saved[f"network.{name}"])
        for number, parameter in enumerate(self._parameters):
            state = _pick(saved, f"optimiser.{number}.")
            # The optimiser's step counts live on the CPU, its means beside the parameter and in its memory layout.
            self._optimiser.state[parameter] = {
                key: value if value.ndim == 0 else torch.empty_like(parameter).copy_(value).detach()
                for key, value in state.items()
            }
        return int(saved["step"])

    def keep(self, step: int, *, last: bool) -> None:
        """Write a checkpoint if it is time for one."""
        keeper = self._keeper
        if keeper is None or not (last or time.monotonic() - self._kept_at >= keeper.every_seconds):
            return
        tensors = {f"network.{name}": tensor for name, tensor in self._tensors.items()}
        for number, parameter in enumerate(self._parameters):
            for key, value in self._optimiser.state[parameter].items():
                tensors[f"optimiser.{number}.{key}"] = value
        flat = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        keeper.checkpoints.write(self._name, save({**flat, "step": torch.tensor(step)}))
        self._kept_at = time.monotonic()


def _set_rates(optimiser: torch.optim.Optimizer, step: int, descent: Descent) -> None:
    share, momentum = one_cycle(step, descent.steps)
    for group in optimiser.param_groups:
        group["lr"] = descent.learning_rate * share
        group["betas"] = (momentum, group["betas"][1])


def _report(
    descent: Descent, network: nn.Module, step: int, losses: Sequence[float], accuracies: Sequence[Tensor]
) -> TrainingProgress:
    validation = None
    if descent.examine is not None:
        network.eval()
        validation = descent.examine()
        descent.enter_training(network)
    return TrainingProgress(
        stage=descent.stage,
        step=step,
        steps=descent.steps,
        loss=float(np.mean(losses)),
        accuracy=float(torch.stack(list(accuracies)).mean()),
        validation_accuracy=validation,
    )


def _diverged(descent: Descent, step: int) -> TrainingError:
    videos = descent.name_videos(step)
    shown = ", ".join(videos[:3]) + (f" and {len(videos) - 3} more" if len(videos) > 3 else "")
    return TrainingError(
        f"{descent.name} step {step}",
        f"the loss is not a number; lower {descent.stage}.learning_rate, or look at the batch's videos: {shown}",
    )


def _arc(start: float, end: float, way: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * way))


def _pick(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _cpu_has_bfloat16_units() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
