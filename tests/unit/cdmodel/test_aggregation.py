from __future__ import annotations

import numpy as np
import pytest

from cdmodel.aggregation import ClipAnswers, LogPool, MeanProbability, aggregate, merge_answers
from cdmodel.scores import StudentScores, TeacherScores

STUDENT = StudentScores(
    probabilities_NK=np.array([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], dtype=np.float32),
    q_teacher_N=np.array([0.9, 0.8, 0.7], dtype=np.float32),
    q_student_N=np.array([0.6, 0.5, 0.4], dtype=np.float32),
)
TEACHER = TeacherScores(probabilities_NK=np.array([[0.0, 1.0, 0.0]], dtype=np.float32))
SECOND = np.array([False, True, False])
MERGED = merge_answers(STUDENT, TEACHER, SECOND)


def test_every_clip_has_one_voice_the_teachers_where_it_was_asked():
    np.testing.assert_array_equal(MERGED.probabilities_NK[1], TEACHER.probabilities_NK[0])
    np.testing.assert_array_equal(MERGED.probabilities_NK[[0, 2]], STUDENT.probabilities_NK[[0, 2]])
    np.testing.assert_array_equal(MERGED.confidence_N, np.array([0.6, 0.8, 0.4], dtype=np.float32))
    assert STUDENT.probabilities_NK[1, 1] == np.float32(0.5), "the student's own scores stay as they were"


def test_without_a_student_the_teachers_peak_is_its_confidence():
    answers = merge_answers(None, TEACHER, np.array([True]))
    assert answers.confidence_N.tolist() == [1.0]


@pytest.mark.parametrize("teacher", [None, TEACHER])
def test_without_a_student_every_clip_needs_the_teacher(teacher):
    with pytest.raises(ValueError, match="every clip"):
        merge_answers(None, teacher, np.array([False]))


def test_the_mean_is_numpys_mean():
    score = aggregate(MeanProbability(), MERGED)
    np.testing.assert_allclose(score.probabilities_K, MERGED.probabilities_NK.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(score.weights_N, [1 / 3] * 3)


def test_the_plain_log_pool_is_the_normalised_geometric_mean():
    answers = merge_answers(STUDENT, None, np.zeros(3, dtype=np.bool_))
    score = aggregate(LogPool(confidence_power=0.0, independence=0.0), answers)
    mean_K = np.prod(answers.probabilities_NK.astype(np.float64), axis=0) ** (1 / 3)
    np.testing.assert_allclose(score.probabilities_K, mean_K / mean_K.sum(), rtol=1e-12)


def test_independent_evidence_multiplies():
    answers = merge_answers(STUDENT, None, np.zeros(3, dtype=np.bool_))
    score = aggregate(LogPool(confidence_power=0.0, independence=1.0), answers)
    product_K = np.prod(answers.probabilities_NK.astype(np.float64), axis=0)
    np.testing.assert_allclose(score.probabilities_K, product_K / product_K.sum(), rtol=1e-12)


def test_confidence_and_the_teachers_factor_set_the_shares():
    score = aggregate(LogPool(confidence_power=2.0, teacher_factor=3.0), MERGED)
    weights_N = np.array([0.6**2, 3 * 0.8**2, 0.4**2])
    np.testing.assert_allclose(score.weights_N, weights_N / weights_N.sum(), rtol=1e-6)


def test_one_clip_does_not_veto_a_class_for_ever():
    many = ClipAnswers(
        probabilities_NK=np.array([[0.0, 1.0]] + [[0.99, 0.01]] * 9, dtype=np.float32),
        confidence_N=np.full(10, 0.9, dtype=np.float32),
        by_teacher_N=np.zeros(10, dtype=np.bool_),
    )
    assert aggregate(LogPool(), many).probabilities_K.argmax() == 0


def test_no_confidence_at_all_is_still_an_answer():
    answers = ClipAnswers(
        probabilities_NK=STUDENT.probabilities_NK,
        confidence_N=np.zeros(3, dtype=np.float32),
        by_teacher_N=np.zeros(3, dtype=np.bool_),
    )
    for power in (2.0, 20.0):
        score = aggregate(LogPool(confidence_power=power), answers)
        np.testing.assert_allclose(score.weights_N, [1 / 3] * 3)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("confidence_power", -0.1),
        ("confidence_power", 1000.0),
        ("confidence_power", float("nan")),
        ("independence", 1.1),
        ("independence", float("nan")),
        ("teacher_factor", 0.0),
        ("teacher_factor", float("nan")),
        ("teacher_factor", float("inf")),
    ],
)
def test_a_setting_that_leads_to_no_number_is_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=setting):
        LogPool(**{setting: value})
