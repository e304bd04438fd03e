"""The cascade on one video: student on every clip, policy, teacher where it pays, one answer with its cost.

This is the product's main path. It knows nothing of files, tables or workers. Decisions are the pure functions of
``escalation`` and ``aggregation``, so a replay from cached scores decides the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from cdmodel.aggregation import Aggregation, Judge, VideoScore, merge_answers
from cdmodel.budget import Purse
from cdmodel.bundle import BundleManifest
from cdmodel.calibration import calibrate_student, calibrate_teacher
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.clips import ClipBatch, ClipSource
from cdmodel.cost import ComputeCost
from cdmodel.decode_survey import DecodeSummary
from cdmodel.decoder_name import DECODER_NAME
from cdmodel.errors import DecodeError
from cdmodel.escalation import counted_clips, needs_student, next_clips
from cdmodel.models import CascadeModels
from cdmodel.pass_choice import KeptClips, PassChooser, SettledPasses
from cdmodel.policies import DenseTeacher, EscalationPolicy
from cdmodel.sampling import ClipGeometry
from cdmodel.scores import BoolArray, FloatArray, StudentLogits, StudentScores, VideoState
from cdmodel.stretches import stretch
from cdmodel.types import ClipRecord, ClipSpan, DecidedBy, RankedLabel, VideoPrediction, VideoRef

TOP_LABELS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredClips:
    """Everything the models said of one video, and what it took."""

    spans: tuple[ClipSpan | None, ...]
    """Where each clip lies (N); None for clips nobody looked at."""
    state: VideoState
    teacher_logits: Mapping[int, FloatArray]
    """What the teacher said, uncalibrated [K], by the index of the clip it was asked about."""
    cost: ComputeCost
    """Of the models alone: FLOPs and seconds."""


def label_video(
    video: VideoRef,
    reader: ClipSource,
    models: CascadeModels,
    settings: CascadeSettings,
    passes: PassChooser | SettledPasses | None = None,
) -> VideoPrediction:
    """Label one video; its cost covers reading, decoding and both models.

    Raises:
        VideoError: the video cannot be labeled; ``reader.summary()`` then tells what was spent.
    """
    scored, _ = score_in_passes(video, reader, models, settings, passes)
    return decide(video, scored, reader, models, settings)


def score_in_passes(
    video: VideoRef,
    reader: ClipSource,
    models: CascadeModels,
    settings: CascadeSettings,
    passes: PassChooser | SettledPasses | None,
) -> tuple[ScoredClips, KeptClips | None]:
    """Score a video in as many passes over it as promise to cost least; also return the clips that one pass has kept."""
    judge = judge_of(models, settings.aggregation)
    kept = KeptClips() if _in_one_pass(models, passes) else None
    scored = score_video(video.video_id, reader, models, settings.policy, judge, kept)
    if passes is not None:
        passes.learn(scored.state.clips, int(scored.state.asked_N.sum()))
    return scored, kept


def _in_one_pass(models: CascadeModels, passes: PassChooser | SettledPasses | None) -> bool:
    return passes is not None and passes.prefers_one_pass and not models.student.geometry.keyframes_only


def first_pass(
    models: CascadeModels, policy: EscalationPolicy, passes: PassChooser | SettledPasses | None
) -> tuple[ClipGeometry, ...]:
    """Return the geometries of the pass over all clips that a video's scoring begins with; none where it begins otherwise."""
    if isinstance(policy, DenseTeacher):
        return (models.teacher.geometry,)
    if not needs_student(policy):
        return ()
    student = models.student.geometry
    return (student, models.teacher.geometry) if _in_one_pass(models, passes) else (student,)


def judge_of(models: CascadeModels, aggregation: Aggregation) -> Judge:
    """Return how these models' answers become a video's."""
    manifest = models.manifest
    return Judge(
        aggregation=aggregation,
        label_kind=manifest.label_kind,
        video_temperature=manifest.calibration.video_temperature,
    )


def score_video(
    video_id: str,
    reader: ClipSource,
    models: CascadeModels,
    policy: EscalationPolicy,
    judge: Judge,
    kept: KeptClips | None = None,
) -> ScoredClips:
    """Run the student on all clips, if the policy wants it, and the teacher on those that the policy asks for.

    With ``kept``, the teacher's clips are read together with the student's and kept there. The answers are the same.
    """
    if isinstance(policy, DenseTeacher):
        return _score_densely(video_id, reader, models)
    if needs_student(policy):
        student, spans, cost = _run_student(reader, models, kept)
        teacher = _TeacherAnswers(reader, models, spans, kept)
        state = VideoState.before_the_teacher(video_id, len(spans), student)
        return _consult_teacher(teacher, state, policy, judge, cost)
    teacher = _TeacherAnswers(reader, models, [None] * reader.count_clips())
    state = VideoState.before_the_teacher(video_id, len(teacher.spans), None)
    try:
        return _consult_teacher(teacher, state, policy, judge, ComputeCost())
    except _OtherClips:
        # Clips were counted by packets, and some of their pictures turned out to be damaged: now good frames count.
        again = _TeacherAnswers(reader, models, [None] * reader.count_clips())
        state = VideoState.before_the_teacher(video_id, len(again.spans), None)
        return _consult_teacher(again, state, policy, judge, teacher.cost)


class ReadVideo(Protocol):
    """What was read of a video."""

    def summary(self) -> DecodeSummary:
        """Return what is known of it, and what reading took."""


def decide(
    video: VideoRef, scored: ScoredClips, reader: ReadVideo, models: CascadeModels, settings: CascadeSettings
) -> VideoPrediction:
    """Aggregate the scores of one video into its prediction."""
    state, judge = scored.state, judge_of(models, settings.aggregation)
    score = judge.score(merge_answers(state, counted_clips(settings.policy, state)))
    student_label_id, student_confidence = _student_alone(state, judge)
    summary = reader.summary()
    # A damaged video may be planned shorter than what was read of it by a rounding of its declared duration.
    clips_planned = max(summary.clips_planned, state.clips)
    return VideoPrediction(
        video=video,
        facts=summary.facts,
        coverage=summary.coverage,
        damage=summary.damage,
        top_labels=_rank(score.probabilities_K, models.manifest),
        decided_by=_decided_by(state.asked_N, score),
        student_label_id=student_label_id,
        student_confidence=student_confidence,
        clips=tuple(_clip_records(scored, score)),
        clips_planned=clips_planned,
        cost=decode_cost(reader)
        + replace(scored.cost, dense_teacher_flops=models.teacher.flops_per_clip * clips_planned),
        device=models.device_name,
        decoder=DECODER_NAME,
        decode_mode=summary.mode,
        decode_fallback=summary.fallback_reason,
        labeled_at=datetime.now(UTC),
    )


def decode_cost(reader: ReadVideo) -> ComputeCost:
    """Return what decoding has cost so far, also when it ended in an error."""
    summary = reader.summary()
    return ComputeCost(
        frames_decoded=summary.frames_decoded,
        frames_used=summary.frames_used,
        frames_corrupt=summary.frames_corrupt,
        packets_read=summary.packets_read,
        packets_damaged=summary.packets_damaged,
        bytes_read=summary.bytes_read,
        read_requests=summary.read_requests,
        decode_cpu_seconds=summary.cpu_seconds,
        dense_decode_cpu_seconds=summary.first_pass_cpu_seconds,
    )


def ask_student(
    reader: ClipSource, models: CascadeModels, kept: KeptClips | None = None
) -> tuple[StudentLogits, tuple[ClipSpan, ...], ComputeCost]:
    """Return the student's raw answers to every clip, where the clips lie, and what the network took.

    With ``kept``, the same pass reads the clips in the teacher's size, and they are kept there.

    A replay decides as a live run because both come from here: the same clips in the same batches.
    """
    spans: list[ClipSpan] = []
    parts: list[StudentLogits] = []
    cost = ComputeCost()
    for batch in _awaited(_student_batches(reader, models, kept)):
        asked = models.student.ask(batch.pixels_NTCHW)
        cost += ComputeCost(
            student_flops=models.student.flops_per_clip * len(batch.spans),
            student_seconds=asked.seconds,
            gpu_seconds=asked.gpu_seconds,
        )
        parts.append(asked.answers)
        spans.extend(batch.spans)
    return StudentLogits.concatenate(parts), tuple(spans), cost


def _student_batches(reader: ClipSource, models: CascadeModels, kept: KeptClips | None) -> Iterator[ClipBatch]:
    if kept is None:
        yield from reader.read_clips(models.student.geometry)
        return
    for student_batch, teacher_batch in reader.read_views((models.student.geometry, models.teacher.geometry)):
        kept.keep(teacher_batch)
        yield student_batch


def _awaited(batches: Iterator[ClipBatch]) -> Iterator[ClipBatch]:
    """Yield them and record the time in which they were waited for."""
    while True:
        with stretch("decoder", "clips"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch
        # A slot that is still known to anybody is not written again.
        del batch


def ask_teacher(
    reader: ClipSource,
    models: CascadeModels,
    wanted: Collection[int] | None,
    kept: KeptClips | None = None,
    purse: Purse | None = None,
) -> tuple[FloatArray, list[ClipBatch], ComputeCost]:
    """Return the teacher's logits for the wanted clips (None: all), their batches without pixels, and the cost.

    With a ``purse``, which needs ``wanted``, it stops before the batch that would not fit any more.
    """
    seen: list[ClipBatch] = []
    parts: list[FloatArray] = []
    cost = ComputeCost()
    at_hand = None if kept is None or wanted is None else kept.select(sorted(wanted))
    for batch in _awaited(reader.read_clips(models.teacher.geometry, wanted)) if at_hand is None else at_hand:
        asked = models.teacher.ask(batch.pixels_NTCHW)
        cost += ComputeCost(
            teacher_flops=models.teacher.flops_per_clip * len(batch.spans),
            teacher_seconds=asked.seconds,
            gpu_seconds=asked.gpu_seconds,
        )
        parts.append(asked.answers)
        seen.append(_without_pixels(batch))
        if purse is not None and wanted is not None:
            clips = sum(len(batch.spans) for batch in seen)
            decoding = ComputeCost(decode_cpu_seconds=reader.summary().cpu_seconds)
            purse.note(cost + decoding, clips)
            if clips < len(wanted) and not purse.can_afford(len(wanted) - clips):
                break
    return np.concatenate(parts) if parts else np.empty((0, 0), dtype=np.float32), seen, cost


def _score_densely(video_id: str, reader: ClipSource, models: CascadeModels) -> ScoredClips:
    """Let the teacher look at every clip in one pass, whose length is known at its end."""
    answers, batches, cost = ask_teacher(reader, models, None)
    spans = tuple(span for batch in batches for span in batch.spans)
    asked_N = np.ones(len(spans), dtype=np.bool_)
    manifest = models.manifest
    teacher = calibrate_teacher(answers, asked_N, None, manifest.calibration, manifest.label_kind)
    state = VideoState(video_id=video_id, clips=len(spans), student=None, asked_N=asked_N, teacher=teacher)
    return ScoredClips(spans=spans, state=state, teacher_logits=dict(enumerate(answers)), cost=cost)


def _run_student(
    reader: ClipSource, models: CascadeModels, kept: KeptClips | None
) -> tuple[StudentScores, list[ClipSpan | None], ComputeCost]:
    raw, spans, cost = ask_student(reader, models, kept)
    return calibrate_student(raw, models.manifest.calibration, models.manifest.label_kind), list(spans), cost


def _consult_teacher(
    teacher: _TeacherAnswers, state: VideoState, policy: EscalationPolicy, judge: Judge, spent: ComputeCost
) -> ScoredClips:
    while (wanted_N := next_clips(policy, state, judge)).any():
        state = teacher.ask(wanted_N, state)
    return ScoredClips(
        spans=tuple(teacher.spans), state=state, teacher_logits=teacher.logits, cost=spent + teacher.cost
    )


class _OtherClips(DecodeError):
    """Another pass over the video gave other clips."""


class _TeacherAnswers:
    """What the teacher has said of one video, one question after another."""

    def __init__(
        self,
        reader: ClipSource,
        models: CascadeModels,
        spans: list[ClipSpan | None],
        kept: KeptClips | None = None,
    ) -> None:
        self._reader = reader
        self._kept = kept
        self._models = models
        self.logits: dict[int, FloatArray] = {}
        self.spans = spans
        self.cost = ComputeCost()

    def ask(self, wanted_N: BoolArray, state: VideoState) -> VideoState:
        """Put clips to the teacher and return the state with all of its answers so far."""
        answers, batches, cost = ask_teacher(self._reader, self._models, np.flatnonzero(wanted_N).tolist(), self._kept)
        self.cost += cost
        answered = [(i, span) for batch in batches for i, span in zip(batch.clip_indices, batch.spans, strict=True)]
        if [clip_index for clip_index, _ in answered] != np.flatnonzero(wanted_N).tolist():
            raise _OtherClips(state.video_id, "two passes over the video gave different clips")
        for logits_K, (clip_index, span) in zip(answers, answered, strict=True):
            self.logits[clip_index] = logits_K
            self.spans[clip_index] = span
        asked_N = state.asked_N | wanted_N
        logits_MK = np.stack([self.logits[clip_index] for clip_index in np.flatnonzero(asked_N).tolist()])
        manifest = self._models.manifest
        teacher = calibrate_teacher(logits_MK, asked_N, state.student, manifest.calibration, manifest.label_kind)
        return state.after(asked_N, teacher)


def _without_pixels(batch: ClipBatch) -> ClipBatch:
    """Keep where the clips lie and let their pixels go: memory must not grow with the video."""
    return replace(batch, pixels_NTCHW=np.empty((len(batch.spans), 0, 0, 0, 0), dtype=np.uint8))


def _student_alone(state: VideoState, judge: Judge) -> tuple[int | None, float | None]:
    if state.student is None:
        return None, None
    alone = VideoState.before_the_teacher(state.video_id, state.clips, state.student)
    everything_N = np.ones(state.clips, dtype=np.bool_)
    probabilities_K = judge.score(merge_answers(alone, everything_N)).probabilities_K
    return int(probabilities_K.argmax()), float(probabilities_K.max())


def _rank(probabilities_K: np.ndarray, manifest: BundleManifest) -> tuple[RankedLabel, ...]:
    """Return the five most probable labels, and where a video may have several, every one more likely than not."""
    likely = int((probabilities_K > 0.5).sum()) if manifest.label_kind == "multi" else 0
    # A stable sort of the negated values: equal probabilities rank by label_id, on every machine.
    best_first = np.argsort(-probabilities_K, kind="stable")[: max(TOP_LABELS, likely)]
    return tuple(
        RankedLabel(
            label_id=int(label_id), label=manifest.labels[label_id], probability=float(probabilities_K[label_id])
        )
        for label_id in best_first
    )


def _decided_by(asked_N: BoolArray, score: VideoScore) -> DecidedBy:
    counts_N = score.weights_N > 0
    if not (asked_N & counts_N).any():
        return "student"
    return "both" if (~asked_N & counts_N).any() else "teacher"


def _clip_records(scored: ScoredClips, score: VideoScore) -> Iterator[ClipRecord]:
    """Yield one record per clip that a model looked at."""
    state = scored.state
    answers = iter(() if state.teacher is None else state.teacher.probabilities_NK)
    for clip_index, span in enumerate(scored.spans):
        asked = bool(state.asked_N[clip_index])
        teacher_K = next(answers) if asked else None
        if span is None:
            continue
        student = state.student
        student_K = None if student is None else student.probabilities_NK[clip_index]
        yield ClipRecord(
            clip_index=clip_index,
            start_seconds=span.start_seconds,
            end_seconds=span.end_seconds,
            scored_by="teacher" if asked else "student",
            student_label_id=None if student_K is None else int(student_K.argmax()),
            student_confidence=None if student_K is None else float(student_K.max()),
            q_teacher=None if student is None else float(student.q_teacher_N[clip_index]),
            q_student=None if student is None else float(student.q_student_N[clip_index]),
            teacher_label_id=None if teacher_K is None else int(teacher_K.argmax()),
            teacher_confidence=None if teacher_K is None else float(teacher_K.max()),
            weight=float(score.weights_N[clip_index]),
        )
