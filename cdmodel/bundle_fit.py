"""From decoded clips to everything a bundle holds: train both networks, fit how they decide, measure.

Knows nothing of files. Roles are those of ``tasks.train_bundle``. V videos.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue
from torch import nn

from cdmodel.aggregation import Judge, MeanProbability
from cdmodel.bundle import ModelSpec
from cdmodel.decision_fit import Decisions, fit_decisions
from cdmodel.descent import Keeper, OnProgress, TrainingProgress
from cdmodel.flop_count import count_flops
from cdmodel.labels import LabelKind
from cdmodel.metrics import area_under_roc, expected_calibration_error, mean_average_precision
from cdmodel.network_training import TrainedNetworks, train_networks
from cdmodel.policies import DenseStudent, DenseTeacher
from cdmodel.replay import CachedVideo, ClipFlops, Replay, ScoredVideo, VideoSeconds, calibrate, replay, truth_of
from cdmodel.role_clips import FitRole, RoleClips, RoleLogits
from cdmodel.sampling import ClipGeometry
from cdmodel.scores import StudentLogits
from cdmodel.spent_share import spent_share
from cdmodel.train_settings import TrainSettings

_NO_TIME = VideoSeconds(decode_student=0.0, decode_teacher=0.0, student=0.0, teacher=0.0)
"""Training reads and scores in its own batches: what a video takes is measured by an evaluation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedBundle:
    """A bundle before it is written."""

    networks: TrainedNetworks
    decisions: Decisions
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
    cached = {role: to_cached(roles[role], logits) for role, logits in trained.logits.items()}
    flops = ClipFlops(
        student=_flops(trained.student, trained.student_spec), teacher=_flops(trained.teacher, trained.teacher_spec)
    )
    decisions = fit_decisions(
        cached["cal"],
        cached.get("risk", ()),
        settings.label_kind,
        flops,
        max_escalated_share=_may_escalate(roles["cal"], trained.student_spec.geometry, settings),
    )
    metrics = measure(cached["test"], decisions, settings.label_kind, flops)
    on_progress(TrainingProgress(stage="calibrate", step=1, steps=1, loss=None, accuracy=None))
    return FittedBundle(networks=trained, decisions=decisions, metrics=metrics)


def to_cached(clips: RoleClips, logits: RoleLogits) -> tuple[CachedVideo, ...]:
    """Return both networks' answers video by video."""
    student = StudentLogits(
        logits_NK=logits.student_NK,
        q_teacher_logit_N=logits.q_teacher_N,
        q_student_logit_N=logits.q_student_N,
        motion_N=np.zeros(len(logits.q_student_N), dtype=np.float32),
    )
    ends_V = np.cumsum(clips.clips_V)
    return tuple(
        CachedVideo(
            video_id=clips.videos[row],
            group=clips.groups[row],
            truth_K=clips.truth_VK[row],
            student=student.rows(slice(int(end - count), int(end))),
            teacher_logits_NK=logits.teacher_NK[int(end - count) : int(end)],
            seconds=_NO_TIME,
        )
        for row, (end, count) in enumerate(zip(ends_V, clips.clips_V, strict=True))
    )


def measure(
    test: Sequence[CachedVideo], decisions: Decisions, kind: LabelKind, flops: ClipFlops
) -> dict[str, JsonValue]:
    """Return the metrics on ``test``, in accuracies and shares from 0 to 1; ``evaluation`` measures far more."""
    videos = [calibrate(video, decisions.calibration, kind) for video in test]
    judge, plain = decisions.judge(kind), Judge(aggregation=MeanProbability(), label_kind=kind)
    default = replay(decisions.policy, judge, videos, flops)
    dense = replay(DenseTeacher(), plain, videos, flops)
    figures: dict[str, float | None] = {
        "video_accuracy_default": default.accuracy,
        "video_accuracy_default_policy_plain_mean": replay(decisions.policy, plain, videos, flops).accuracy,
        "video_accuracy_dense_teacher": dense.accuracy,
        "video_accuracy_dense_student": replay(DenseStudent(), plain, videos, flops).accuracy,
        "video_accuracy_dense_student_pooled": replay(DenseStudent(), judge, videos, flops).accuracy,
        "escalated_clip_share_default": default.escalated_share,
        "saved_flops_share_default": 1.0 - float(default.flops_V.sum() / dense.flops_V.sum()),
        "student_flops_share": flops.student / flops.teacher,
        "video_ece": expected_calibration_error(default.probabilities_VK.max(axis=1), default.right_V),
        **_measure_precision(default, dense, videos, kind),
        **_measure_clips(videos),
    }
    counts: dict[str, JsonValue] = {"videos_test": len(videos), "clips_test": int(default.clips_V.sum())}
    return counts | {name: None if value is None else round(value, 4) for name, value in figures.items()}


def _may_escalate(cal: RoleClips, geometry: ClipGeometry, settings: TrainSettings) -> float:
    """Return the largest share of the clips of ``cal`` that the default may send to the teacher."""
    if settings.no_dearer_than is None:
        return settings.max_escalated_share
    spent = spent_share(Path(settings.no_dearer_than), cal, geometry, settings.allowed_builders)
    return min(settings.max_escalated_share, spent)


def _measure_precision(
    default: Replay, dense: Replay, videos: Sequence[ScoredVideo], kind: LabelKind
) -> dict[str, float | None]:
    if kind == "single":
        return {}
    truth_VK = truth_of(videos)
    return {
        "mean_average_precision_default": mean_average_precision(default.probabilities_VK, truth_VK),
        "mean_average_precision_dense_teacher": mean_average_precision(dense.probabilities_VK, truth_VK),
    }


def _measure_clips(videos: Sequence[ScoredVideo]) -> dict[str, float | None]:
    teacher_right_N = np.concatenate([v.truth_K[v.teacher.probabilities_NK.argmax(axis=1)] for v in videos])
    student_right_N = np.concatenate([v.truth_K[v.student.probabilities_NK.argmax(axis=1)] for v in videos])
    return {
        "clip_accuracy_teacher": float(teacher_right_N.mean()),
        "clip_accuracy_student": float(student_right_N.mean()),
        "q_teacher_auroc": area_under_roc(np.concatenate([v.student.q_teacher_N for v in videos]), teacher_right_N),
        "q_student_auroc": area_under_roc(np.concatenate([v.student.q_student_N for v in videos]), student_right_N),
    }


def _flops(network: nn.Module, spec: ModelSpec) -> int:
    return count_flops(network, spec.geometry, torch.device("cpu"))
