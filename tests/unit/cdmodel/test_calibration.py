from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from score_builders import floats, student_scores

from cdmodel.calibration import (
    ALONE_FEATURES,
    ANSWER_FEATURES,
    CLIP_FEATURES,
    Calibration,
    ConfidenceMap,
    calibrate_student,
    calibrate_teacher,
    describe_alone,
    describe_answers,
    describe_clips,
    normalised_entropy,
    temper,
    top_margin,
)
from cdmodel.labels import probabilities_of
from cdmodel.scores import StudentLogits

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.1]], dtype=np.float32)
KINDS = pytest.mark.parametrize("kind", ["single", "multi"])
# Two clips that the student trusts alike: (3/4, 1/4) and (1/4, 3/4), so that its view of the video is (1/2, 1/2).
RAW = StudentLogits(
    logits_NK=floats(np.log([[3.0, 1.0], [1.0, 3.0]])),
    q_teacher_logit_N=floats([2.0, -1.0]),
    q_student_logit_N=floats([0.0, 0.0]),
    motion_N=floats([0.1, 0.2]),
)
ENTROPY = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
BOTH = np.array([True, True])


def _columns(features_NF, names):
    assert features_NF.shape[1] == len(names)
    return dict(zip(names, features_NF.T, strict=True))


def _extreme(clips: int = 4) -> StudentLogits:
    return StudentLogits(
        logits_NK=floats([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4], [0, 0, 0]])[:clips],
        q_teacher_logit_N=floats([1e4, -1e4, 0, 1e4])[:clips],
        q_student_logit_N=floats([-1e4, 1e4, 0, 1e4])[:clips],
        motion_N=floats([0, 1, 0, 1])[:clips],
    )


@KINDS
def test_temperature_one_is_the_identity(kind):
    np.testing.assert_allclose(temper(PROBABILITIES, 1.0, kind), PROBABILITIES, rtol=1e-12)


@KINDS
def test_a_high_temperature_flattens_and_a_low_one_sharpens(kind):
    certain = np.array([[0.7, 0.2, 0.1], [0.2, 0.2, 0.6]])
    hot, cold = temper(certain, 5.0, kind), temper(certain, 0.2, kind)
    assert (hot.max(axis=1) < certain.max(axis=1)).all()
    assert (cold.max(axis=1) > certain.max(axis=1)).all()


@KINDS
@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_no_temperature_changes_the_best_class(kind, temperature):
    np.testing.assert_array_equal(temper(PROBABILITIES, temperature, kind).argmax(axis=1), [0, 2])
    np.testing.assert_array_equal(probabilities_of(LOGITS, kind, temperature).argmax(axis=1), [0, 2])


@KINDS
def test_tempering_probabilities_is_tempering_their_logits(kind):
    tempered = temper(probabilities_of(LOGITS, kind), 2.5, kind)
    np.testing.assert_allclose(tempered, probabilities_of(LOGITS, kind, 2.5), rtol=1e-9)


def test_a_certain_answer_stays_certain_and_finite():
    np.testing.assert_allclose(temper(np.array([1.0, 0.0]), 3.0, "single").sum(), 1.0)
    assert np.isfinite(temper(np.array([1.0, 0.0]), 0.05, "multi")).all()
    assert probabilities_of(np.array([[1e4, -1e4]], dtype=np.float32), "single", 0.01).tolist() == [[1.0, 0.0]]


def test_entropy_is_a_share_of_its_maximum():
    np.testing.assert_allclose(normalised_entropy(np.array([[0.5, 0.5], [0.75, 0.25]]), "single"), [1.0, ENTROPY])
    np.testing.assert_allclose(normalised_entropy(np.array([[0.5, 0.5], [0.75, 0.75]]), "multi"), [1.0, ENTROPY])
    for labels in range(2, 30):
        flat = np.full((1, labels), 1 / labels)
        assert normalised_entropy(flat, "single")[0] <= 1
    np.testing.assert_allclose(normalised_entropy(np.array([[1.0, 0.0]]), "single"), [0.0], atol=1e-9)


def test_a_margin_lies_between_the_two_largest():
    np.testing.assert_allclose(top_margin(PROBABILITIES), [0.5, 0.25])
    np.testing.assert_allclose(top_margin(np.array([[0.9, 0.9, 0.1]])), [0.0])


def test_a_clip_is_described_alone_and_in_its_video():
    clips = _columns(describe_clips(RAW, 1.0, "single"), CLIP_FEATURES)
    np.testing.assert_allclose(clips["q_teacher_logit"], [2.0, -1.0])
    np.testing.assert_allclose(clips["q_student_logit"], [0.0, 0.0])
    np.testing.assert_allclose(clips["log_peak"], np.log([0.75, 0.75]), rtol=1e-6)
    np.testing.assert_allclose(clips["margin"], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(clips["entropy"], [ENTROPY, ENTROPY], rtol=1e-6)
    np.testing.assert_allclose(clips["support"], np.log([0.5, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(clips["divergence"], [0.75 * np.log(1.5) + 0.25 * np.log(0.5)] * 2, rtol=1e-6)
    np.testing.assert_allclose(clips["video_peak"], np.log([0.5, 0.5]), rtol=1e-6)
    np.testing.assert_allclose(clips["q_teacher_above_video"], [1.5, -1.5])
    np.testing.assert_allclose(clips["q_student_above_video"], [0.0, 0.0])


def test_the_view_of_the_video_trusts_clips_as_the_student_does():
    trusting = replace(RAW, q_student_logit_N=floats(np.log([9.0, 0.25])))  # 0.9 and 0.2: weights 9/11 and 2/11
    view_K = [(9 * 0.75 + 2 * 0.25) / 11, (9 * 0.25 + 2 * 0.75) / 11]
    clips = _columns(describe_clips(trusting, 1.0, "single"), CLIP_FEATURES)
    np.testing.assert_allclose(clips["support"], np.log(view_K), rtol=1e-6)
    np.testing.assert_allclose(clips["video_peak"], np.log([view_K[0]] * 2), rtol=1e-6)


def test_with_several_labels_the_divergence_is_that_of_each_label_and_never_negative():
    several = replace(RAW, logits_NK=floats([[np.log(3), -np.log(3)], [-np.log(3), np.log(3)]]))  # 3/4 and 1/4
    clips = _columns(describe_clips(several, 1.0, "multi"), CLIP_FEATURES)
    one_label = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(clips["divergence"], [2 * one_label] * 2, rtol=1e-6)
    np.testing.assert_allclose(clips["margin"], [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(clips["entropy"], [ENTROPY] * 2, rtol=1e-6)
    unlikely = replace(RAW, logits_NK=floats([[-4.0, -5.0], [-2.0, -3.0]]))
    assert (_columns(describe_clips(unlikely, 1.0, "multi"), CLIP_FEATURES)["divergence"] > 0).all()


def test_a_temperature_goes_before_the_description():
    clips = _columns(describe_clips(RAW, 0.5, "single"), CLIP_FEATURES)
    np.testing.assert_allclose(clips["log_peak"], np.log([0.9, 0.9]), rtol=1e-6)  # odds 9 to 1


def test_an_answer_is_described_by_itself_and_by_what_the_student_thinks_of_it():
    student = student_scores([[0.75, 0.25], [0.25, 0.75]], q_teacher=[0.8, 0.2], q_student=[0.5, 0.5])
    second = np.array([False, True])
    answer = _columns(describe_answers(np.array([[0.9, 0.1]]), second, student, "single"), ANSWER_FEATURES)
    np.testing.assert_allclose(answer["log_peak"], [np.log(0.9)])
    np.testing.assert_allclose(answer["margin"], [0.8])
    np.testing.assert_allclose(answer["q_teacher_logit"], [np.log(0.25)], rtol=1e-6)
    np.testing.assert_allclose(answer["support"], [np.log(0.5)], rtol=1e-6)
    np.testing.assert_allclose(answer["student_support"], [np.log(0.25)], rtol=1e-6)
    alone = _columns(describe_alone(np.array([[0.9, 0.1]]), "single"), ALONE_FEATURES)
    assert {name: alone[name][0] for name in ALONE_FEATURES} == {name: answer[name][0] for name in ALONE_FEATURES}


@KINDS
def test_the_default_calibration_believes_the_networks(kind):
    scores = calibrate_student(RAW, Calibration(), kind)
    np.testing.assert_allclose(scores.probabilities_NK, probabilities_of(RAW.logits_NK, kind), rtol=1e-6)
    np.testing.assert_allclose(scores.q_teacher_N, 1 / (1 + np.exp([-2.0, 1.0])), rtol=1e-6)
    np.testing.assert_allclose(scores.q_student_N, [0.5, 0.5])
    np.testing.assert_array_equal(scores.motion_N, RAW.motion_N)
    answers = calibrate_teacher(RAW.logits_NK, BOTH, scores, Calibration(), kind)
    np.testing.assert_allclose(answers.confidence_N, scores.q_teacher_N, rtol=1e-5)


@KINDS
def test_confidence_in_an_answer_of_the_teacher_alone_grows_with_its_certainty(kind):
    logits_NK = floats([[4.0, -4.0], [1.0, -1.0], [0.0, 0.0]])
    answers = calibrate_teacher(logits_NK, np.ones(3, dtype=np.bool_), None, Calibration(), kind)
    assert (np.diff(answers.confidence_N) < 0).all()


def test_weights_and_bias_move_the_sigmoid():
    halfway = ConfidenceMap(weights=(2.0, 0.0), bias=-2.0)
    np.testing.assert_allclose(halfway(np.array([[1.0, 7.0], [1.0 + np.log(3) / 2, 0.0]])), [0.5, 0.75], rtol=1e-6)


def test_huge_logits_saturate_short_of_certainty_and_without_a_warning():
    low, high = ConfidenceMap(weights=(1.0,))(np.array([[-1e30], [1e30]]))
    assert 0 < low < 1e-6
    assert 1 - 1e-6 < high < 1


@KINDS
@pytest.mark.parametrize("clips", [1, 2, 4])
def test_extreme_logits_become_numbers(kind, clips):
    raw = _extreme(clips)
    for temperature in (0.05, 1.0, 20.0):
        assert np.isfinite(describe_clips(raw, temperature, kind)).all()
    student = calibrate_student(raw, Calibration(), kind)
    for asked_N in (np.ones(clips, dtype=np.bool_), np.arange(clips) == 0):
        for known in (student, None):
            answers = calibrate_teacher(raw.logits_NK[asked_N], asked_N, known, Calibration(), kind)
            assert np.isfinite(answers.probabilities_NK).all()
            assert ((answers.confidence_N > 0) & (answers.confidence_N < 1)).all()
    for q_N in (student.q_teacher_N, student.q_student_N):
        assert ((q_N > 0) & (q_N < 1)).all()


@pytest.mark.parametrize("field", ["student_temperature", "teacher_temperature", "video_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_temperature_is_above_zero(field, value):
    with pytest.raises(ValueError, match="above 0"):
        Calibration(**{field: value})


@pytest.mark.parametrize("field", ["q_teacher", "q_student", "teacher_answer", "teacher_alone"])
def test_a_map_has_a_weight_for_each_of_its_features(field):
    with pytest.raises(ValueError, match=f"{field} needs"):
        Calibration(**{field: ConfidenceMap(weights=(1.0,))})


def test_raw_answers_of_consecutive_batches_join_in_order():
    joined = StudentLogits.concatenate([RAW, RAW])
    np.testing.assert_array_equal(joined.q_teacher_logit_N, np.tile(RAW.q_teacher_logit_N, 2))
    np.testing.assert_array_equal(joined.rows(slice(2, 4)).logits_NK, RAW.logits_NK)
    with pytest.raises(ValueError, match="2 clips"):
        replace(RAW, motion_N=floats([0.0]))
