"""The teacher's second look: it agrees with a dense run, is paid apart, and changes nothing else."""

from __future__ import annotations

import io
from dataclasses import fields, replace

import numpy as np
import pytest

from cdmodel.aggregation import LogPool, MeanProbability, WeightedMean
from cdmodel.calibration import ALONE_FEATURES, Calibration, ConfidenceMap
from cdmodel.cascade import label_video
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode import ClipReader
from cdmodel.dense_audit import label_and_audit_video
from cdmodel.errors import DecodeTimeout
from cdmodel.models import CascadeModels
from cdmodel.pass_choice import PassChooser
from cdmodel.policies import (
    DenseStudent,
    DenseTeacher,
    EarlyExit,
    Gain,
    MaxProbability,
    RandomClips,
    Sequential,
    ThreeWay,
    UniformClips,
)
from cdmodel.sampling import ClipSampling
from cdmodel.testing import TableStudent, TableTeacher, encode_numbered_clips, table_models
from cdmodel.types import VideoPrediction, VideoRef

CLIPS = 6
# The student is sure of class 0. The teacher trusts class 2 on three clips, barely, and class 1 on three, firmly.
STUDENT_NK = np.array([[0.9, 0.05, 0.05]] * CLIPS)
TEACHER_NK = np.array([[0.3, 0.32, 0.38], [0.05, 0.9, 0.05]] * (CLIPS // 2))
Q_TEACHER_N = np.array([0.9, 0.8, 0.85, 0.5, 0.9, 0.7])
Q_STUDENT_N = np.array([0.85, 0.4, 0.5, 0.6, 0.8, 0.3])
VIDEO = VideoRef(video_id="a.mp4", uri="/videos/a.mp4", video_version="1", size_bytes=1)
CONTENT = encode_numbered_clips(CLIPS)
CALIBRATION = Calibration(
    teacher_temperature=0.8,
    video_temperature=1.7,
    teacher_alone=ConfidenceMap(weights=tuple(np.linspace(0.9, 0.2, len(ALONE_FEATURES)).tolist())),
)
POLICIES = [
    DenseTeacher(),
    DenseStudent(),
    Gain(min_gain=0.2),
    MaxProbability(threshold=1.0),
    Sequential(min_value=0.0),
    ThreeWay(min_gain=0.3, drop_below=0.65),
    UniformClips(clips=2),
    RandomClips(clips=2, seed=1),
    EarlyExit(threshold=0.5),
]
OF_THE_AUDIT = {"audit_flops", "audit_seconds"}
MEASURED = {"decode_cpu_seconds", "dense_decode_cpu_seconds", "student_seconds", "teacher_seconds"}


def _models() -> CascadeModels:
    student = TableStudent(STUDENT_NK, Q_TEACHER_N, Q_STUDENT_N)
    return table_models(student, TableTeacher(TEACHER_NK), labels=("run", "jump", "wave"), calibration=CALIBRATION)


def _reader() -> ClipReader:
    return ClipReader(io.BytesIO(CONTENT), VIDEO.uri, ClipSampling())


def _audit(policy, models=None, reader=None, aggregation=LogPool(), passes=None) -> VideoPrediction:  # noqa: B008
    settings = CascadeSettings(policy=policy, aggregation=aggregation)
    return label_and_audit_video(VIDEO, reader or _reader(), models or _models(), settings, passes)


def _without_audit(prediction: VideoPrediction) -> VideoPrediction:
    """Leave out the audit, the seconds that differ from one measurement to the next, and the moment."""
    cost = replace(prediction.cost, **dict.fromkeys(OF_THE_AUDIT | MEASURED, 0))
    return replace(prediction, audit=None, cost=cost, labeled_at=VIDEO)  # type: ignore[arg-type]


@pytest.mark.parametrize("aggregation", [LogPool(), MeanProbability(), WeightedMean()], ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_audit_says_what_a_run_of_the_dense_teacher_says(policy, aggregation):
    dense = label_video(VIDEO, _reader(), _models(), CascadeSettings(policy=DenseTeacher(), aggregation=aggregation))
    audit = _audit(policy, aggregation=aggregation).audit
    assert audit is not None
    assert audit.teacher_label_id == dense.top_labels[0].label_id == 1
    assert audit.confidences == tuple(clip.teacher_confidence for clip in dense.clips)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_all_else_is_as_it_would_be_without_the_audit(policy):
    alone = label_video(VIDEO, _reader(), _models(), CascadeSettings(policy=policy, aggregation=LogPool()))
    assert _without_audit(_audit(policy)) == _without_audit(alone)
    assert {field.name for field in fields(alone.cost)} >= OF_THE_AUDIT | MEASURED


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_no_clip_is_put_to_the_teacher_twice_and_what_the_audit_asks_is_paid_apart(policy):
    models = _models()
    prediction = _audit(policy, models)
    assert sorted(models.teacher.network.asked) == list(range(CLIPS))
    assert prediction.cost.teacher_flops == 1000 * prediction.clips_teacher
    assert prediction.cost.audit_flops == 1000 * (CLIPS - prediction.clips_teacher)
    assert (prediction.cost.audit_seconds > 0) == (prediction.clips_teacher < CLIPS)


def test_clips_that_one_pass_has_kept_are_not_decoded_again():
    reader, passes = _reader(), PassChooser()
    for _ in range(20):
        passes.learn(CLIPS, CLIPS)
    assert passes.prefers_one_pass
    prediction = _audit(Gain(min_gain=0.2), reader=reader, passes=passes)
    assert prediction.audit is not None
    assert reader.summary().frames_decoded == prediction.cost.frames_decoded
    assert prediction.cost.audit_flops == 1000 * 3


class _ReaderThatFailsLater(ClipReader):
    """Reads as it should until ``fails`` is set."""

    passes_left = 1

    def read_clips(self, geometry, wanted=None, clips_per_batch=16):
        if not self.passes_left:
            raise DecodeTimeout(VIDEO.uri, "took too long")
        self.passes_left -= 1
        return super().read_clips(geometry, wanted, clips_per_batch)


@pytest.mark.parametrize("policy", [DenseStudent(), UniformClips(clips=2)], ids=str)
def test_a_video_whose_second_look_fails_keeps_its_label_and_says_nothing_of_the_teacher(policy):
    failing = _ReaderThatFailsLater(io.BytesIO(CONTENT), VIDEO.uri, ClipSampling())
    prediction = _audit(policy, reader=failing)
    alone = label_video(VIDEO, _reader(), _models(), CascadeSettings(policy=policy, aggregation=LogPool()))
    assert _without_audit(prediction) == _without_audit(alone)
    assert prediction.audit is not None
    assert (prediction.audit.teacher_label_id, prediction.audit.confidences) == (None, ())


class _ReaderOfOtherClips(ClipReader):
    """Has lost a clip once clips are asked for by number."""

    def read_clips(self, geometry, wanted=None, clips_per_batch=16):
        kept = None if wanted is None else sorted(wanted)[:-1]
        return super().read_clips(geometry, kept, clips_per_batch)


def test_answers_about_other_clips_are_no_audit():
    changed = _ReaderOfOtherClips(io.BytesIO(CONTENT), VIDEO.uri, ClipSampling())
    prediction = _audit(DenseStudent(), reader=changed)
    assert prediction.top_labels[0].label == "run"
    assert prediction.audit is not None
    assert prediction.audit.teacher_label_id is None


def test_where_several_labels_may_be_true_the_likeliest_is_compared():
    models = _models()
    several = replace(models, manifest=replace(models.manifest, label_kind="multi"))
    dense = CascadeSettings(policy=DenseTeacher(), aggregation=MeanProbability())
    expected = label_video(VIDEO, _reader(), several, dense).top_labels[0].label_id
    audit = _audit(DenseStudent(), several, aggregation=MeanProbability()).audit
    assert audit is not None
    assert audit.teacher_label_id == expected
