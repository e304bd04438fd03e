"""The audit of one video: after the cascade has decided, the teacher also looks at the clips it was not asked about.

The prediction stays what it is, whatever becomes of the audit. Knows nothing of which videos are drawn.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from cdmodel.aggregation import merge_answers
from cdmodel.calibration import calibrate_teacher
from cdmodel.cascade import ScoredClips, ask_teacher, decide, judge_of, score_in_passes
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.clips import ClipSource
from cdmodel.cost import ComputeCost
from cdmodel.errors import DecodeError, VideoError
from cdmodel.escalation import counted_clips
from cdmodel.models import CascadeModels
from cdmodel.pass_choice import KeptClips, PassChooser, SettledPasses
from cdmodel.policies import DenseTeacher
from cdmodel.scores import FloatArray, VideoState
from cdmodel.types import VideoAudit, VideoPrediction, VideoRef

logger = logging.getLogger(__name__)


def label_and_audit_video(
    video: VideoRef,
    reader: ClipSource,
    models: CascadeModels,
    settings: CascadeSettings,
    passes: PassChooser | SettledPasses | None = None,
) -> VideoPrediction:
    """Label one video as ``cascade.label_video`` does, and have the teacher label it densely as well.

    Raises:
        VideoError: the video cannot be labeled. An audit that fails raises nothing.
    """
    scored, kept = score_in_passes(video, reader, models, settings, passes)
    prediction = decide(video, scored, reader, models, settings)
    return audit_video(prediction, scored, reader, models, settings, kept)


def audit_video(
    prediction: VideoPrediction,
    scored: ScoredClips,
    reader: ClipSource,
    models: CascadeModels,
    settings: CascadeSettings,
    kept: KeptClips | None = None,
) -> VideoPrediction:
    """Return the prediction with the dense teacher's answer and what that took; all else is as it was.

    Answers that the teacher gave already are not paid again. Where the other clips can no longer be read, there is no
    answer. The cost is that of the audit's FLOPs, its seconds, and the device's time among them.
    """
    cpu_seconds_before = reader.summary().cpu_seconds
    cost = ComputeCost()
    try:
        others, cost = _ask_about_the_others(scored, reader, models, kept)
    except VideoError as error:
        logger.info("audit of %s failed (%s): %s", prediction.video.video_id, error.kind, error.reason)
        audit = VideoAudit(teacher_label_id=None, confidences=())
    else:
        audit = _answer_densely(scored, {**scored.teacher_logits, **others}, models, settings)
    spent = ComputeCost(
        audit_flops=cost.teacher_flops,
        audit_seconds=cost.teacher_seconds + reader.summary().cpu_seconds - cpu_seconds_before,
        gpu_seconds=cost.gpu_seconds,
    )
    return replace(prediction, audit=audit, cost=prediction.cost + spent)


def _ask_about_the_others(
    scored: ScoredClips, reader: ClipSource, models: CascadeModels, kept: KeptClips | None
) -> tuple[dict[int, FloatArray], ComputeCost]:
    """Return the teacher's logits [K] for the clips it was not asked about, by their index."""
    wanted = np.flatnonzero(~scored.state.asked_N).tolist()
    if not wanted:
        return {}, ComputeCost()
    answers, batches, cost = ask_teacher(reader, models, wanted, kept)
    answered = [clip_index for batch in batches for clip_index in batch.clip_indices]
    if answered != wanted:
        raise DecodeError(scored.state.video_id, "two passes over the video gave different clips")
    return dict(zip(answered, answers, strict=True)), cost


def _answer_densely(
    scored: ScoredClips, logits: dict[int, FloatArray], models: CascadeModels, settings: CascadeSettings
) -> VideoAudit:
    """Aggregate as a run of the policy ``dense_teacher`` does, for which there is no student."""
    manifest, clips = models.manifest, scored.state.clips
    asked_N = np.ones(clips, dtype=np.bool_)
    logits_NK = np.stack([logits[clip_index] for clip_index in range(clips)])
    teacher = calibrate_teacher(logits_NK, asked_N, None, manifest.calibration, manifest.label_kind)
    state = VideoState(video_id=scored.state.video_id, clips=clips, student=None, asked_N=asked_N, teacher=teacher)
    answers = merge_answers(state, counted_clips(DenseTeacher(), state))
    probabilities_K = judge_of(models, settings.aggregation).score(answers).probabilities_K
    return VideoAudit(
        teacher_label_id=int(probabilities_K.argmax()),
        confidences=tuple(teacher.probabilities_NK.max(axis=1).tolist()),
    )
