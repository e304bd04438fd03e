"""The cascade on one video: student on every clip, policy, teacher where it pays, one answer with its cost.

This is the product's main path. It knows nothing of files, tables or workers. Decisions are the pure functions of
``escalation`` and ``aggregation``, so a replay from cached scores decides the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from cdmodel.aggregation import Aggregation, VideoScore, aggregate, merge_answers
from cdmodel.calibration import temper
from cdmodel.clips import ClipBatch
from cdmodel.cost import ComputeCost
from cdmodel.decode import DECODER_NAME, ClipReader
from cdmodel.escalation import BoolArray, DenseTeacher, EscalationPolicy, select_for_escalation
from cdmodel.models import CascadeModels
from cdmodel.scores import StudentScores, TeacherScores
from cdmodel.types import ClipRecord, ClipSpan, DecidedBy, RankedLabel, VideoPrediction, VideoRef

TOP_LABELS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeSettings:
    """How the two models share the work."""

    policy: EscalationPolicy
    aggregation: Aggregation


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipScores:
    """Everything the models said of one video."""

    clip_indices: tuple[int, ...]
    spans: tuple[ClipSpan, ...]
    student: StudentScores | None
    """None where the policy does without the student."""
    teacher: TeacherScores | None
    """One row per escalated clip, in order; None where there is none."""
    escalated_N: BoolArray
    cost: ComputeCost
    """Of the models alone: FLOPs and seconds."""


def label_video(
    video: VideoRef, reader: ClipReader, models: CascadeModels, settings: CascadeSettings
) -> VideoPrediction:
    """Label one video; its cost covers decoding and both models, but not the bytes, which the caller counts.

    Raises:
        VideoError: the video cannot be labeled; ``reader.summary()`` then tells what was spent.
    """
    scores = score_video(reader, models, settings.policy)
    return decide(video, scores, reader, models, settings)


def score_video(reader: ClipReader, models: CascadeModels, policy: EscalationPolicy) -> ClipScores:
    """Run the student on all clips and the teacher on those that ``policy`` picks."""
    if isinstance(policy, DenseTeacher):
        return _score_with_teacher_alone(reader, models)
    meter = _DeviceMeter(models.student.device.type == "cuda")
    seen: list[ClipBatch] = []
    parts: list[StudentScores] = []
    for batch in reader.read_clips(models.student.geometry):
        with meter:
            parts.append(models.student.score(batch.pixels_NTCHW))
        seen.append(_without_pixels(batch))
    student = StudentScores.concatenate(parts)
    clip_indices = tuple(index for batch in seen for index in batch.clip_indices)
    escalated_N = select_for_escalation(policy, student)
    cost = ComputeCost(
        student_flops=models.student.flops_per_clip * len(clip_indices),
        student_seconds=meter.wall_seconds,
        gpu_seconds=meter.gpu_seconds,
    )
    wanted = frozenset(np.asarray(clip_indices)[escalated_N].tolist())
    _, teacher, teacher_cost = _run_teacher(reader, models, wanted) if wanted else ([], None, ComputeCost())
    return ClipScores(
        clip_indices=clip_indices,
        spans=tuple(span for batch in seen for span in batch.spans),
        student=student,
        teacher=teacher,
        escalated_N=escalated_N,
        cost=cost + teacher_cost,
    )


def decide(
    video: VideoRef, scores: ClipScores, reader: ClipReader, models: CascadeModels, settings: CascadeSettings
) -> VideoPrediction:
    """Aggregate the scores of one video into its prediction."""
    video_score = aggregate(settings.aggregation, merge_answers(scores.student, scores.teacher, scores.escalated_N))
    temperature = models.manifest.calibration.video_temperature
    probabilities_K = temper(video_score.probabilities_K, temperature)
    student_label_id, student_confidence = _student_alone(scores.student, settings.aggregation, temperature)
    summary = reader.summary()
    # A damaged video may be planned shorter than what was read of it by a rounding of its declared duration.
    clips_planned = max(summary.clips_planned, len(scores.clip_indices))
    return VideoPrediction(
        video=video,
        facts=summary.facts,
        coverage=summary.coverage,
        damage=summary.damage,
        top_labels=_rank(probabilities_K, models.manifest.labels),
        decided_by=_decided_by(scores.escalated_N),
        student_label_id=student_label_id,
        student_confidence=student_confidence,
        clips=tuple(_clip_records(scores, video_score)),
        clips_planned=clips_planned,
        cost=decode_cost(reader)
        + replace(scores.cost, dense_teacher_flops=models.teacher.flops_per_clip * clips_planned),
        device=models.device_name,
        decoder=DECODER_NAME,
        labeled_at=datetime.now(UTC),
    )


def decode_cost(reader: ClipReader) -> ComputeCost:
    """Return what decoding has cost so far, also when it ended in an error."""
    summary = reader.summary()
    return ComputeCost(
        frames_decoded=summary.frames_decoded,
        frames_used=summary.frames_used,
        frames_corrupt=summary.frames_corrupt,
        decode_cpu_seconds=summary.cpu_seconds,
        dense_decode_cpu_seconds=summary.first_pass_cpu_seconds,
    )


def _score_with_teacher_alone(reader: ClipReader, models: CascadeModels) -> ClipScores:
    seen, teacher, cost = _run_teacher(reader, models, None)
    clip_indices = tuple(index for batch in seen for index in batch.clip_indices)
    return ClipScores(
        clip_indices=clip_indices,
        spans=tuple(span for batch in seen for span in batch.spans),
        student=None,
        teacher=teacher,
        escalated_N=np.ones(len(clip_indices), dtype=np.bool_),
        cost=cost,
    )


def _run_teacher(
    reader: ClipReader, models: CascadeModels, wanted: frozenset[int] | None
) -> tuple[list[ClipBatch], TeacherScores, ComputeCost]:
    meter = _DeviceMeter(models.teacher.device.type == "cuda")
    seen: list[ClipBatch] = []
    parts: list[TeacherScores] = []
    for batch in reader.read_clips(models.teacher.geometry, wanted):
        with meter:
            parts.append(models.teacher.score(batch.pixels_NTCHW))
        seen.append(_without_pixels(batch))
    clips = sum(len(batch.spans) for batch in seen)
    cost = ComputeCost(
        teacher_flops=models.teacher.flops_per_clip * clips,
        teacher_seconds=meter.wall_seconds,
        gpu_seconds=meter.gpu_seconds,
    )
    return seen, TeacherScores.concatenate(parts), cost


class _DeviceMeter:
    """Adds up the time spent in a model. Scoring blocks until its device is done, so wall time is device time."""

    def __init__(self, on_gpu: bool) -> None:  # noqa: FBT001 - a private class with one caller each way
        self._on_gpu = on_gpu
        self.wall_seconds = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *exc_info: object) -> None:
        self.wall_seconds += time.perf_counter() - self._started

    @property
    def gpu_seconds(self) -> float:
        return self.wall_seconds if self._on_gpu else 0.0


def _without_pixels(batch: ClipBatch) -> ClipBatch:
    """Keep where the clips lie and let their pixels go: memory must not grow with the video."""
    return replace(batch, pixels_NTCHW=np.empty((len(batch.spans), 0, 0, 0, 0), dtype=np.uint8))


def _student_alone(
    student: StudentScores | None, aggregation: Aggregation, temperature: float
) -> tuple[int | None, float | None]:
    if student is None:
        return None, None
    nobody_N = np.zeros(len(student.q_student_N), dtype=np.bool_)
    score = aggregate(aggregation, merge_answers(student, None, nobody_N))
    probabilities_K = temper(score.probabilities_K, temperature)
    return int(probabilities_K.argmax()), float(probabilities_K.max())


def _rank(probabilities_K: np.ndarray, labels: tuple[str, ...]) -> tuple[RankedLabel, ...]:
    # A stable sort of the negated values: equal probabilities rank by label_id, on every machine.
    best_first = np.argsort(-probabilities_K, kind="stable")[:TOP_LABELS]
    return tuple(
        RankedLabel(label_id=int(label_id), label=labels[label_id], probability=float(probabilities_K[label_id]))
        for label_id in best_first
    )


def _decided_by(escalated_N: BoolArray) -> DecidedBy:
    if escalated_N.all():
        return "teacher"
    return "both" if escalated_N.any() else "student"


def _clip_records(scores: ClipScores, video_score: VideoScore) -> Iterator[ClipRecord]:
    teacher_rows = iter(() if scores.teacher is None else scores.teacher.probabilities_NK)
    for row, (clip_index, span) in enumerate(zip(scores.clip_indices, scores.spans, strict=True)):
        escalated = bool(scores.escalated_N[row])
        teacher_K = next(teacher_rows) if escalated else None
        student = scores.student
        student_K = None if student is None else student.probabilities_NK[row]
        yield ClipRecord(
            clip_index=clip_index,
            start_seconds=span.start_seconds,
            end_seconds=span.end_seconds,
            scored_by="teacher" if escalated else "student",
            student_label_id=None if student_K is None else int(student_K.argmax()),
            student_confidence=None if student_K is None else float(student_K.max()),
            q_teacher=None if student is None else float(student.q_teacher_N[row]),
            q_student=None if student is None else float(student.q_student_N[row]),
            teacher_label_id=None if teacher_K is None else int(teacher_K.argmax()),
            teacher_confidence=None if teacher_K is None else float(teacher_K.max()),
            weight=float(video_score.weights_N[row]),
        )
