from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest

from cdmodel.aggregation import LogPool, MeanProbability, TopMean, WeightedMean, merge_answers
from cdmodel.calibration import ANSWER_FEATURES, CLIP_FEATURES, Calibration, ConfidenceMap
from cdmodel.cascade import CascadeSettings, decide, decode_cost, judge_of, label_video, score_video
from cdmodel.cost import ComputeCost
from cdmodel.decode import ClipReader
from cdmodel.encode import encode_mp4
from cdmodel.errors import DecodeError, VideoUnreadable
from cdmodel.escalation import counted_clips, needs_student
from cdmodel.models import CascadeModels
from cdmodel.policies import (
    CentreClips,
    DenseStudent,
    DenseTeacher,
    EarlyExit,
    EscalationPolicy,
    Gain,
    Gate,
    MaxProbability,
    MotionClips,
    RandomClips,
    Sequential,
    ThreeWay,
    TopGain,
    TopSaliency,
    UniformClips,
)
from cdmodel.replay import CachedVideo, VideoSeconds, calibrate, replay_video
from cdmodel.sampling import ClipSampling
from cdmodel.testing import (
    FIRST_LEVEL,
    LEVEL_STEP,
    TableStudent,
    TableTeacher,
    encode_numbered_clips,
    table_models,
)
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
    Sequential(min_value=0.0),
    Sequential(min_value=-1.0, clips_per_round=4),
    ThreeWay(min_gain=0.3, drop_below=0.65),
    TopGain(clips=2),
    TopSaliency(clips=2),
    Gate(threshold=0.9),
    MotionClips(clips=2),
    UniformClips(clips=2),
    CentreClips(clips=2),
    RandomClips(clips=2, seed=1),
    EarlyExit(threshold=0.5),
]
# Every feature counts a little, so that a live run and a replay agree only if they see the same video.
IN_CONTEXT = Calibration(
    student_temperature=1.2,
    teacher_temperature=0.8,
    video_temperature=1.7,
    q_teacher=ConfidenceMap(weights=tuple(np.linspace(0.8, -0.1, len(CLIP_FEATURES)).tolist()), bias=0.1),
    q_student=ConfidenceMap(weights=tuple(np.linspace(-0.1, 0.3, len(CLIP_FEATURES)).tolist()), bias=-0.1),
    teacher_answer=ConfidenceMap(weights=tuple(np.linspace(0.4, 0.1, len(ANSWER_FEATURES)).tolist())),
)


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
    assert prediction.clips_planned == CLIPS
    assert len(prediction.clips) == (CLIPS if needs_student(policy) else prediction.clips_teacher)
    assert prediction.clips_student == len(models.student.network.asked)
    assert prediction.clips_teacher == len(models.teacher.network.asked)
    assert prediction.cost.student_flops == 10 * prediction.clips_student
    assert prediction.cost.teacher_flops == 1000 * prediction.clips_teacher
    assert prediction.cost.dense_teacher_flops == 1000 * CLIPS
    assert prediction.cost.gpu_seconds == 0
    assert prediction.cost.dense_decode_cpu_seconds <= prediction.cost.decode_cpu_seconds
    assert sum(clip.weight for clip in prediction.clips) == pytest.approx(1)
    assert sum(label.probability for label in prediction.top_labels) == pytest.approx(1)


AGGREGATIONS = [MeanProbability(), WeightedMean(), TopMean(clips=2), LogPool(confidence_power=1.0, independence=0.5)]


def _cached() -> CachedVideo:
    """Return what both networks say of every clip of the video."""
    models = _models()
    student = [models.student.score(batch.pixels_NTCHW) for batch in _reader().read_clips(models.student.geometry)]
    teacher = [models.teacher.score(batch.pixels_NTCHW) for batch in _reader().read_clips(models.teacher.geometry)]
    return CachedVideo(
        video_id=VIDEO.video_id,
        group="g",
        truth_K=np.array([False, True, False]),
        student=type(student[0]).concatenate(student),
        teacher_logits_NK=np.concatenate(teacher),
        seconds=VideoSeconds(decode_student=1, decode_teacher=1, student=1, teacher=1),
    )


@pytest.mark.parametrize("aggregation", AGGREGATIONS, ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_a_replay_of_cached_answers_decides_exactly_as_the_live_run(policy, aggregation):
    models = _models(IN_CONTEXT)
    reader, judge = _reader(), judge_of(models, aggregation)
    scored = score_video(VIDEO.video_id, reader, models, policy, judge)
    live = decide(VIDEO, scored, reader, models, CascadeSettings(policy=policy, aggregation=aggregation))

    state = replay_video(policy, judge, calibrate(_cached(), IN_CONTEXT, "single")).state
    np.testing.assert_array_equal(state.asked_N, scored.state.asked_N)
    replayed = judge.score(merge_answers(state, counted_clips(policy, state)))
    ranking = np.argsort(-replayed.probabilities_K, kind="stable")
    assert [label.label_id for label in live.top_labels] == ranking.tolist()
    assert [label.probability for label in live.top_labels] == replayed.probabilities_K[ranking].tolist()
    assert {clip.clip_index: clip.weight for clip in live.clips} == {
        clip: weight for clip, weight in enumerate(replayed.weights_N.tolist()) if scored.spans[clip] is not None
    }


def test_looking_one_by_one_asks_the_teacher_in_the_order_of_the_policy():
    models = _models()
    _label(models, Sequential(min_value=-1.0))
    gains = Q_TEACHER_N - Q_STUDENT_N  # the sequence: 0.4 (twice, the earlier first), 0.35, 0.1, 0.05, -0.1
    assert sorted(models.teacher.network.asked) == list(range(CLIPS))
    assert [round(gains[clip], 2) for clip in models.teacher.network.asked] == [0.4, 0.4, 0.35, 0.1, 0.05, -0.1]


def test_without_a_student_only_the_chosen_clips_are_looked_at():
    models = _models()
    prediction = _label(models, UniformClips(clips=2))
    assert models.student.network.asked == []
    assert models.teacher.network.asked == [1, 4]
    assert [clip.clip_index for clip in prediction.clips] == [1, 4]
    assert prediction.decided_by == "teacher"
    assert prediction.student_label_id is None


def test_dropped_clips_are_reported_without_a_share():
    prediction = _label(_models(), ThreeWay(min_gain=0.9, drop_below=0.75), MeanProbability())
    hopeless = [clip for clip in range(CLIPS) if max(Q_TEACHER_N[clip], Q_STUDENT_N[clip]) < 0.75]
    assert hopeless == [3, 5]
    assert [clip.clip_index for clip in prediction.clips if clip.weight == 0] == hopeless


def test_where_several_labels_may_be_true_all_that_are_likely_are_listed():
    likely_NK = np.full((CLIPS, 8), 0.2)
    likely_NK[:, :6] = 0.9
    odds_NK = likely_NK / (1 - likely_NK)  # a table model's logits are logarithms, and a sigmoid's odds
    models = table_models(
        TableStudent(odds_NK, Q_TEACHER_N, Q_STUDENT_N), TableTeacher(odds_NK), labels=[f"c{n}" for n in range(8)]
    )
    several = replace(models, manifest=replace(models.manifest, label_kind="multi"))
    prediction = _label(several, Gain(min_gain=0.2), MeanProbability())
    assert [label.label for label in prediction.top_labels] == [f"c{n}" for n in range(6)]
    assert all(label.probability == pytest.approx(0.9, abs=1e-5) for label in prediction.top_labels)


class _ForgetfulReader(ClipReader):
    """Finds nothing any more once clips are asked for by number, as where a file was cut between two passes."""

    def read_clips(self, geometry, wanted=None, clips_per_batch=16):
        return iter(()) if wanted is not None else super().read_clips(geometry, wanted, clips_per_batch)


def test_a_video_that_changed_between_two_passes_fails_by_name():
    reader = _ForgetfulReader(io.BytesIO(CONTENT), VIDEO.uri, ClipSampling())
    with pytest.raises(DecodeError, match="different clips"):
        label_video(VIDEO, reader, _models(), CascadeSettings(policy=Gain(min_gain=0.2), aggregation=POOL))


def test_clips_counted_by_packets_are_counted_again_when_their_pictures_turn_out_to_be_damaged():
    levels = [FIRST_LEVEL + LEVEL_STEP * clip for clip in range(CLIPS) for _ in range(8)]
    noise = np.random.default_rng(0)
    frames = [noise.integers(-25, 26, (48, 64, 3)) + level for level in levels]
    whole = encode_mp4([frame.astype(np.uint8) for frame in frames], 8)
    # The index stands before the pictures: every packet is there, and the last ones hold nothing.
    damaged = whole[: -len(whole) // 4] + bytes(len(whole) // 4)
    reader = ClipReader(io.BytesIO(damaged), VIDEO.uri, ClipSampling())
    assert reader.count_clips() == CLIPS
    settings = CascadeSettings(policy=UniformClips(clips=CLIPS), aggregation=MeanProbability())
    prediction = label_video(VIDEO, reader, _models(), settings)
    assert 0 < prediction.clips_teacher < CLIPS
    assert prediction.damage is not None
    assert prediction.coverage < 1


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
