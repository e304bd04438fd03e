"""From decoded clips to two trained networks and their raw answers. What follows (calibration) is not its business.

Knows nothing of files. V videos, N clips, K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from cdmodel.bundle import BUILTIN_BUILDERS, ModelSpec
from cdmodel.descent import Keeper, OnProgress
from cdmodel.models import build_network, pick_device
from cdmodel.role_clips import ClipPixels, FitRole, RoleClips, RoleLogits, clips_for_student
from cdmodel.student_recipes import StudentRecipe
from cdmodel.teacher_judgement import JudgedTeacher, TargetCheck, TargetOrigin, judge_teacher
from cdmodel.teacher_source import open_teacher
from cdmodel.train_settings import TrainSettings
from cdmodel.training import StudentLessons, score_student, seed_networks, train_student
from cdmodel.warm_start import start_from

ANSWERED_ROLES: tuple[FitRole, ...] = ("cal", "risk", "test")
_GREY, _SPREAD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedNetworks:
    """Both networks, on the CPU and ready to score, before any calibration; the specs do not name their weights yet."""

    student: nn.Module
    teacher: nn.Module
    student_spec: ModelSpec
    teacher_spec: ModelSpec
    logits: Mapping[FitRole, RoleLogits]
    """Raw answers of both to every clip of ``cal``, ``test`` and, where there is one, ``risk``."""
    target_origin: TargetOrigin
    target_check: TargetCheck

    def warnings(self) -> tuple[str, ...]:
        """Return what a reader of the bundle's figures has to know, one sentence each."""
        return self.target_check.warnings(self.target_origin)


def train_networks(
    roles: Mapping[FitRole, RoleClips],
    labels: Sequence[str],
    settings: TrainSettings,
    on_progress: OnProgress,
    keeper: Keeper | None = None,
) -> TrainedNetworks:
    """Train the teacher, then the student on what the teacher says. Takes minutes to hours; the seed decides the outcome.

    The student's classes are taught on ``train``. Its opinion of the teacher is taught on the clips with honest targets
    (see ``teacher_judgement``), that of itself on ``conf`` alone, for it is no judge of what it learned by heart.

    Raises:
        BundleError: a network cannot be built.
        TrainingError: a role holds no clip, or a loss is no longer a number.
    """
    student, student_spec = open_student(settings, len(labels))
    if settings.student.start is not None:
        start_from(student, student_spec, labels, Path(settings.student.start))
    judged = judge_teacher(roles, settings, on_progress, keeper)
    student.to(torch.device(pick_device()))
    recipe = StudentRecipe(target=settings.confidence.target)
    train_student(student, student_spec, _lessons(roles, judged), settings, recipe, on_progress, keeper)
    answered = [role for role in ANSWERED_ROLES if role in roles]
    logits = {role: _answer(student, student_spec, roles[role], judged, role) for role in answered}
    return TrainedNetworks(
        student=student.cpu(),
        teacher=judged.network,
        student_spec=student_spec,
        teacher_spec=judged.spec,
        logits=logits,
        target_origin=judged.origin,
        target_check=judged.check,
    )


def open_student(
    settings: TrainSettings, num_classes: int, extra_arguments: Mapping[str, JsonValue] | None = None
) -> tuple[nn.Module, ModelSpec]:
    """Build the student from the seed.

    Raises:
        BundleError: the builder is not allowed, does not exist, or refuses its arguments.
    """
    student = settings.student.describe()
    spec = ModelSpec(
        builder=student.builder,
        arguments={**student.arguments, **(extra_arguments or {})},
        geometry=student.geometry,
        mean=_GREY,
        std=_SPREAD,
        weights_sha256="",
    )
    seed_networks(settings.seed)
    return build_network(spec, num_classes, (*BUILTIN_BUILDERS, *settings.allowed_builders)), spec


def check_networks(settings: TrainSettings, labels: Sequence[str]) -> None:
    """Build both networks and let go of them, so that what cannot be built is found before anything is decoded.

    Raises:
        BundleError: a network cannot be built.
    """
    student, spec = open_student(settings, len(labels))
    if settings.student.start is not None:
        start_from(student, spec, labels, Path(settings.student.start))
    open_teacher(settings.teacher, len(labels), (*BUILTIN_BUILDERS, *settings.allowed_builders))


def _lessons(roles: Mapping[FitRole, RoleClips], judged: JudgedTeacher) -> StudentLessons:
    lesson = [roles[role] for role in judged.lesson_roles]
    return StudentLessons(
        train=clips_for_student(roles["train"]),
        teacher_logits_NK=judged.logits["train"],
        conf=clips_for_student(*lesson),
        teacher_target_N=judged.target_N,
        unseen_N=np.repeat(
            [role != "train" for role in judged.lesson_roles], [int(clips.clips_V.sum()) for clips in lesson]
        ),
        validation=clips_for_student(roles["cal"]),
    )


def _answer(student: nn.Module, spec: ModelSpec, clips: RoleClips, judged: JudgedTeacher, role: FitRole) -> RoleLogits:
    output = score_student(student, spec, ClipPixels.of(clips.student_NTCHW))
    return RoleLogits(
        student_NK=output.logits_NK.numpy(),
        q_teacher_N=output.q_teacher_logit_N.numpy(),
        q_student_N=output.q_student_logit_N.numpy(),
        teacher_NK=judged.logits[role],
    )
