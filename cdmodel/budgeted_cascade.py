"""The cascade on one video in two stages: the student's pass, and later the teacher's clips that were paid for.

Decides as ``cascade`` does wherever everything that the policy wants is affordable: the same scores, the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np

from cdmodel.budget import Purse
from cdmodel.calibration import calibrate_student, calibrate_teacher
from cdmodel.cascade import ScoredClips, ask_student, ask_teacher, decide, decode_cost, judge_of
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.clips import ClipBatch, ClipSource
from cdmodel.cost import ComputeCost
from cdmodel.decode_survey import DecodeSummary
from cdmodel.dense_audit import audit_video
from cdmodel.errors import DecodeError, VideoError
from cdmodel.escalation import asking_value, next_clips
from cdmodel.models import CascadeModels
from cdmodel.scores import FloatArray, VideoState
from cdmodel.student_pass import StudentOutcome, StudentPass
from cdmodel.types import VideoAudit, VideoPrediction, VideoRef

OpenClips = Callable[[], AbstractContextManager[ClipSource]]
_COUNTS = (
    "frames_decoded",
    "frames_used",
    "frames_corrupt",
    "packets_read",
    "packets_damaged",
    "bytes_read",
    "read_requests",
    "cpu_seconds",
)
"""What adds up over two readings of a video."""


def take_student_pass(
    video: VideoRef, reader: ClipSource, models: CascadeModels, settings: CascadeSettings
) -> StudentPass:
    """Run the student on every clip and say what the policy would ask the teacher about.

    Raises:
        VideoError: the video cannot be read; ``reader.summary()`` then tells what was spent.
    """
    logits, spans, cost = ask_student(reader, models)
    student = calibrate_student(logits, models.manifest.calibration, models.manifest.label_kind)
    state = VideoState.before_the_teacher(video.video_id, len(spans), student)
    judge = judge_of(models, settings.aggregation)
    return StudentPass(
        video=video,
        logits=logits,
        spans=spans,
        wanted_N=next_clips(settings.policy, state, judge),
        value_N=asking_value(settings.policy, student, judge),
        summary=reader.summary(),
        cost=cost,
    )


def cost_of_pass(outcome: StudentOutcome) -> ComputeCost:
    """Return what the student's pass took, reading and decoding included; of a video that failed, what it took until then."""
    if not isinstance(outcome, StudentPass):
        return outcome.cost
    return outcome.cost + decode_cost(_BothReadings(outcome.summary, None))


def label_after_pass(
    taken: StudentPass,
    funded: Collection[int],
    open_clips: OpenClips,
    models: CascadeModels,
    settings: CascadeSettings,
    purse: Purse,
    *,
    audit: bool = False,
) -> VideoPrediction:
    """Ask the teacher about the funded clips, as far as the purse allows, and label the video; audit it where drawn.

    Without either the video is not opened again. The prediction's cost holds both stages.

    Raises:
        VideoError: the video cannot be read a second time, or turned out another one. An audit that fails raises nothing.
    """
    if funded and purse.can_afford(len(funded)):
        with open_clips() as reader:
            logits_MK, batches, cost = ask_teacher(reader, models, funded, purse=purse)
            scored = _scored(taken, models, funded, batches, logits_MK, cost)
            prediction = _decide(taken, scored, reader.summary(), models, settings)
            return audit_video(prediction, scored, reader, models, settings) if audit else prediction
    scored = _scored(taken, models, (), (), np.zeros((0, 0), dtype=np.float32), ComputeCost())
    prediction = _decide(taken, scored, None, models, settings)
    if not audit:
        return prediction
    try:
        with open_clips() as reader:
            return audit_video(prediction, scored, reader, models, settings)
    except VideoError:
        return replace(prediction, audit=VideoAudit(teacher_label_id=None, confidences=()))


def _decide(
    taken: StudentPass,
    scored: ScoredClips,
    again: DecodeSummary | None,
    models: CascadeModels,
    settings: CascadeSettings,
) -> VideoPrediction:
    prediction = decide(taken.video, scored, _BothReadings(taken.summary, again), models, settings)
    return replace(prediction, clips_unfunded=int((taken.wanted_N & ~scored.state.asked_N).sum()))


def _scored(
    taken: StudentPass,
    models: CascadeModels,
    funded: Collection[int],
    batches: Sequence[ClipBatch],
    logits_MK: FloatArray,
    cost: ComputeCost,
) -> ScoredClips:
    answered = [index for batch in batches for index in batch.clip_indices]
    # The purse may have run dry before the last clips; others than these may not be missing.
    if answered != sorted(funded)[: len(answered)]:
        raise DecodeError(taken.video.video_id, "two passes over the video gave different clips")
    manifest = models.manifest
    student = calibrate_student(taken.logits, manifest.calibration, manifest.label_kind)
    state = VideoState.before_the_teacher(taken.video.video_id, len(taken.spans), student)
    if answered:
        asked_N = np.zeros(state.clips, dtype=np.bool_)
        asked_N[answered] = True
        teacher = calibrate_teacher(logits_MK, asked_N, student, manifest.calibration, manifest.label_kind)
        state = state.after(asked_N, teacher)
    return ScoredClips(
        spans=taken.spans,
        state=state,
        teacher_logits=dict(zip(answered, logits_MK, strict=True)),
        cost=taken.cost + cost,
    )


class _BothReadings:
    """What is known of a video that was opened once or twice: what the student's pass found, and the cost of both."""

    def __init__(self, first: DecodeSummary, second: DecodeSummary | None) -> None:
        self._first = first
        self._second = second

    def summary(self) -> DecodeSummary:
        """Return the first reading's findings with what both took."""
        if self._second is None:
            return self._first
        counts = {name: getattr(self._first, name) + getattr(self._second, name) for name in _COUNTS}
        return replace(self._first, **counts)
