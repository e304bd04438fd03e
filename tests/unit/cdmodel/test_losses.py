from __future__ import annotations

import numpy as np
import pytest
import torch

from cdmodel.losses import class_loss, confidence_loss, distillation_loss, teacher_targets

LOGITS = np.array([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
LABELS = np.array([0, 1])


def _softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def test_class_loss_with_weight_one_is_the_mean_cross_entropy():
    expected = -np.log(_softmax(LOGITS)[[0, 1], LABELS]).mean()
    assert class_loss(torch.tensor(LOGITS), torch.tensor(LABELS), 1.0).item() == pytest.approx(expected)


def test_class_loss_weighs_clips_by_how_far_they_show_the_label():
    shown = _softmax(LOGITS)[[0, 1], LABELS]
    weights = np.maximum(shown, 0.3)
    expected = (weights * -np.log(shown)).sum() / weights.sum()
    assert class_loss(torch.tensor(LOGITS), torch.tensor(LABELS), 0.3).item() == pytest.approx(expected)


def test_weights_of_the_class_loss_carry_no_gradient():
    logits = torch.tensor(LOGITS, requires_grad=True)
    class_loss(logits, torch.tensor(LABELS), 0.3).backward()
    shown = _softmax(LOGITS)[[0, 1], LABELS]
    weights = np.maximum(shown, 0.3) / np.maximum(shown, 0.3).sum()
    expected = weights[:, None] * (_softmax(LOGITS) - np.eye(3)[LABELS])
    np.testing.assert_allclose(logits.grad.numpy(), expected, atol=1e-9)


def test_distillation_loss_is_the_divergence_at_temperature_four_times_sixteen():
    teacher = np.array([[1.0, 1.0, 0.0], [-2.0, 0.0, 4.0]])
    p, q = _softmax(teacher / 4), _softmax(LOGITS / 4)
    expected = 16 * (p * np.log(p / q)).sum(axis=1).mean()
    assert distillation_loss(torch.tensor(LOGITS), torch.tensor(teacher)).item() == pytest.approx(expected)


def test_a_student_that_copies_its_teacher_has_nothing_to_learn():
    assert distillation_loss(torch.tensor(LOGITS), torch.tensor(LOGITS)).item() == pytest.approx(0, abs=1e-9)


def test_confidence_loss_is_smallest_at_the_expected_target():
    targets = torch.tensor([0.9, 0.5, 0.1, 0.7])
    losses = [confidence_loss(torch.full((4,), logit), targets).item() for logit in np.linspace(-2, 2, 401)]
    best = np.linspace(-2, 2, 401)[int(np.argmin(losses))]
    assert 1 / (1 + np.exp(-best)) == pytest.approx(0.55, abs=0.01)


def test_targets_are_the_true_class_probability_or_whether_the_teacher_was_right():
    probabilities = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]], dtype=np.float32)
    np.testing.assert_allclose(teacher_targets("tcp", probabilities, LABELS), [0.6, 0.3])
    np.testing.assert_allclose(teacher_targets("correct", probabilities, LABELS), [1.0, 0.0])
