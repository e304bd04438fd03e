from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from score_builders import FLOPS, SECONDS, cached_video, specialist_videos

from cdmodel.aggregation import Judge, LogPool, MeanProbability
from cdmodel.calibration import Calibration
from cdmodel.errors import TrainingError
from cdmodel.oracles import replay_oracles
from cdmodel.policies import DenseStudent, DenseTeacher, EarlyExit, Gain, Sequential, UniformClips
from cdmodel.replay import VideoSeconds, calibrate, dense_teacher, harm, replay, replay_video

MEAN = Judge(aggregation=MeanProbability())
KINDS = pytest.mark.parametrize("kind", ["single", "multi"])
# Three clips of label 0. The student is right on the first alone, the teacher on the first two; gains rise with the clip
# that the teacher can save: q_teacher - q_student = 0 on the first, about +0.76 on the second, -0.76 on the last.
CACHED = cached_video(
    [[3, 0], [0, 2], [0, 2]], [[4, 0], [4, 0], [0, 1]], [0], q_teacher=[2, 2, -2], q_student=[2, -2, 2], group="a"
)
VIDEO = calibrate(CACHED, Calibration(), "single")
# Decoding takes 1 s for the student and 2 s for the teacher, the networks 3 s and 40 s; FLOPs are 1 and 100 a clip.


@pytest.mark.parametrize(
    ("policy", "flops", "seconds", "asked"),
    [
        (DenseTeacher(), 300, 2 + 40, 3),  # no student: neither its FLOPs nor its pass
        (DenseStudent(), 3, 1 + 3, 0),
        (Gain(min_gain=0.5), 3 + 100, 1 + 3 + 2 * 2 / 3 + 40 / 3, 1),  # up to the second of three clips, and one answer
        (Gain(min_gain=-1.0), 3 + 300, 1 + 3 + 2 + 40, 3),
        (UniformClips(clips=1), 100, 2 * 2 / 3 + 40 / 3, 1),
        (UniformClips(clips=2), 200, 2 + 2 * 40 / 3, 2),  # the first and the last
        (EarlyExit(threshold=1.0), 300, 2 * (2 / 3 + 1 / 3 + 1) + 40, 3),  # each question decodes from the start
        (Sequential(min_value=-0.1), 3 + 200, 1 + 3 + 2 * (2 / 3 + 1 / 3) + 2 * 40 / 3, 2),
    ],
    ids=str,
)
def test_what_three_clips_cost_by_hand(policy, flops, seconds, asked):
    run = replay(policy, MEAN, [VIDEO], FLOPS)
    assert run.flops_V.tolist() == [flops]
    assert run.seconds_V == pytest.approx([seconds])
    assert (run.asked_V.tolist(), run.clips_V.tolist()) == ([asked], [3])
    assert run.escalated_share == pytest.approx(asked / 3)


def test_each_question_is_a_pass_up_to_its_last_clip():
    assert replay_video(DenseTeacher(), MEAN, VIDEO).teacher_passes == 1
    assert replay_video(DenseStudent(), MEAN, VIDEO).teacher_passes == 0
    assert replay_video(Gain(min_gain=0.5), MEAN, VIDEO).teacher_passes == pytest.approx(2 / 3)
    assert replay_video(EarlyExit(threshold=1.0), MEAN, VIDEO).teacher_passes == pytest.approx(2)


def test_costs_follow_the_videos_own_seconds():
    slow = replace(VIDEO, seconds=VideoSeconds(decode_student=10, decode_teacher=20, student=30, teacher=400))
    run = replay(Gain(min_gain=0.5), MEAN, [VIDEO, slow], FLOPS)
    assert run.seconds_V[1] == pytest.approx(10 * run.seconds_V[0])
    assert run.flops_V[1] == run.flops_V[0]


def test_the_answer_is_the_mean_of_what_was_said():
    run = replay(Gain(min_gain=0.5), MEAN, [VIDEO], FLOPS)
    first, second, last = 1 / (1 + np.exp(-3)), 1 / (1 + np.exp(-4)), 1 / (1 + np.exp(2))
    assert run.probabilities_VK[0, 0] == pytest.approx((first + second + last) / 3, rel=1e-6)
    assert run.right_V.tolist() == [True]
    assert replay(DenseStudent(), MEAN, [VIDEO], FLOPS).right_V.tolist() == [False]


def test_without_a_student_the_teacher_is_as_sure_as_it_is_by_itself():
    alone = replay_video(DenseTeacher(), MEAN, VIDEO).state.teacher
    beside = replay_video(Gain(min_gain=-1.0), MEAN, VIDEO).state.teacher
    np.testing.assert_array_equal(alone.confidence_N, VIDEO.teacher_alone.confidence_N)
    np.testing.assert_array_equal(beside.confidence_N, VIDEO.teacher.confidence_N)
    np.testing.assert_array_equal(alone.probabilities_NK, beside.probabilities_NK)


@KINDS
def test_the_ends_of_the_gain_policy_are_the_student_alone_and_the_teacher_everywhere(kind):
    judge = Judge(aggregation=MeanProbability(), label_kind=kind, video_temperature=1.3)
    videos = [calibrate(video, Calibration(), kind) for video in specialist_videos(0, 30, kind=kind)]
    never, always = (replay(Gain(min_gain=gain), judge, videos, FLOPS) for gain in (1.0, -1.0))
    student, teacher = (replay(policy, judge, videos, FLOPS) for policy in (DenseStudent(), DenseTeacher()))
    assert (never.escalated_share, always.escalated_share) == (0.0, 1.0)
    assert np.array_equal(never.probabilities_VK, student.probabilities_VK)
    assert np.array_equal(always.probabilities_VK, teacher.probabilities_VK)
    assert teacher.accuracy > student.accuracy


def test_harm_is_being_wrong_where_the_dense_teacher_is_right():
    # The teacher alone is right on the first and wrong on the second video; the student the other way round.
    other = calibrate(cached_video([[9, 0]], [[0, 9]], [0]), Calibration(), "single")
    dense, student = (
        dense_teacher(MEAN, [VIDEO, other], FLOPS),
        replay(DenseStudent(), MEAN, [VIDEO, other], FLOPS),
    )
    assert dense.right_V.tolist() == [True, False]
    assert student.right_V.tolist() == [False, True]
    assert harm(student, dense).tolist() == [True, False]
    assert not harm(dense, dense).any()


@KINDS
def test_a_video_with_several_true_labels_is_right_if_the_best_one_is_true(kind):
    cached = cached_video([[0, 1, 9]], [[0, 9, 1]], [0, 2])
    judge = Judge(aggregation=LogPool(), label_kind=kind)
    scored = calibrate(cached, Calibration(), kind)
    assert replay(DenseStudent(), judge, [scored], FLOPS).accuracy == 1
    assert replay(DenseTeacher(), judge, [scored], FLOPS).accuracy == 0


def test_no_video_cannot_be_replayed():
    with pytest.raises(TrainingError, match="no video"):
        replay(DenseStudent(), MEAN, [], FLOPS)


@KINDS
def test_oracles_know_the_answers_and_chance_lies_between_the_ends(kind):
    judge = Judge(aggregation=MeanProbability(), label_kind=kind)
    videos = [calibrate(video, Calibration(), kind) for video in specialist_videos(0, 40, kind=kind)]
    runs = {(name, share): run for name, share, run in replay_oracles(videos, judge, FLOPS)}
    student, teacher = replay(DenseStudent(), judge, videos, FLOPS), dense_teacher(judge, videos, FLOPS)
    subset, clip = runs["oracle_subset", None], runs["oracle_clip", None]
    assert subset.right_V[student.right_V].all()
    assert (subset.asked_V[student.right_V] == 0).all()
    assert subset.accuracy >= max(student.accuracy, clip.accuracy)
    assert clip.accuracy >= teacher.accuracy - 0.03
    assert subset.escalated_share < clip.escalated_share < 0.6
    for share in (0.1, 0.5):
        assert runs["random_mix", share].escalated_share == pytest.approx(share, abs=0.08)


def test_the_clip_oracle_asks_where_the_teacher_is_right_and_the_student_wrong():
    runs = {name: run for name, share, run in replay_oracles([VIDEO], MEAN, FLOPS)}
    assert runs["oracle_clip"].asked_V.tolist() == [1]
    assert runs["oracle_clip"].flops_V.tolist() == [103]
    assert runs["oracle_clip"].seconds_V == pytest.approx([1 + 3 + 2 * 2 / 3 + 40 / 3])
    assert runs["oracle_subset"].right_V.tolist() == [True]
    hopeless = calibrate(cached_video([[0, 3]], [[0, 3]], [0], seconds=SECONDS), Calibration(), "single")
    runs = {name: run for name, share, run in replay_oracles([hopeless], MEAN, FLOPS)}
    assert runs["oracle_subset"].asked_V.tolist() == runs["oracle_clip"].asked_V.tolist() == [0]
