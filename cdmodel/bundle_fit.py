"""From decoded videos to everything a bundle holds: train both networks, calibrate, choose defaults, measure.

Knows nothing of files. Roles are those of ``tasks.train_bundle``. N clips, V videos, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import nn

from cdmodel.aggregation import Aggregation, MeanProbability
from cdmodel.bundle import BUILTIN_BUILDERS, ModelSpec
from cdmodel.calibration import Calibration, sigmoid, softmax
from cdmodel.calibration_fit import (
    ChosenDefaults,
    PolicyOutcome,
    VideoScores,
    choose_defaults,
    fit_platt,
    fit_temperature,
    fit_video_temperature,
    max_probability_at_share,
    replay,
)
from cdmodel.escalation import DenseStudent, DenseTeacher
from cdmodel.losses import teacher_targets
from cdmodel.metrics import area_under_roc
from cdmodel.models import build_network, count_flops
from cdmodel.sampling import ClipGeometry
from cdmodel.scores import StudentScores, TeacherScores
from cdmodel.training import (
    LabeledClips,
    OnProgress,
    StudentLessons,
    TrainingProgress,
    TrainSettings,
    score_student,
    score_teacher,
    seed_networks,
    train_student,
    train_teacher,
)

STUDENT_BUILDER = "cdmodel.student:build_student"
TEACHER_BUILDER = "cdmodel.teacher:build_teacher"
FitRole = Literal["train", "conf", "cal", "test"]
_GREY, _SPREAD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleClips:
    """The clips of all videos of one role, one video after another, as each model sees them."""

    student_NTCHW: NDArray[np.uint8]
    teacher_NTCHW: NDArray[np.uint8]
    label_V: NDArray[np.int64]
    clips_V: NDArray[np.int64]
    """How many clips each video has; sums to N."""

    def __post_init__(self) -> None:
        clips = int(self.clips_V.sum())
        if not len(self.student_NTCHW) == len(self.teacher_NTCHW) == clips or len(self.label_V) != len(self.clips_V):
            raise ValueError(
                f"{len(self.student_NTCHW)} clips for the student, {len(self.teacher_NTCHW)} for the teacher and "
                f"{clips} counted in {len(self.clips_V)} videos with {len(self.label_V)} labels do not agree"
            )

    def clip_labels(self) -> NDArray[np.int64]:
        """Return each clip's label [N]: its video's."""
        return np.repeat(self.label_V, self.clips_V)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBundle:
    """A bundle before it is written; the specs do not name their weights yet."""

    student: nn.Module
    teacher: nn.Module
    student_spec: ModelSpec
    teacher_spec: ModelSpec
    calibration: Calibration
    defaults: ChosenDefaults
    metrics: dict[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class _RoleLogits:
    """Uncalibrated answers of both networks to the clips of one role."""

    student_NK: NDArray[np.float32]
    q_teacher_N: NDArray[np.float32]
    q_student_N: NDArray[np.float32]
    teacher_NK: NDArray[np.float32]


def fit_bundle(
    roles: Mapping[FitRole, RoleClips], labels: Sequence[str], settings: TrainSettings, on_progress: OnProgress
) -> FittedBundle:
    """Train, calibrate and measure. Takes minutes to hours; the seed decides the outcome.

    Raises:
        TrainingError: a role holds no clip, or a loss is no longer a number.
    """
    seed_networks(settings.seed)
    student_spec = _describe(STUDENT_BUILDER, settings.student_geometry)
    teacher_spec = _describe(TEACHER_BUILDER, settings.teacher_geometry)
    teacher = build_network(teacher_spec, len(labels), BUILTIN_BUILDERS)
    train_teacher(teacher, teacher_spec, _for_teacher(roles["train"]), settings, on_progress)
    teacher_logits = {role: score_teacher(teacher, teacher_spec, clips.teacher_NTCHW) for role, clips in roles.items()}
    teacher_temperature = fit_temperature(teacher_logits["cal"], roles["cal"].clip_labels())
    lessons = StudentLessons(
        train=_for_student(roles["train"]),
        teacher_logits_NK=teacher_logits["train"],
        conf=_for_student(roles["conf"]),
        teacher_target_N=teacher_targets(
            settings.target, softmax(teacher_logits["conf"], teacher_temperature), roles["conf"].clip_labels()
        ),
    )
    student = build_network(student_spec, len(labels), BUILTIN_BUILDERS)
    train_student(student, student_spec, lessons, settings, on_progress)
    on_progress(TrainingProgress(stage="calibrate", step=0, steps=1, loss=None, accuracy=None))
    cal = _answer(student, student_spec, roles["cal"], teacher_logits["cal"])
    calibration = _calibrate(cal, roles["cal"].clip_labels(), teacher_temperature)
    cal_videos = _per_video(cal, calibration, roles["cal"])
    defaults = choose_defaults(cal_videos)
    outcome = replay(defaults.policy, defaults.aggregation, cal_videos)
    calibration = _set_video_temperature(calibration, outcome, roles["cal"].label_V)
    test = _answer(student, student_spec, roles["test"], teacher_logits["test"])
    flops_share = _flops(student, student_spec) / _flops(teacher, teacher_spec)
    test_videos = _per_video(test, calibration, roles["test"])
    on_progress(TrainingProgress(stage="calibrate", step=1, steps=1, loss=None, accuracy=None))
    return FittedBundle(
        student=student,
        teacher=teacher,
        student_spec=student_spec,
        teacher_spec=teacher_spec,
        calibration=calibration,
        defaults=defaults,
        metrics=_measure(cal_videos, test_videos, defaults, flops_share),
    )


def _describe(builder: str, geometry: ClipGeometry) -> ModelSpec:
    return ModelSpec(builder=builder, arguments={}, geometry=geometry, mean=_GREY, std=_SPREAD, weights_sha256="")


def _for_teacher(clips: RoleClips) -> LabeledClips:
    return LabeledClips(pixels_NTCHW=clips.teacher_NTCHW, label_N=clips.clip_labels())


def _for_student(clips: RoleClips) -> LabeledClips:
    return LabeledClips(pixels_NTCHW=clips.student_NTCHW, label_N=clips.clip_labels())


def _answer(
    student: nn.Module, spec: ModelSpec, clips: RoleClips, teacher_logits_NK: NDArray[np.float32]
) -> _RoleLogits:
    output = score_student(student, spec, clips.student_NTCHW)
    return _RoleLogits(
        student_NK=output.logits_NK.numpy(),
        q_teacher_N=output.q_teacher_logit_N.numpy(),
        q_student_N=output.q_student_logit_N.numpy(),
        teacher_NK=teacher_logits_NK,
    )


def _calibrate(logits: _RoleLogits, label_N: NDArray[np.int64], teacher_temperature: float) -> Calibration:
    """Fit everything but the video temperature. Both confidences become P(right), whatever they were taught as."""
    return Calibration(
        student_temperature=fit_temperature(logits.student_NK, label_N),
        teacher_temperature=teacher_temperature,
        q_teacher=fit_platt(logits.q_teacher_N, logits.teacher_NK.argmax(axis=1) == label_N),
        q_student=fit_platt(logits.q_student_N, logits.student_NK.argmax(axis=1) == label_N),
    )


def _set_video_temperature(calibration: Calibration, outcome: PolicyOutcome, label_V: NDArray[np.int64]) -> Calibration:
    return replace(calibration, video_temperature=fit_video_temperature(outcome.probabilities_VK, label_V))


def _per_video(logits: _RoleLogits, calibration: Calibration, clips: RoleClips) -> tuple[VideoScores, ...]:
    student_NK = softmax(logits.student_NK, calibration.student_temperature)
    teacher_NK = softmax(logits.teacher_NK, calibration.teacher_temperature)
    q_teacher_N = sigmoid(logits.q_teacher_N, calibration.q_teacher)
    q_student_N = sigmoid(logits.q_student_N, calibration.q_student)
    ends_V = np.cumsum(clips.clips_V)
    spans = [slice(int(end - count), int(end)) for end, count in zip(ends_V, clips.clips_V, strict=True)]
    return tuple(
        VideoScores(
            student=StudentScores(
                probabilities_NK=student_NK[span], q_teacher_N=q_teacher_N[span], q_student_N=q_student_N[span]
            ),
            teacher=TeacherScores(probabilities_NK=teacher_NK[span]),
            label_id=int(label_id),
        )
        for span, label_id in zip(spans, clips.label_V, strict=True)
    )


def _measure(
    cal: Sequence[VideoScores], test: Sequence[VideoScores], defaults: ChosenDefaults, student_flops_share: float
) -> dict[str, JsonValue]:
    """Return the metrics on ``test``; accuracies and shares lie between 0 and 1."""
    pool, plain = defaults.aggregation, MeanProbability()
    default = replay(defaults.policy, pool, test)
    rival_policy = max_probability_at_share(cal, replay(defaults.policy, pool, cal).escalated_share)
    rival = replay(rival_policy, pool, test)

    def accuracy(policy: DenseTeacher | DenseStudent, aggregation: Aggregation) -> float:
        return round(replay(policy, aggregation, test).video_accuracy, 4)

    return {
        "videos_test": len(test),
        "clips_test": sum(len(video.student.q_teacher_N) for video in test),
        "video_accuracy_default": round(default.video_accuracy, 4),
        "video_accuracy_default_policy_plain_mean": round(replay(defaults.policy, plain, test).video_accuracy, 4),
        "video_accuracy_dense_teacher_plain_mean": accuracy(DenseTeacher(), plain),
        "video_accuracy_dense_teacher_pooled": accuracy(DenseTeacher(), pool),
        "video_accuracy_dense_student_plain_mean": accuracy(DenseStudent(), plain),
        "video_accuracy_dense_student_pooled": accuracy(DenseStudent(), pool),
        "video_accuracy_max_probability_pooled": round(rival.video_accuracy, 4),
        "escalated_share_default": round(default.escalated_share, 4),
        "escalated_share_max_probability": round(rival.escalated_share, 4),
        "student_flops_share": round(student_flops_share, 4),
        "saved_flops_share_default": round(1 - student_flops_share - default.escalated_share, 4),
        **_measure_clips(test),
    }


def _measure_clips(test: Sequence[VideoScores]) -> dict[str, JsonValue]:
    label_N = np.concatenate([np.full(len(video.student.q_teacher_N), video.label_id) for video in test])
    student = StudentScores.concatenate([video.student for video in test])
    teacher = TeacherScores.concatenate([video.teacher for video in test])
    teacher_right_N = teacher.probabilities_NK.argmax(axis=1) == label_N
    student_right_N = student.probabilities_NK.argmax(axis=1) == label_N
    return {
        "clip_accuracy_teacher": round(float(teacher_right_N.mean()), 4),
        "clip_accuracy_student": round(float(student_right_N.mean()), 4),
        "q_teacher_auroc": _rounded(area_under_roc(student.q_teacher_N, teacher_right_N)),
        "q_student_auroc": _rounded(area_under_roc(student.q_student_N, student_right_N)),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _flops(network: nn.Module, spec: ModelSpec) -> int:
    return count_flops(network, spec.geometry, torch.device("cpu"))
