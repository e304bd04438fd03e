from __future__ import annotations

import numpy as np
import pytest
import torch

from cdmodel.losses import (
    class_loss,
    confidence_loss,
    distillation_loss,
    gatekeeper_loss,
    rank_loss,
    share_of_truth,
)

LOGITS = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
LABELS = np.array([0, 1])
TRUTH = torch.tensor(np.eye(3, dtype=np.bool_)[LABELS])
SEVERAL = torch.tensor([[True, True, False], [False, False, True]])
SCORES = 1 / (1 + np.exp(-LOGITS))


def _softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def test_class_loss_with_weight_one_is_the_mean_cross_entropy():
    expected = -np.log(_softmax(LOGITS)[[0, 1], LABELS]).mean()
    assert class_loss(torch.tensor(LOGITS), TRUTH, "single", 1.0).item() == pytest.approx(expected)


def test_class_loss_weighs_clips_by_how_far_they_show_the_label():
    shown = _softmax(LOGITS)[[0, 1], LABELS]
    weights = np.maximum(shown, 0.3)
    expected = (weights * -np.log(shown)).sum() / weights.sum()
    assert class_loss(torch.tensor(LOGITS), TRUTH, "single", 0.3).item() == pytest.approx(expected)


def test_weights_of_the_class_loss_carry_no_gradient():
    logits = torch.tensor(LOGITS, requires_grad=True)
    class_loss(logits, TRUTH, "single", 0.3).backward()
    shown = _softmax(LOGITS)[[0, 1], LABELS]
    weights = np.maximum(shown, 0.3) / np.maximum(shown, 0.3).sum()
    expected = weights[:, None] * (_softmax(LOGITS) - np.eye(3)[LABELS])
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-9)


def test_class_loss_of_several_labels_is_the_mean_of_all_yes_or_no_questions():
    expected = -np.log(np.where(SEVERAL.numpy(), SCORES, 1 - SCORES)).mean()
    assert class_loss(torch.tensor(LOGITS), SEVERAL, "multi", 0.3).item() == pytest.approx(expected)


def test_distillation_loss_is_the_divergence_at_temperature_four_times_sixteen():
    teacher = np.array([[1.0, 1.0, 0.0], [-2.0, 0.0, 4.0]])
    p, q = _softmax(teacher / 4), _softmax(LOGITS / 4)
    expected = 16 * (p * np.log(p / q)).sum(axis=1).mean()
    assert distillation_loss(torch.tensor(LOGITS), torch.tensor(teacher), "single").item() == pytest.approx(expected)


def test_distillation_of_several_labels_is_the_mean_divergence_of_each():
    teacher = np.array([[1.0, 1.0, 0.0], [-2.0, 0.0, 4.0]])
    p, q = 1 / (1 + np.exp(-teacher / 4)), 1 / (1 + np.exp(-LOGITS / 4))
    expected = 16 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
    assert distillation_loss(torch.tensor(LOGITS), torch.tensor(teacher), "multi").item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_student_that_copies_its_teacher_has_nothing_to_learn(kind):
    assert distillation_loss(torch.tensor(LOGITS), torch.tensor(LOGITS), kind).item() == pytest.approx(0, abs=1e-9)


def test_confidence_loss_is_smallest_at_the_expected_target():
    targets = torch.tensor([0.9, 0.5, 0.1, 0.7])
    losses = [confidence_loss(torch.full((4,), logit), targets).item() for logit in np.linspace(-2, 2, 401)]
    best = np.linspace(-2, 2, 401)[int(np.argmin(losses))]
    assert 1 / (1 + np.exp(-best)) == pytest.approx(0.55, abs=0.01)


def test_rank_loss_is_the_mean_hinge_over_pairs_of_one_video():
    scores, targets = torch.tensor([0.0, 0.4, 5.0]), torch.tensor([0.9, 0.1, 0.5])
    one_video = torch.tensor([7, 7, 7])
    # Pairs, the better clip first: (0, 1) 1.4, (0, 2) 6, (2, 1) 0.
    assert rank_loss(scores, targets, one_video).item() == pytest.approx((1.4 + 6.0 + 0.0) / 3)
    assert rank_loss(scores, targets, torch.tensor([7, 7, 8])).item() == pytest.approx(1.4)


def test_clips_that_are_nearly_alike_are_not_ranked():
    scores = torch.tensor([0.0, 3.0], requires_grad=True)
    loss = rank_loss(scores, torch.tensor([0.50, 0.54]), torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad.tolist() == [0, 0]


def test_gatekeeper_loss_teaches_what_is_right_and_calms_what_is_wrong():
    # The first clip is right; the second answers 2, and 1 is true.
    p = _softmax(LOGITS)
    taught = -np.log(p[0, 0])
    calmed = np.log(3) + (p[1] * np.log(p[1])).sum()
    expected = (0.7 * taught + 0.3 * calmed) / 2
    assert gatekeeper_loss(torch.tensor(LOGITS), TRUTH, "single", 0.7).item() == pytest.approx(expected)


def test_gatekeeper_loss_of_several_labels_calms_towards_a_half():
    wrong = torch.tensor([[True, False, False]])
    sure, unsure = torch.tensor([[-3.0, 3.0, -3.0]]), torch.tensor([[-0.1, 0.1, -0.1]])
    assert gatekeeper_loss(sure, wrong, "multi", 0.5) > gatekeeper_loss(unsure, wrong, "multi", 0.5)
    assert gatekeeper_loss(torch.zeros(1, 3), wrong.roll(1), "multi", 0.5).item() == pytest.approx(0, abs=1e-9)


def test_the_share_of_the_truth_is_the_probability_of_the_label_or_of_a_label_drawn_by_score():
    np.testing.assert_allclose(share_of_truth(torch.tensor(LOGITS), TRUTH, "single"), _softmax(LOGITS)[[0, 1], LABELS])
    expected = [SCORES[0, :2].sum() / SCORES[0].sum(), SCORES[1, 2] / SCORES[1].sum()]
    np.testing.assert_allclose(share_of_truth(torch.tensor(LOGITS), SEVERAL, "multi"), expected)
