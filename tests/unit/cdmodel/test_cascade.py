from __future__ import annotations

import io

import numpy as np
import pytest

from cdmodel.aggregation import LogPool, MeanProbability, aggregate, merge_answers
from cdmodel.calibration import Calibration, temper
from cdmodel.cascade import CascadeSettings, decide, decode_cost, label_video, score_video
from cdmodel.cost import ComputeCost
from cdmodel.decode import ClipReader
from cdmodel.errors import VideoUnreadable
from cdmodel.escalation import DenseStudent, DenseTeacher, EscalationPolicy, Gain, MaxProbability, select_for_escalation
from cdmodel.models import CascadeModels
from cdmodel.sampling import ClipSampling
from cdmodel.testing import TableStudent, TableTeacher, encode_numbered_clips, table_models
from cdmodel.types import VideoPrediction, VideoRef

CLIPS = 6
LABELS = ("run", "jump", "wave")
STUDENT_NK = np.array(
    [[0.8, 0.1, 0.1], [0.4, 0.35, 0.25], [0.2, 0.3, 0.5], [0.6, 0.2, 0.2], [0.1, 0.1, 0.8], [0.34, 0.33, 0.33]]
)
TEACHER_NK = np.array(
    [[0.9, 0.05, 0.05], [0.1, 0.8, 0.1], [0.1, 0.85, 0.05], [0.2, 0.7, 0.1], [0.05, 0.05, 0.9], [0.15, 0.6, 0.25]]
)
Q_TEACHER_N = np.array([0.9, 0.8, 0.85, 0.5, 0.9, 0.7])
Q_STUDENT_N = np.array([0.85, 0.4, 0.5, 0.6, 0.8, 0.3])
VIDEO = VideoRef(video_id="a.mp4", uri="/videos/a.mp4", video_version="1", size_bytes=1)
POOL = LogPool()
CONTENT = encode_numbered_clips(CLIPS)
POLICIES = [
    DenseTeacher(),
    DenseStudent(),
    Gain(min_gain=0.2),
    Gain(min_gain=1.0),
    MaxProbability(threshold=0.55),
    MaxProbability(threshold=1.0),
]


def _models(calibration: Calibration | None = None) -> CascadeModels:
    student = TableStudent(STUDENT_NK, Q_TEACHER_N, Q_STUDENT_N)
    return table_models(student, TableTeacher(TEACHER_NK), labels=LABELS, calibration=calibration)


def _reader() -> ClipReader:
    return ClipReader(io.BytesIO(CONTENT), VIDEO.uri, ClipSampling())


def _label(models: CascadeModels, policy: EscalationPolicy, aggregation=POOL) -> VideoPrediction:
    return label_video(VIDEO, _reader(), models, CascadeSettings(policy=policy, aggregation=aggregation))


def test_the_dense_teacher_never_calls_the_student():
    models = _models()
    prediction = _label(models, DenseTeacher())
    assert models.student.network.asked == []
    assert models.teacher.network.asked == list(range(CLIPS))
    assert prediction.decided_by == "teacher"
    assert (prediction.clips_student, prediction.clips_teacher) == (0, CLIPS)
    assert prediction.student_label_id is prediction.student_confidence is None
    assert all(clip.q_teacher is clip.q_student is clip.student_label_id is None for clip in prediction.clips)
    assert prediction.cost.student_flops == 0


def test_the_dense_student_never_calls_the_teacher():
    models = _models()
    prediction = _label(models, DenseStudent())
    assert models.student.network.asked == list(range(CLIPS))
    assert models.teacher.network.asked == []
    assert prediction.decided_by == "student"
    assert (prediction.clips_student, prediction.clips_teacher) == (CLIPS, 0)
    assert prediction.top_labels[0].label_id == prediction.student_label_id
    assert prediction.top_labels[0].probability == prediction.student_confidence
    assert prediction.cost.teacher_flops == 0


def test_gain_asks_the_teacher_exactly_where_it_is_expected_to_help_by_more():
    models = _models()
    prediction = _label(models, Gain(min_gain=0.2))
    expected = [clip for clip in range(CLIPS) if Q_TEACHER_N[clip] - Q_STUDENT_N[clip] > 0.2]
    assert expected == [1, 2, 5]
    assert models.teacher.network.asked == expected
    assert [clip.clip_index for clip in prediction.clips if clip.scored_by == "teacher"] == expected
    assert prediction.decided_by == "both"


def test_the_teachers_answers_land_on_the_clips_they_are_about():
    prediction = _label(_models(), Gain(min_gain=0.2))
    for clip in prediction.clips:
        assert clip.student_label_id == STUDENT_NK[clip.clip_index].argmax()
        assert clip.student_confidence == pytest.approx(STUDENT_NK[clip.clip_index].max(), abs=1e-6)
        assert clip.q_teacher == pytest.approx(Q_TEACHER_N[clip.clip_index], abs=1e-6)
        assert clip.q_student == pytest.approx(Q_STUDENT_N[clip.clip_index], abs=1e-6)
        if clip.scored_by == "teacher":
            assert clip.teacher_label_id == TEACHER_NK[clip.clip_index].argmax()
            assert clip.teacher_confidence == pytest.approx(TEACHER_NK[clip.clip_index].max(), abs=1e-6)
        else:
            assert clip.teacher_label_id is clip.teacher_confidence is None


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_flops_and_counts_add_up(policy):
    models = _models()
    prediction = _label(models, policy)
    assert prediction.clips_planned == len(prediction.clips) == CLIPS
    assert prediction.clips_student == len(models.student.network.asked)
    assert prediction.clips_teacher == len(models.teacher.network.asked)
    assert prediction.cost.student_flops == 10 * prediction.clips_student
    assert prediction.cost.teacher_flops == 1000 * prediction.clips_teacher
    assert prediction.cost.dense_teacher_flops == 1000 * CLIPS
    assert prediction.cost.gpu_seconds == 0
    assert prediction.cost.dense_decode_cpu_seconds <= prediction.cost.decode_cpu_seconds
    assert sum(clip.weight for clip in prediction.clips) == pytest.approx(1)
    assert sum(label.probability for label in prediction.top_labels) == pytest.approx(1)


@pytest.mark.parametrize("aggregation", [MeanProbability(), LogPool(confidence_power=1.0, independence=0.5)], ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_replay_of_the_recorded_scores_decides_exactly_the_same(policy, aggregation):
    models = _models(Calibration(video_temperature=1.7))
    reader = _reader()
    scores = score_video(reader, models, policy)
    live = decide(VIDEO, scores, reader, models, CascadeSettings(policy=policy, aggregation=aggregation))

    if scores.student is not None:
        np.testing.assert_array_equal(select_for_escalation(policy, scores.student), scores.escalated_N)
    replayed = aggregate(aggregation, merge_answers(scores.student, scores.teacher, scores.escalated_N))
    probabilities_K = temper(replayed.probabilities_K, 1.7)
    ranking = np.argsort(-probabilities_K, kind="stable")
    assert [label.label_id for label in live.top_labels] == ranking.tolist()
    assert [label.probability for label in live.top_labels] == probabilities_K[ranking].tolist()
    assert [clip.weight for clip in live.clips] == replayed.weights_N.tolist()


def test_without_asking_the_teacher_the_answer_is_the_dense_students():
    never, student = _label(_models(), Gain(min_gain=1.0)), _label(_models(), DenseStudent())
    assert never.top_labels == student.top_labels
    assert never.decided_by == "student"


def test_asking_the_teacher_everywhere_gives_the_dense_teachers_mean():
    always = _label(_models(), MaxProbability(threshold=1.0), MeanProbability())
    teacher = _label(_models(), DenseTeacher(), MeanProbability())
    assert always.top_labels == teacher.top_labels
    assert always.decided_by == "teacher"
    assert always.student_label_id is not None, "the student did look"


def test_the_teacher_changes_the_answer_where_the_student_is_wrong():
    assert _label(_models(), DenseStudent()).top_labels[0].label == "run"
    assert _label(_models(), Gain(min_gain=0.2)).top_labels[0].label == "jump"


def test_at_most_five_labels_are_listed_and_equal_ones_rank_by_id():
    flat_NK = np.full((CLIPS, 8), 1 / 8)
    student = TableStudent(flat_NK, Q_TEACHER_N, Q_STUDENT_N)
    models = table_models(student, TableTeacher(flat_NK), labels=[f"c{number}" for number in range(8)])
    assert [label.label for label in _label(models, DenseStudent()).top_labels] == ["c0", "c1", "c2", "c3", "c4"]


def test_a_video_that_cannot_be_read_costs_nothing_but_ends_in_its_error():
    reader = ClipReader(io.BytesIO(b"no video"), VIDEO.uri, ClipSampling())
    with pytest.raises(VideoUnreadable):
        label_video(VIDEO, reader, _models(), CascadeSettings(policy=DenseStudent(), aggregation=POOL))
    assert decode_cost(reader).frames_decoded == ComputeCost().frames_decoded
