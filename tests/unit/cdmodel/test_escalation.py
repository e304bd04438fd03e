from __future__ import annotations

import numpy as np
import pytest

from cdmodel.escalation import DenseStudent, DenseTeacher, Gain, MaxProbability, select_for_escalation
from cdmodel.scores import StudentScores, TeacherScores

SCORES = StudentScores(
    probabilities_NK=np.array([[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]], dtype=np.float32),
    q_teacher_N=np.array([0.75, 0.75, 0.25], dtype=np.float32),
    q_student_N=np.array([0.75, 0.5, 0.5], dtype=np.float32),
)


@pytest.mark.parametrize(
    ("policy", "escalated"),
    [
        (DenseTeacher(), [True, True, True]),
        (DenseStudent(), [False, False, False]),
        (MaxProbability(threshold=0.6), [False, True, False]),
        (MaxProbability(threshold=0.8), [False, True, True]),
        (MaxProbability(threshold=0.5), [False, False, False]),
        (Gain(min_gain=0.0), [False, True, False]),
        (Gain(min_gain=-0.1), [True, True, False]),
        (Gain(min_gain=0.25), [False, False, False]),
    ],
    ids=str,
)
def test_a_policy_picks_exactly_these_clips(policy, escalated):
    chosen_N = select_for_escalation(policy, SCORES)
    assert chosen_N.dtype == np.bool_
    assert chosen_N.tolist() == escalated


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(ValueError, match="threshold"):
        MaxProbability(threshold=threshold)


@pytest.mark.parametrize("min_gain", [-1.1, 1.1, float("nan")])
def test_a_gain_is_a_difference_of_probabilities(min_gain):
    with pytest.raises(ValueError, match="min_gain"):
        Gain(min_gain=min_gain)


def test_scores_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="3 clips"):
        StudentScores(
            probabilities_NK=SCORES.probabilities_NK, q_teacher_N=SCORES.q_teacher_N[:2], q_student_N=SCORES.q_student_N
        )


def test_scores_of_consecutive_batches_join_in_order():
    joined = StudentScores.concatenate([SCORES, SCORES])
    np.testing.assert_array_equal(joined.q_teacher_N, np.tile(SCORES.q_teacher_N, 2))
    assert joined.probabilities_NK.shape == (6, 2)
    rows = [TeacherScores(probabilities_NK=SCORES.probabilities_NK[row : row + 1]) for row in range(3)]
    np.testing.assert_array_equal(TeacherScores.concatenate(rows).probabilities_NK, SCORES.probabilities_NK)
