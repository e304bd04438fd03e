"""Teacher on labels; student on labels, on the teacher's scores and on both models' confidence.

Trains networks in place, on the device they are on; knows nothing of videos. On a CPU the seed decides everything.
N clips, T frames, C channels, H height, W width, K labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cdmodel.augmentation import shift_clips
from cdmodel.bundle import ModelSpec
from cdmodel.clip_drawing import Batch, ClipDrawer
from cdmodel.descent import Descent, Keeper, Measured, OnProgress, TrainingProgress, descend
from cdmodel.labels import LabelKind, is_right
from cdmodel.losses import class_loss, confidence_loss, distillation_loss, rank_loss, share_of_truth
from cdmodel.models import StudentOutput, normalise
from cdmodel.role_clips import ClipPixels, LabeledClips
from cdmodel.student_recipes import StudentRecipe
from cdmodel.teacher_source import choose_parameters, enter_training
from cdmodel.train_settings import TrainSettings

__all__ = ["OnProgress", "TrainingProgress"]

SELF_CONFIDENCE_SHARE = 0.5
"""Weight of the loss of the student's opinion of itself; that of the teacher weighs 1."""
CLIPS_PER_FORWARD = 64
VALIDATION_CLIPS = 64
"""How many clips of ``cal`` are looked at for each report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherLesson:
    """What one teacher learns from, and the names of its randomness and its checkpoint."""

    clips: LabeledClips
    validation: LabeledClips | None
    """Clips whose accuracy is shown beside the loss."""
    name: str = "teacher"
    stream: int = 1
    """Another one for each teacher of a run."""


def train_teacher(
    network: nn.Module,
    spec: ModelSpec,
    lesson: TeacherLesson,
    settings: TrainSettings,
    on_progress: OnProgress,
    keeper: Keeper | None = None,
) -> None:
    """Train what the settings let learn of the network in place on the clips' labels; leave it ready to score.

    Raises:
        TrainingError: there are no clips, or the loss is no longer a number.
    """
    teacher, kind = settings.teacher, settings.label_kind
    parameters = choose_parameters(network, teacher.learn, lesson.clips.truth_NK.shape[1])
    device = parameters[0].device
    drawer = ClipDrawer(
        lesson.clips,
        spec,
        size=settings.clips_per_step,
        seed=settings.seed,
        stream=lesson.stream,
        device=device,
    )

    def measure(step: int) -> Measured:
        batch = drawer.draw(step)
        logits_NK = network(batch.clips_NTCHW).float()
        loss = class_loss(logits_NK, batch.truth_NK, kind, settings.background_weight)
        return Measured(loss=loss, accuracy=hits(logits_NK, batch.truth_NK).mean())

    descent = Descent(
        stage="teacher" if lesson.name == "teacher" else "fold",
        name=lesson.name,
        seed=settings.seed,
        stream=lesson.stream,
        steps=teacher.steps,
        learning_rate=teacher.learning_rate,
        precision=settings.precision,
        measure=measure,
        name_videos=drawer.name_videos,
        examine=_examiner(lesson.validation, lambda pixels: score_teacher(network, spec, pixels)),
        enter_training=enter_training,
    )
    descend(network, parameters, descent, on_progress, keeper)


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentLessons:
    """What the student learns from."""

    train: LabeledClips
    teacher_logits_NK: NDArray[np.float32]
    """The teacher's answers to the clips of ``train``, to be imitated."""
    conf: LabeledClips
    """Clips that the teacher was not trained on when it gave the targets."""
    teacher_target_N: NDArray[np.float32]
    """What q_teacher is taught on each clip of ``conf``, 0 to 1. For the target ``diffprob`` the teacher's share of the
    truth: the student's is taken off as it stands in each step."""
    unseen_N: NDArray[np.bool_]
    """Which clips of ``conf`` the student's classes are not taught: its opinion of itself is learned on those alone."""
    validation: LabeledClips | None = None
    """Clips whose accuracy is shown beside the loss."""


def train_student(
    network: nn.Module,
    spec: ModelSpec,
    lessons: StudentLessons,
    settings: TrainSettings,
    recipe: StudentRecipe,
    on_progress: OnProgress,
    keeper: Keeper | None = None,
) -> None:
    """Train the network in place: classes on ``train``, both confidences on ``conf``; leave it ready to score.

    Loss: (1 - a) CE + a KD + confidence(q_teacher) + 0.5 BCE(q_student), a = ``recipe.distillation_share``. Of the recipe
    it heeds what concerns the loss; targets and refinements are ``train_arm``'s.

    Raises:
        TrainingError: there are no clips, or the loss is no longer a number.
    """
    parameters = list(network.parameters())
    device = parameters[0].device
    train = ClipDrawer(lessons.train, spec, size=settings.clips_per_step, seed=settings.seed, stream=2, device=device)
    conf = ClipDrawer(
        lessons.conf,
        spec,
        size=settings.clips_per_step,
        seed=settings.seed,
        stream=3,
        device=device,
        by_video=recipe.confidence_loss == "rank",
    )

    def measure(step: int) -> Measured:
        taught, judged = train.draw(step), conf.draw(step)
        output = to_float(network(torch.cat([taught.clips_NTCHW, judged.clips_NTCHW])))
        count = len(taught.rows_N)
        logits_NK = output.logits_NK[:count]
        loss = _teach_classes(logits_NK, taught, lessons, settings, recipe.distillation_share) + _teach_confidence(
            StudentOutput(*(part[count:] for part in output)), judged, lessons, settings.label_kind, recipe
        )
        return Measured(loss=loss, accuracy=hits(logits_NK, taught.truth_NK).mean())

    descent = Descent(
        stage="student",
        name="student",
        seed=settings.seed,
        stream=4,
        steps=settings.student.steps,
        learning_rate=settings.student.learning_rate,
        precision=settings.precision,
        measure=measure,
        name_videos=lambda step: sorted({*train.name_videos(step), *conf.name_videos(step)}),
        examine=_examiner(lessons.validation, lambda pixels: score_student(network, spec, pixels).logits_NK.numpy()),
    )
    descend(network, parameters, descent, on_progress, keeper)


def score_teacher(
    network: nn.Module, spec: ModelSpec, pixels: ClipPixels, view: tuple[int, int] | None = None
) -> NDArray[np.float32]:
    """Return the uncalibrated logits [N, K] of the clips, or of a shifted view of them named by two numbers."""
    parts = [network(clips_NTCHW).float().cpu() for clips_NTCHW in _forward_batches(network, pixels, spec, view)]
    return np.concatenate([part.numpy() for part in parts])


def score_student(network: nn.Module, spec: ModelSpec, pixels: ClipPixels) -> StudentOutput:
    """Return the three uncalibrated answers to the clips, on the CPU."""
    parts = [
        [part.float().cpu() for part in network(clips_NTCHW)] for clips_NTCHW in _forward_batches(network, pixels, spec)
    ]
    return StudentOutput(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def seed_networks(seed: int) -> None:
    """Make the initial weights of networks built from here on follow from the seed."""
    torch.manual_seed(seed)


def to_float(output: StudentOutput) -> StudentOutput:
    """Return the answers as float32, in which losses are taken."""
    return StudentOutput(*(part.float() for part in output))


def hits(logits_NK: Tensor, truth_NK: Tensor) -> Tensor:
    """Return float [N]: 1 where the best-scored label is a true one."""
    return truth_NK.gather(1, logits_NK.argmax(dim=1, keepdim=True)).squeeze(1).float()


def _teach_classes(
    logits_NK: Tensor, batch: Batch, lessons: StudentLessons, settings: TrainSettings, distillation_share: float
) -> Tensor:
    kind = settings.label_kind
    loss = (1 - distillation_share) * class_loss(logits_NK, batch.truth_NK, kind, settings.background_weight)
    if distillation_share:
        teacher_NK = torch.from_numpy(lessons.teacher_logits_NK[batch.rows_N]).to(logits_NK.device)
        loss = loss + distillation_share * distillation_loss(logits_NK, teacher_NK, kind)
    return loss


def _teach_confidence(
    output: StudentOutput, batch: Batch, lessons: StudentLessons, kind: LabelKind, recipe: StudentRecipe
) -> Tensor:
    device = output.logits_NK.device
    logits_NK = output.logits_NK.detach()
    target_N = torch.from_numpy(lessons.teacher_target_N[batch.rows_N]).to(device)
    if recipe.target == "diffprob":
        target_N = (target_N - share_of_truth(logits_NK, batch.truth_NK, kind) + 1) / 2
    match recipe.confidence_loss:
        case "bce":
            loss = confidence_loss(output.q_teacher_logit_N, target_N)
        case "rank":
            loss = rank_loss(output.q_teacher_logit_N, target_N, batch.video_N)
    unseen = np.flatnonzero(lessons.unseen_N[batch.rows_N])
    if len(unseen):
        right_N = hits(logits_NK, batch.truth_NK)[unseen]
        loss = loss + SELF_CONFIDENCE_SHARE * confidence_loss(output.q_student_logit_N[unseen], right_N)
    return loss


def _examiner(
    clips: LabeledClips | None, score: Callable[[ClipPixels], NDArray[np.float32]]
) -> Callable[[], float] | None:
    """Return what measures the accuracy on a few clips, spread evenly over the role."""
    if clips is None:
        return None
    few = clips.subset(np.unique(np.linspace(0, len(clips) - 1, VALIDATION_CLIPS).astype(np.int64)))
    return lambda: float(is_right(score(few.pixels), few.truth_NK).mean())


def _forward_batches(
    network: nn.Module, pixels: ClipPixels, spec: ModelSpec, view: tuple[int, int] | None = None
) -> Iterator[Tensor]:
    device = next(network.parameters()).device
    with torch.inference_mode():
        for start in range(0, len(pixels), CLIPS_PER_FORWARD):
            pixels_NTCHW = pixels.read(np.arange(start, min(start + CLIPS_PER_FORWARD, len(pixels))))
            if view is not None:
                pixels_NTCHW = shift_clips(pixels_NTCHW, np.random.default_rng((*view, start)))
            yield normalise(pixels_NTCHW, spec, device)
