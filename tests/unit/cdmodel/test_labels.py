from __future__ import annotations

import numpy as np
import pytest

from cdmodel.labels import is_right, log_loss, probabilities_of, to_truth


def test_single_probabilities_sum_to_one_and_multi_ones_stand_alone():
    logits_NK = np.array([[2.0, 0.0, -1.0]])
    assert probabilities_of(logits_NK, "single").sum() == pytest.approx(1)
    np.testing.assert_allclose(probabilities_of(logits_NK, "multi")[0, :2], [1 / (1 + np.exp(-2)), 0.5])


def test_a_temperature_above_one_softens_both_kinds():
    logits_NK = np.array([[2.0, 0.0, -1.0]])
    for kind in ("single", "multi"):
        assert probabilities_of(logits_NK, kind, 4.0)[0, 0] < probabilities_of(logits_NK, kind)[0, 0]


def test_log_loss_equals_the_hand_computed_likelihood():
    logits_NK, truth_NK = np.array([[1.0, 0.0]]), to_truth([[0]], 2)
    assert log_loss(logits_NK, truth_NK, "single") == pytest.approx(np.log(1 + np.exp(-1)))
    assert log_loss(logits_NK, truth_NK, "multi") == pytest.approx((np.log(1 + np.exp(-1)) + np.log(2)) / 2)


def test_a_row_is_right_if_its_best_label_is_one_of_the_true_ones():
    truth_NK = to_truth([[0, 2], [1]], 3)
    np.testing.assert_array_equal(is_right(np.array([[0.1, 0.2, 0.7], [0.5, 0.4, 0.1]]), truth_NK), [True, False])
