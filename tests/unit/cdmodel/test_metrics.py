from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cdmodel.metrics import (
    accuracy_at_cost,
    area_under_cost,
    area_under_log_cost,
    area_under_roc,
    augrc,
    aurc,
    average_precision,
    brier_score,
    cost_weights,
    debiased_calibration_error,
    deferral_efficiency,
    excess_aurc,
    expected_calibration_error,
    gap_recovered,
    mean_average_precision,
    mean_class_accuracy,
    reliability_bins,
    risk_coverage,
    spearman,
)

# Few distinct values, so that ties are common.
CONFIDENCES = st.integers(0, 8).map(lambda eighths: eighths / 8)
ANSWERS = st.lists(st.tuples(CONFIDENCES, st.booleans()), min_size=1, max_size=40)


def _split(answers):
    confidences, rights = zip(*answers, strict=True)
    return np.array(confidences), np.array(rights)


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_area_under_roc_counts_pairs_in_the_right_order_and_halves_ties():
    assert area_under_roc([0.1, 0.4, 0.4, 0.8], [False, True, False, True]) == pytest.approx((1 + 0.5 + 1 + 1) / 4)


@pytest.mark.parametrize("kind", [True, False])
def test_area_under_roc_needs_both_kinds(kind):
    assert area_under_roc([0.1, 0.4], [kind, kind]) is None


@given(ANSWERS)
def test_area_under_roc_is_the_share_of_pairs_that_are_ordered(answers):
    score, positive = _split(answers)
    area = area_under_roc(score, positive)
    if area is None:
        assert len(set(positive)) == 1
    else:
        difference = score[positive][:, None] - score[~positive][None]
        assert area == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)))


def test_average_precision_adds_the_precision_at_each_step_of_recall():
    # Best first: right, wrong, right: precision 1 at recall 1/2, 2/3 at recall 1.
    assert average_precision([0.9, 0.8, 0.7], [True, False, True]) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision([0.9, 0.8], [False, False]) is None


def test_average_precision_treats_equal_scores_as_one_threshold():
    assert average_precision([0.5, 0.5, 0.1], [True, False, True]) == pytest.approx(0.5 * 1 / 2 + 0.5 * 2 / 3)


def test_labels_without_positives_are_left_out_of_the_mean():
    probabilities = [[0.9, 0.2, 0.1], [0.8, 0.7, 0.3], [0.7, 0.1, 0.2]]
    truth = [[1, 0, 0], [0, 1, 0], [1, 0, 0]]
    assert mean_average_precision(probabilities, truth) == pytest.approx((5 / 6 + 1) / 2)
    assert mean_average_precision(probabilities, np.zeros((3, 3))) is None


def test_each_class_counts_alike_however_many_videos_it_has():
    assert mean_class_accuracy([1, 1, 1, 0, 0], [7, 7, 7, 7, 3]) == pytest.approx((3 / 4 + 0) / 2)


def test_bins_hold_equal_shares_and_say_what_is_in_them():
    bins = reliability_bins([0.9, 0.1, 0.2, 0.8, 0.6, 0.3], [1, 0, 1, 1, 0, 0], bins=3)
    assert bins.count_B.tolist() == [2, 2, 2]
    assert bins.confidence_B.tolist() == pytest.approx([0.15, 0.45, 0.85])
    assert bins.right_share_B.tolist() == pytest.approx([0.5, 0.0, 1.0])


@given(st.integers(1, 200), st.integers(1, 20))
def test_without_ties_bins_differ_by_at_most_one_item(items, bins):
    counts = reliability_bins(np.arange(items) / items, np.ones(items), bins=bins).count_B
    assert len(counts) == min(items, bins)
    assert counts.sum() == items
    assert counts.max() - counts.min() <= 1


@given(ANSWERS, st.randoms(use_true_random=False))
def test_no_measure_depends_on_the_order_of_its_input(answers, random):
    shuffled = list(answers)
    random.shuffle(shuffled)
    for measure in (expected_calibration_error, brier_score, aurc, augrc, excess_aurc):
        assert measure(*_split(answers)) == pytest.approx(measure(*_split(shuffled)))
    if len(answers) > 1:
        assert debiased_calibration_error(*_split(answers)) == pytest.approx(
            debiased_calibration_error(*_split(shuffled)), abs=1e-7
        )


def test_calibration_error_is_the_mean_gap_over_the_items():
    # Two bins of two: |0.15 - 0.5| and |0.85 - 1|.
    assert expected_calibration_error([0.1, 0.2, 0.8, 0.9], [0, 1, 1, 1], bins=2) == pytest.approx((0.35 + 0.15) / 2)


def test_equal_probabilities_share_one_bin():
    assert expected_calibration_error([0.7] * 10, [1] * 7 + [0] * 3) == pytest.approx(0, abs=1e-12)


def test_the_debiased_error_equals_its_formula_by_hand():
    # Bins of four: c = 0.2, a = 3/4 and c = 0.8, a = 1/2.
    probability, right = [0.1, 0.2, 0.2, 0.3, 0.7, 0.8, 0.8, 0.9], [0, 1, 1, 1, 1, 0, 1, 0]
    squares = ((0.55**2 - 0.75 * 0.25 / 3) + (0.3**2 - 0.25 / 3)) / 2
    assert debiased_calibration_error(probability, right, bins=2) == pytest.approx(math.sqrt(squares))
    # One bin by ties, of eight: c = 0.9, a = 1/2. And c = a, where chance alone would give less than 0.
    assert debiased_calibration_error([0.9] * 8, [1, 0] * 4, bins=2) == pytest.approx(math.sqrt(0.16 - 0.25 / 7))
    assert debiased_calibration_error([0.5] * 8, [1, 0] * 4, bins=2) == 0


def test_debiasing_takes_off_what_chance_alone_puts_on(random):
    plug_in, debiased_squares = [], []
    for _ in range(200):
        probability = random.random(150)
        right = random.random(150) < probability
        plug_in.append(expected_calibration_error(probability, right))
        debiased_squares.append(debiased_calibration_error(probability, right) ** 2)
    assert np.mean(plug_in) > 0.08
    # Cut off at 0, so the mean stays above it, by far less than the square of the plug-in estimate.
    assert np.mean(debiased_squares) < 0.25 * np.mean(plug_in) ** 2


def test_debiasing_leaves_a_real_error(random):
    errors = []
    for _ in range(100):
        probability = 0.5 + 0.3 * random.random(300)
        errors.append(debiased_calibration_error(probability, random.random(300) < probability - 0.2))
    assert np.mean(errors) == pytest.approx(0.2, abs=0.01)


def test_one_item_has_no_debiased_error():
    with pytest.raises(ValueError, match="at least two"):
        debiased_calibration_error([0.5], [1])


def test_brier_score_is_the_mean_squared_error():
    assert brier_score([0.9, 0.4], [1, 1]) == pytest.approx((0.01 + 0.36) / 2)


def test_risk_coverage_goes_from_the_most_confident_answer_to_all():
    curve = risk_coverage([0.2, 0.9, 0.5, 0.7], [0, 1, 1, 0])
    assert curve.coverage_V.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert curve.selective_risk_V.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert curve.generalised_risk_V.tolist() == pytest.approx([0, 1 / 4, 1 / 4, 2 / 4])


def test_the_areas_equal_their_sums_by_hand():
    confidence, right = [0.2, 0.9, 0.5, 0.7], [0, 1, 1, 0]
    assert aurc(confidence, right) == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert excess_aurc(confidence, right) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4 - (1 / 3 + 1 / 2) / 4)
    assert augrc(confidence, right) == pytest.approx(0.25 * (0 / 2 + (0 + 1 / 4) / 2 + 1 / 4 + (1 / 4 + 1 / 2) / 2))


@given(ANSWERS)
def test_augrc_equals_its_closed_form(answers):
    confidence, right = _split(answers)
    accuracy = right.mean()
    order = area_under_roc(confidence, right)
    unordered = 0.0 if order is None else (1 - order) * accuracy * (1 - accuracy)
    assert augrc(confidence, right) == pytest.approx(unordered + (1 - accuracy) ** 2 / 2)


@pytest.mark.parametrize("right", [(1, 0, 0, 1, 1), (0, 1, 1, 0, 1), (1, 1, 1, 0, 0)])
def test_ties_count_as_the_mean_over_all_their_orders(right):
    confidence = np.array([0.5, 0.9, 0.5, 0.5, 0.1])
    orders = permutations(range(5))
    one_by_one = [(confidence - 1e-6 * np.array(order), right) for order in orders]
    assert aurc(confidence, right) == pytest.approx(np.mean([aurc(*answers) for answers in one_by_one]))
    assert augrc(confidence, right) == pytest.approx(np.mean([augrc(*answers) for answers in one_by_one]))


@given(ANSWERS)
def test_no_order_beats_the_right_answers_first(answers):
    assert excess_aurc(*_split(answers)) >= -1e-12


def test_spearman_sees_ranks_only():
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Source of the value: 1 - 6 sum d^2 / (n (n^2 - 1)) with d = (0, 1, 1, 0).
    assert spearman([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert spearman([1, 1, 1], [1, 2, 3]) is None


def test_area_under_cost_adds_trapezoids():
    assert area_under_cost([0.6, 0.8, 0.9], [0.0, 0.5, 1.0]) == pytest.approx(0.5 * 0.7 + 0.5 * 0.85)


def test_beyond_the_dearest_setting_its_accuracy_holds_on():
    assert area_under_cost([0.6, 0.8], [0.0, 0.5]) == pytest.approx(0.5 * 0.7 + 0.5 * 0.8)


def test_settings_of_equal_cost_count_as_their_mean():
    assert area_under_cost([0.6, 0.7, 0.9, 0.8], [0.0, 0.5, 0.5, 1.0]) == pytest.approx(0.5 * 0.7 + 0.5 * 0.8)


def test_a_span_in_other_units_changes_nothing():
    share = area_under_cost([0.6, 0.8, 0.9], [0.0, 0.5, 1.0])
    assert area_under_cost([0.6, 0.8, 0.9], [20.0, 60.0, 100.0], span=(20.0, 100.0)) == pytest.approx(share)


def test_on_a_logarithm_of_cost_each_doubling_counts_alike():
    area = area_under_log_cost([0.6, 0.8, 0.9], [1.0, 2.0, 4.0], span=(1.0, 4.0))
    assert area == pytest.approx((0.7 + 0.85) / 2)


@pytest.mark.parametrize("costs", [[0.1, 1.0], [0.0, 1.1], [-0.1, 1.0], []])
def test_costs_that_do_not_fill_the_span_from_its_start_are_refused(costs):
    with pytest.raises(ValueError, match="must start at"):
        area_under_cost([0.5] * len(costs), costs)


def test_a_cost_of_nothing_has_no_logarithm():
    with pytest.raises(ValueError, match="above 0"):
        area_under_log_cost([0.5, 0.6], [0.0, 1.0], span=(0.0, 1.0))


@given(st.lists(st.integers(0, 10), max_size=12), st.data())
def test_the_mean_of_the_videos_areas_is_the_area_of_their_mean(tenths, data):
    cost_R = np.array([0, *tenths]) / 10
    right_VR = data.draw(arrays(bool, (5, len(cost_R))))
    weights_R = cost_weights(cost_R)
    assert weights_R.sum() == pytest.approx(1)
    assert (weights_R >= 0).all()
    assert np.mean(right_VR @ weights_R) == pytest.approx(area_under_cost(right_VR.mean(axis=0), cost_R))


def test_accuracy_between_two_settings_lies_on_their_line():
    accuracy, cost = [0.9, 0.6, 0.8, 0.7], [1.0, 0.0, 0.5, 0.5]
    assert accuracy_at_cost(accuracy, cost, 0.25) == pytest.approx(0.675)
    assert accuracy_at_cost(accuracy, cost, 2.0) == 0.9
    with pytest.raises(ValueError, match="as little as"):
        accuracy_at_cost(accuracy, cost, -0.1)


def test_the_recovered_gap_runs_from_the_student_to_the_teacher_and_beyond():
    assert gap_recovered(0.7, student=0.7, teacher=0.9) == 0
    assert gap_recovered(0.9, student=0.7, teacher=0.9) == 1
    assert gap_recovered(0.95, student=0.7, teacher=0.9) == pytest.approx(1.25)
    assert gap_recovered(0.8, student=0.9, teacher=0.9) is None


def test_deferral_efficiency_runs_from_chance_to_the_oracle():
    assert deferral_efficiency(0.8, random_area=0.8, oracle_area=0.9) == 0
    assert deferral_efficiency(0.85, random_area=0.8, oracle_area=0.9) == pytest.approx(0.5)
    assert deferral_efficiency(0.85, random_area=0.9, oracle_area=0.9) is None


@pytest.mark.parametrize(
    "measure",
    [area_under_roc, average_precision, mean_class_accuracy, reliability_bins, brier_score, aurc, spearman],
)
@pytest.mark.parametrize(("first", "second"), [([], []), ([0.5], [1, 0]), ([[0.5]], [[1]])])
def test_nothing_or_lists_that_do_not_match_are_refused(measure, first, second):
    with pytest.raises(ValueError, match="one length above 0"):
        measure(first, second)
