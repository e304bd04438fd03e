"""Training the students that an ablation compares: same clips, steps, seed and architecture; only the recipe differs.

Works from clips and the teacher's raw answers, which are the same for all arms. What an arm is, and which arms are one
training, is in ``student_recipes``. N clips, K labels.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from cdmodel.bundle import ModelSpec
from cdmodel.clip_drawing import ClipDrawer
from cdmodel.descent import Descent, Measured, OnProgress, descend
from cdmodel.labels import LabelKind, probabilities_of
from cdmodel.losses import confidence_loss, gatekeeper_loss, share_of_truth
from cdmodel.models import StudentOutput, pick_device
from cdmodel.network_training import open_student
from cdmodel.role_clips import LabeledClips
from cdmodel.student import describe_logits
from cdmodel.student_recipes import StudentRecipe
from cdmodel.targets import ConfidenceTarget, shuffle_within_classes, targets_from_scores
from cdmodel.train_settings import TrainSettings
from cdmodel.training import StudentLessons, hits, train_student

REFINEMENT_STEPS_SHARE = 0.25
"""Of the student's own steps."""
FINE_TUNE_RATE_SHARE = 0.1
"""Of the student's own learning rate, where a trained network is changed."""
POST_HOC_HIDDEN = 32
_REFINEMENT_STREAM, _REFINEMENT_CLIPS_STREAM = 5, 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmLessons:
    """What every arm learns from: clips as the student sees them, and the teacher's answers to the same clips."""

    train: LabeledClips
    train_teacher_logits_NK: NDArray[np.float32]
    """Uncalibrated."""
    conf: LabeledClips
    """Disjoint by group from ``train``."""
    conf_teacher_logits_NK: NDArray[np.float32]
    """Uncalibrated, of a teacher that was not trained on ``conf``."""
    teacher_temperature: float
    """Fitted on other clips, ``cal``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedArm:
    """One trained network, on the CPU and ready to score; it serves every arm with its recipe."""

    recipe: StudentRecipe
    network: nn.Module
    spec: ModelSpec


def train_arm(
    recipe: StudentRecipe,
    lessons: ArmLessons,
    settings: TrainSettings,
    seed: int,
    on_progress: OnProgress,
    base: TrainedArm | None = None,
) -> TrainedArm:
    """Train the student of a recipe.

    Arms of one seed start from the same weights and see the same batches. After the refinement ``post_hoc`` the network's
    q_teacher is the estimate of the difference alone: compare it with a threshold, subtract nothing from it.

    Args:
        recipe: what is learned.
        lessons: from what.
        settings: of the student, its clips and its label kind; their seed and confidence settings are not heeded.
        seed: replaces that of ``settings``.
        on_progress: told how far it is.
        base: for a refinement, what ``recipe.without_refinement()`` gave; trained where it is missing. Left as it is.

    Raises:
        TrainingError: the loss is no longer a number.
        ValueError: ``base`` has another recipe, or the target needs views of clips, which lessons do not have.
    """
    settings = replace(settings, seed=seed)
    if recipe.refinement == "none":
        return _train_plain(recipe, lessons, settings, on_progress)
    base = base or _train_plain(recipe.without_refinement(), lessons, settings, on_progress)
    if base.recipe != recipe.without_refinement():
        raise ValueError(f"the base was trained by {base.recipe}, not by {recipe.without_refinement()}")
    network = copy.deepcopy(base.network).to(torch.device(pick_device()))
    if recipe.refinement == "gatekeeper":
        _fine_tune(network, base.spec, recipe.gatekeeper_weight, lessons, settings, on_progress)
    else:
        torch.manual_seed(seed)
        classes = lessons.train.truth_NK.shape[1]
        network = PostHocStudent(network, classes, settings.label_kind).to(torch.device(pick_device()))
        _train_post_hoc(network, base.spec, lessons, settings, on_progress)
    return TrainedArm(recipe=recipe, network=network.cpu(), spec=base.spec)


def rebuild_arm(recipe: StudentRecipe, settings: TrainSettings, num_classes: int) -> TrainedArm:
    """Return an untrained arm of the shape that ``train_arm`` gives, to load its weights into.

    Raises:
        BundleError: the student's builder is not allowed, does not exist, or refuses its arguments.
    """
    network, spec = open_student(settings, num_classes, _extra_arguments(recipe))
    if recipe.refinement == "post_hoc":
        network = PostHocStudent(network, num_classes, settings.label_kind)
    return TrainedArm(recipe=recipe, network=network.eval(), spec=spec)


def _extra_arguments(recipe: StudentRecipe) -> dict[str, JsonValue]:
    return {} if recipe.shapes_features else {"detach_teacher_head": True}


class PostHocStudent(nn.Module):
    """A frozen student whose q_teacher is the answer of a small network that sees its class scores alone.

    Source: the post-hoc estimators of Narasimhan et al. 2022, "Post-hoc estimators for learning to defer".
    """

    def __init__(self, student: nn.Module, num_classes: int, label_kind: LabelKind) -> None:
        super().__init__()
        self._label_kind = label_kind
        self.student = student.requires_grad_(requires_grad=False)
        inputs = num_classes + describe_logits(torch.zeros(1, num_classes)).shape[1]
        self.judge = nn.Sequential(nn.Linear(inputs, POST_HOC_HIDDEN), nn.ReLU(), nn.Linear(POST_HOC_HIDDEN, 1))

    def train(self, mode: bool = True) -> PostHocStudent:  # noqa: FBT001, FBT002 - the signature of nn.Module
        """Switch the new head alone: the student stays in evaluation mode."""
        super().train(mode)
        self.student.eval()
        return self

    def forward(self, clips_NTCHW: Tensor) -> StudentOutput:
        """Return the student's answers, its opinion of the teacher replaced."""
        with torch.no_grad():
            output: StudentOutput = self.student(clips_NTCHW)
        logits_NK = output.logits_NK.float()
        # A softmax over labels that do not exclude each other would lose how likely any of them is.
        log_p_NK = logits_NK.log_softmax(dim=1) if self._label_kind == "single" else logsigmoid(logits_NK)
        seen = torch.cat([log_p_NK, describe_logits(logits_NK)], dim=1)
        return output._replace(q_teacher_logit_N=self.judge(seen).squeeze(1))


def _train_plain(
    recipe: StudentRecipe, lessons: ArmLessons, settings: TrainSettings, on_progress: OnProgress
) -> TrainedArm:
    network, spec = open_student(settings, lessons.train.truth_NK.shape[1], _extra_arguments(recipe))
    network.to(torch.device(pick_device()))
    train_student(network, spec, _to_student_lessons(recipe, lessons, settings), settings, recipe, on_progress)
    return TrainedArm(recipe=recipe, network=network.cpu(), spec=spec)


def _to_student_lessons(recipe: StudentRecipe, lessons: ArmLessons, settings: TrainSettings) -> StudentLessons:
    """With ``confidence_clips = "train"`` nothing is unseen, so q_student is not taught: no arm of that kind uses it."""
    conf, target_N = (
        lessons.conf,
        _targets(recipe.target, lessons.conf, lessons.conf_teacher_logits_NK, lessons, settings),
    )
    if recipe.shuffle_targets:
        target_N = shuffle_within_classes(target_N, conf.truth_NK, settings.seed)
    if recipe.confidence_clips == "train":
        target_N = _targets(recipe.target, lessons.train, lessons.train_teacher_logits_NK, lessons, settings)
        conf = lessons.train
    return StudentLessons(
        train=lessons.train,
        teacher_logits_NK=lessons.train_teacher_logits_NK,
        conf=conf,
        teacher_target_N=target_N,
        unseen_N=np.full(len(conf), recipe.confidence_clips == "conf"),
    )


def _targets(
    target: ConfidenceTarget,
    clips: LabeledClips,
    logits_NK: NDArray[np.float32],
    lessons: ArmLessons,
    settings: TrainSettings,
) -> NDArray[np.float32]:
    probabilities_NK = probabilities_of(logits_NK, settings.label_kind, lessons.teacher_temperature)
    match target:
        case "diffprob":
            return targets_from_scores("tcp", probabilities_NK, clips.truth_NK, settings.label_kind)
        case "tta_mi" | "vote" | "vote_mode":
            raise ValueError(f"the target {target} needs the teacher's answers to several views of each clip")
        case _:
            return targets_from_scores(target, probabilities_NK, clips.truth_NK, settings.label_kind)


def _fine_tune(
    network: nn.Module,
    spec: ModelSpec,
    right_weight: float,
    lessons: ArmLessons,
    settings: TrainSettings,
    on_progress: OnProgress,
) -> None:
    drawer = _drawer(lessons.train, spec, settings, network)

    def measure(step: int) -> Measured:
        batch = drawer.draw(step)
        logits_NK = network(batch.clips_NTCHW).logits_NK.float()
        return Measured(
            loss=gatekeeper_loss(logits_NK, batch.truth_NK, settings.label_kind, right_weight),
            accuracy=hits(logits_NK, batch.truth_NK).mean(),
        )

    descent = _refinement("gatekeeper", settings, FINE_TUNE_RATE_SHARE, drawer, measure)
    descend(network, list(network.parameters()), descent, on_progress)


def _train_post_hoc(
    network: PostHocStudent, spec: ModelSpec, lessons: ArmLessons, settings: TrainSettings, on_progress: OnProgress
) -> None:
    target_N = torch.from_numpy(_targets("diffprob", lessons.conf, lessons.conf_teacher_logits_NK, lessons, settings))
    drawer = _drawer(lessons.conf, spec, settings, network)

    def measure(step: int) -> Measured:
        batch = drawer.draw(step)
        output = network(batch.clips_NTCHW)
        logits_NK = output.logits_NK.float()
        share_N = share_of_truth(logits_NK, batch.truth_NK, settings.label_kind)
        wanted_N = (target_N[batch.rows_N].to(share_N.device) - share_N + 1) / 2
        return Measured(
            loss=confidence_loss(output.q_teacher_logit_N.float(), wanted_N),
            accuracy=hits(logits_NK, batch.truth_NK).mean(),
        )

    descent = _refinement("post_hoc", settings, 1.0, drawer, measure)
    descend(network, list(network.judge.parameters()), descent, on_progress)


def _drawer(clips: LabeledClips, spec: ModelSpec, settings: TrainSettings, network: nn.Module) -> ClipDrawer:
    return ClipDrawer(
        clips,
        spec,
        size=settings.clips_per_step,
        seed=settings.seed,
        stream=_REFINEMENT_CLIPS_STREAM,
        device=next(network.parameters()).device,
    )


def _refinement(
    name: str,
    settings: TrainSettings,
    rate_share: float,
    drawer: ClipDrawer,
    measure: Callable[[int], Measured],
) -> Descent:
    return Descent(
        stage="student",
        name=name,
        seed=settings.seed,
        stream=_REFINEMENT_STREAM,
        steps=max(round(REFINEMENT_STEPS_SHARE * settings.student.steps), 2),
        learning_rate=rate_share * settings.student.learning_rate,
        precision=settings.precision,
        measure=measure,
        name_videos=drawer.name_videos,
    )
