"""The training loops: teacher on labels, student on labels, on the teacher's scores and on both models' confidence.

Works on clips in memory and trains networks in place; knows nothing of videos. On a CPU the seed decides everything.
N clips, T frames, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from cdmodel.bundle import ModelSpec
from cdmodel.errors import ConfigError, TrainingError
from cdmodel.losses import DISTILLATION_SHARE, ConfidenceTarget, class_loss, confidence_loss, distillation_loss
from cdmodel.models import StudentOutput, normalise
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.setting_groups import FORBID_UNKNOWN

SELF_CONFIDENCE_SHARE = 0.5
"""Weight of the loss of the student's opinion of itself; that of the teacher weighs 1."""
WEIGHT_DECAY = 0.02
WARM_UP_SHARE = 0.15
CLIPS_PER_FORWARD = 64

Precision = Literal["float32", "bfloat16"]
Stage = Literal["read", "teacher", "student", "calibrate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How a bundle is trained. The defaults made the bundle that ships with the project."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    seed: int = 0
    teacher_steps: int = 1500
    student_steps: int = 2000
    clips_per_step: int = 32
    """Of each role: the student also sees as many clips of ``conf`` in a step."""
    teacher_learning_rate: float = 0.004
    """The highest; it rises to it and falls from it again (one cycle)."""
    student_learning_rate: float = 0.004
    background_weight: float = 0.15
    """Least weight of a clip that does not seem to show its video's label; 1 trusts every clip alike."""
    target: ConfidenceTarget = "tcp"
    precision: Precision = "bfloat16"
    """Of the arithmetic in training; scoring is always float32. On old CPUs float32 can be faster."""
    sampling: ClipSampling = ClipSampling()  # noqa: RUF009 - frozen
    student_geometry: ClipGeometry = ClipGeometry(frames=8, height=24, width=24)  # noqa: RUF009 - frozen
    teacher_geometry: ClipGeometry = ClipGeometry(frames=16, height=64, width=64)  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError("seed", f"must not be negative, got {self.seed}")
        for name in ("teacher_steps", "student_steps", "clips_per_step"):
            if getattr(self, name) < 2:
                raise ConfigError(name, f"must be at least 2, got {getattr(self, name)}")
        for name in ("teacher_learning_rate", "student_learning_rate"):
            if not 0 < getattr(self, name) < 1:
                raise ConfigError(name, f"must be above 0 and below 1, got {getattr(self, name)}")
        if not 0 <= self.background_weight <= 1:
            raise ConfigError("background_weight", f"must lie between 0 and 1, got {self.background_weight}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProgress:
    """How far a training run is."""

    stage: Stage
    step: int
    steps: int
    loss: float | None
    """Mean since the last report; None where the stage has none."""
    accuracy: float | None
    """Share of training clips whose video's label was recognised, since the last report."""


OnProgress = Callable[[TrainingProgress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledClips:
    """Clips of one role, in memory, each with its video's label."""

    pixels_NTCHW: NDArray[np.uint8]
    label_N: NDArray[np.int64]

    def __post_init__(self) -> None:
        if len(self.pixels_NTCHW) != len(self.label_N):
            raise ValueError(f"{len(self.pixels_NTCHW)} clips and {len(self.label_N)} labels do not agree")


def train_teacher(
    network: nn.Module, spec: ModelSpec, clips: LabeledClips, settings: TrainSettings, on_progress: OnProgress
) -> None:
    """Train the network in place on the clips' labels and leave it ready to score.

    Raises:
        TrainingError: there are no clips, or the loss is no longer a number.
    """
    batches = _Batches(clips, spec, settings, stream=1)
    label_N = torch.from_numpy(clips.label_N)

    def measure() -> tuple[Tensor, float]:
        rows_N, clips_NTCHW = batches.draw()
        logits_NK = network(clips_NTCHW).float()
        loss = class_loss(logits_NK, label_N[rows_N], settings.background_weight)
        return loss, _share_right(logits_NK, label_N[rows_N])

    _descend(network, "teacher", settings.teacher_steps, settings.teacher_learning_rate, settings, measure, on_progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLessons:
    """What the student learns from. The roles are disjoint by group."""

    train: LabeledClips
    teacher_logits_NK: NDArray[np.float32]
    """The teacher's answers to the clips of ``train``, to be imitated."""
    conf: LabeledClips
    """Clips that neither the teacher nor the student's classes were trained on."""
    teacher_target_N: NDArray[np.float32]
    """How far the teacher was right on each clip of ``conf``, 0 to 1."""


def train_student(
    network: nn.Module, spec: ModelSpec, lessons: StudentLessons, settings: TrainSettings, on_progress: OnProgress
) -> None:
    """Train the network in place: classes on ``train``, both confidences on ``conf``; leave it ready to score.

    Loss: (1 - a) CE + a KD + BCE(q_teacher) + 0.5 BCE(q_student), a = 0.7.

    Raises:
        TrainingError: there are no clips, or the loss is no longer a number.
    """
    train_batches = _Batches(lessons.train, spec, settings, stream=2)
    conf_batches = _Batches(lessons.conf, spec, settings, stream=3)
    label_N, conf_label_N = torch.from_numpy(lessons.train.label_N), torch.from_numpy(lessons.conf.label_N)
    teacher_logits_NK = torch.from_numpy(lessons.teacher_logits_NK)
    target_N = torch.from_numpy(lessons.teacher_target_N)

    def measure() -> tuple[Tensor, float]:
        rows_N, clips_NTCHW = train_batches.draw()
        conf_rows_M, conf_clips_MTCHW = conf_batches.draw()
        output = _to_float(network(torch.cat([clips_NTCHW, conf_clips_MTCHW])))
        taught = len(rows_N)
        logits_NK, conf_logits_MK = output.logits_NK[:taught], output.logits_NK[taught:].detach()
        right_M = (conf_logits_MK.argmax(dim=1) == conf_label_N[conf_rows_M]).float()
        loss = (
            (1 - DISTILLATION_SHARE) * class_loss(logits_NK, label_N[rows_N], settings.background_weight)
            + DISTILLATION_SHARE * distillation_loss(logits_NK, teacher_logits_NK[rows_N])
            + confidence_loss(output.q_teacher_logit_N[taught:], target_N[conf_rows_M])
            + SELF_CONFIDENCE_SHARE * confidence_loss(output.q_student_logit_N[taught:], right_M)
        )
        return loss, _share_right(logits_NK, label_N[rows_N])

    _descend(network, "student", settings.student_steps, settings.student_learning_rate, settings, measure, on_progress)


def score_teacher(network: nn.Module, spec: ModelSpec, pixels_NTCHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the uncalibrated logits [N, K] of the clips."""
    parts = [network(clips_NTCHW) for clips_NTCHW in _forward_batches(pixels_NTCHW, spec)]
    return np.concatenate([part.numpy() for part in parts])


def score_student(network: nn.Module, spec: ModelSpec, pixels_NTCHW: NDArray[np.uint8]) -> StudentOutput:
    """Return the three uncalibrated answers to the clips."""
    parts = [network(clips_NTCHW) for clips_NTCHW in _forward_batches(pixels_NTCHW, spec)]
    return StudentOutput(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def seed_networks(seed: int) -> None:
    """Make the initial weights of networks built from here on, and their dropout, follow from the seed."""
    torch.manual_seed(seed)


def save_weights(network: nn.Module, path: Path) -> None:
    """Write the network's weights as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(save(state))


class _Batches:
    """Draws random clips, varied a little, from a random stream of its own."""

    def __init__(self, clips: LabeledClips, spec: ModelSpec, settings: TrainSettings, stream: int) -> None:
        if not len(clips.label_N):
            raise TrainingError("training", "no clip could be read of the videos of one role")
        self._clips = clips
        self._spec = spec
        self._size = settings.clips_per_step
        self._random = np.random.default_rng((settings.seed, stream))

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return the rows that were drawn [N] and their normalised clips [N, T, C, H, W]."""
        rows_N = self._random.integers(0, len(self._clips.label_N), size=self._size)
        moved_NTCHW = shift_clips(self._clips.pixels_NTCHW[rows_N], self._random)
        clips_NTCHW = normalise(moved_NTCHW, self._spec, torch.device("cpu"))
        return torch.from_numpy(rows_N), recolour_clips(clips_NTCHW, self._random)


def shift_clips(pixels_NTCHW: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Move each clip by up to a twelfth of its size; what the move uncovers repeats the border."""
    height, width = pixels_NTCHW.shape[-2:]
    moved_NTCHW = np.empty_like(pixels_NTCHW)
    for row, pixels_TCHW in enumerate(pixels_NTCHW):
        down, right = (
            random.integers(-(height // 12), height // 12 + 1),
            random.integers(-(width // 12), width // 12 + 1),
        )
        rows_H = np.clip(np.arange(height) + down, 0, height - 1)
        columns_W = np.clip(np.arange(width) + right, 0, width - 1)
        moved_NTCHW[row] = pixels_TCHW[:, :, rows_H][:, :, :, columns_W]
    return moved_NTCHW


def recolour_clips(clips_NTCHW: Tensor, random: np.random.Generator) -> Tensor:
    """Swap, stretch and offset the colour channels of each clip, alike in all of its frames."""
    clips = len(clips_NTCHW)
    order_NC = torch.from_numpy(np.argsort(random.random((clips, 3)), axis=1))
    gain_N1C11 = torch.from_numpy(random.uniform(0.7, 1.3, (clips, 1, 3, 1, 1)).astype(np.float32))
    offset_N1C11 = torch.from_numpy(random.uniform(-0.3, 0.3, (clips, 1, 3, 1, 1)).astype(np.float32))
    swapped_NTCHW = torch.stack([clip[:, order] for clip, order in zip(clips_NTCHW, order_NC, strict=True)])
    return swapped_NTCHW * gain_N1C11 + offset_N1C11


def _descend(
    network: nn.Module,
    stage: Stage,
    steps: int,
    learning_rate: float,
    settings: TrainSettings,
    measure: Callable[[], tuple[Tensor, float]],
    on_progress: OnProgress,
) -> None:
    """Minimise the loss that ``measure`` returns, beside an accuracy to report."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps, pct_start=WARM_UP_SHARE)
    report_every = max(steps // 50, 1)
    losses: list[float] = []
    accuracies: list[float] = []
    network.train()
    for step in range(1, steps + 1):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.precision == "bfloat16"):
            loss, accuracy = measure()
        losses.append(loss.item())
        accuracies.append(accuracy)
        if not math.isfinite(losses[-1]):
            raise TrainingError(f"{stage} step {step}", "the loss is not a number; lower the learning rate")
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        if step % report_every == 0 or step == steps:
            on_progress(
                TrainingProgress(
                    stage=stage,
                    step=step,
                    steps=steps,
                    loss=float(np.mean(losses)),
                    accuracy=float(np.mean(accuracies)),
                )
            )
            losses.clear()
            accuracies.clear()
    network.eval()


def _forward_batches(pixels_NTCHW: NDArray[np.uint8], spec: ModelSpec) -> Iterator[Tensor]:
    with torch.inference_mode():
        for start in range(0, len(pixels_NTCHW), CLIPS_PER_FORWARD):
            yield normalise(pixels_NTCHW[start : start + CLIPS_PER_FORWARD], spec, torch.device("cpu"))


def _to_float(output: StudentOutput) -> StudentOutput:
    return StudentOutput(*(part.float() for part in output))


def _share_right(logits_NK: Tensor, label_N: Tensor) -> float:
    return float((logits_NK.argmax(dim=1) == label_N).float().mean())
