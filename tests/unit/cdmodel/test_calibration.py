from __future__ import annotations

import numpy as np
import pytest

from cdmodel.calibration import Calibration, PlattMap, sigmoid, softmax, temper

PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]])
LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.1]], dtype=np.float32)


def test_temperature_one_is_the_identity():
    np.testing.assert_allclose(temper(PROBABILITIES, 1.0), PROBABILITIES, rtol=1e-12)


def test_a_high_temperature_flattens_and_a_low_one_sharpens():
    hot, cold = temper(PROBABILITIES, 5.0), temper(PROBABILITIES, 0.2)
    assert (hot.max(axis=1) < PROBABILITIES.max(axis=1)).all()
    assert (cold.max(axis=1) > PROBABILITIES.max(axis=1)).all()


@pytest.mark.parametrize("temperature", [0.1, 1.0, 10.0])
def test_no_temperature_changes_the_best_class(temperature):
    np.testing.assert_array_equal(temper(PROBABILITIES, temperature).argmax(axis=1), [0, 2])
    np.testing.assert_array_equal(softmax(LOGITS, temperature).argmax(axis=1), [0, 2])


def test_tempering_probabilities_is_tempering_their_logits():
    np.testing.assert_allclose(temper(softmax(LOGITS, 1.0).astype(np.float64), 2.5), softmax(LOGITS, 2.5), rtol=1e-5)


def test_a_certain_answer_stays_certain_and_finite():
    np.testing.assert_allclose(temper(np.array([1.0, 0.0]), 3.0).sum(), 1.0)
    assert softmax(np.array([[1e4, -1e4]], dtype=np.float32), 0.01).tolist() == [[1.0, 0.0]]


def test_the_plain_platt_map_is_the_sigmoid():
    np.testing.assert_allclose(sigmoid(np.array([0.0, np.log(3.0)]), PlattMap()), [0.5, 0.75], rtol=1e-6)


def test_slope_and_bias_move_the_sigmoid():
    np.testing.assert_allclose(sigmoid(np.array([1.0]), PlattMap(slope=2.0, bias=-2.0)), [0.5])


def test_huge_logits_saturate_without_a_warning():
    low, high = sigmoid(np.array([-1e30, 1e30], dtype=np.float32), PlattMap())
    assert 0 <= low < 1e-20
    assert high == 1.0


@pytest.mark.parametrize("field", ["student_temperature", "teacher_temperature", "video_temperature"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_temperature_is_above_zero(field, value):
    with pytest.raises(ValueError, match="above 0"):
        Calibration(**{field: value})
