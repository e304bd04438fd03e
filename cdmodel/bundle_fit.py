"""From decoded videos to everything a bundle holds: train both networks, calibrate, choose defaults, measure.

Knows nothing of files. Roles are those of ``tasks.train_bundle``. N clips, V videos, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import nn

from cdmodel.aggregation import Aggregation, MeanProbability
from cdmodel.bundle import ModelSpec
from cdmodel.calibration import Calibration, sigmoid, softmax
from cdmodel.calibration_fit import (
    ChosenDefaults,
    PolicyOutcome,
    VideoScores,
    area_under_roc,
    choose_defaults,
    fit_platt,
    fit_temperature,
    fit_video_temperature,
    max_probability_at_share,
    replay,
)
from cdmodel.descent import Keeper, OnProgress, TrainingProgress
from cdmodel.escalation import DenseStudent, DenseTeacher
from cdmodel.models import count_flops
from cdmodel.network_training import TrainedNetworks, train_networks
from cdmodel.role_clips import FitRole, RoleClips, RoleLogits
from cdmodel.scores import StudentScores, TeacherScores
from cdmodel.train_settings import TrainSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBundle:
    """A bundle before it is written."""

    networks: TrainedNetworks
    calibration: Calibration
    defaults: ChosenDefaults
    metrics: dict[str, JsonValue]


def fit_bundle(
    roles: Mapping[FitRole, RoleClips],
    labels: Sequence[str],
    settings: TrainSettings,
    on_progress: OnProgress,
    keeper: Keeper | None = None,
) -> FittedBundle:
    """Train, calibrate and measure. Takes minutes to hours; the seed decides the outcome.

    Raises:
        BundleError: a network cannot be built.
        TrainingError: a role holds no clip, or a loss is no longer a number.
    """
    trained = train_networks(roles, labels, settings, on_progress, keeper)
    on_progress(TrainingProgress(stage="calibrate", step=0, steps=1, loss=None, accuracy=None))
    cal, cal_label_N = trained.logits["cal"], roles["cal"].clip_labels()
    calibration = _calibrate(cal, cal_label_N, fit_temperature(cal.teacher_NK, cal_label_N))
    cal_videos = _per_video(cal, calibration, roles["cal"])
    defaults = choose_defaults(cal_videos)
    outcome = replay(defaults.policy, defaults.aggregation, cal_videos)
    calibration = _set_video_temperature(calibration, outcome, roles["cal"].label_V)
    flops_share = _flops(trained.student, trained.student_spec) / _flops(trained.teacher, trained.teacher_spec)
    test_videos = _per_video(trained.logits["test"], calibration, roles["test"])
    on_progress(TrainingProgress(stage="calibrate", step=1, steps=1, loss=None, accuracy=None))
    return FittedBundle(
        networks=trained,
        calibration=calibration,
        defaults=defaults,
        metrics=_measure(cal_videos, test_videos, defaults, flops_share),
    )


def _calibrate(logits: RoleLogits, label_N: NDArray[np.int64], teacher_temperature: float) -> Calibration:
    """Fit everything but the video temperature. Both confidences become P(right), whatever they were taught as."""
    return Calibration(
        student_temperature=fit_temperature(logits.student_NK, label_N),
        teacher_temperature=teacher_temperature,
        q_teacher=fit_platt(logits.q_teacher_N, logits.teacher_NK.argmax(axis=1) == label_N),
        q_student=fit_platt(logits.q_student_N, logits.student_NK.argmax(axis=1) == label_N),
    )


def _set_video_temperature(calibration: Calibration, outcome: PolicyOutcome, label_V: NDArray[np.int64]) -> Calibration:
    return replace(calibration, video_temperature=fit_video_temperature(outcome.probabilities_VK, label_V))


def _per_video(logits: RoleLogits, calibration: Calibration, clips: RoleClips) -> tuple[VideoScores, ...]:
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
