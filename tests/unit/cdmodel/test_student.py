from __future__ import annotations

import pytest
import torch

from cdmodel.models import StudentOutput
from cdmodel.student import build_student, describe_logits


@pytest.fixture
def student():
    torch.manual_seed(0)
    return build_student(num_classes=6, frames=8, height=48, width=48)


def test_each_clip_gets_logits_and_two_confidences(student):
    output = student.eval()(torch.randn(3, 8, 3, 48, 48))
    assert isinstance(output, StudentOutput)
    assert output.logits_NK.shape == (3, 6)
    assert output.q_teacher_logit_N.shape == output.q_student_logit_N.shape == (3,)


def test_a_clip_scores_the_same_alone_and_in_a_batch(student):
    clips = torch.randn(4, 8, 3, 48, 48)
    with torch.inference_mode():
        together, alone = student.eval()(clips), student(clips[2:3])
    for whole, single in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[2:3], single, atol=1e-5, rtol=1e-4)


def test_the_students_head_moves_nothing_but_itself(student):
    student.train()(torch.randn(4, 8, 3, 48, 48)).q_student_logit_N.sum().backward()
    touched = {name.split(".")[0] for name, weight in student.named_parameters() if weight.grad is not None}
    assert touched == {"judge_student"}


def test_the_teachers_head_shapes_features_but_not_the_class_logits(student):
    student.train()(torch.randn(4, 8, 3, 48, 48)).q_teacher_logit_N.sum().backward()
    touched = {name.split(".")[0] for name, weight in student.named_parameters() if weight.grad is not None}
    assert touched == {"judge_teacher", "backbone"}


def test_grey_clips_that_stand_still_differ_from_their_reverse_in_nothing_and_moving_ones_in_something(student):
    student.eval()
    moving = torch.randn(1, 8, 3, 48, 48)
    still = moving[:, :1].repeat(1, 8, 1, 1, 1)
    with torch.inference_mode():
        assert torch.equal(student(still).logits_NK, student(still.flip(1)).logits_NK)
        assert not torch.allclose(student(moving).logits_NK, student(moving.flip(1)).logits_NK)


def test_confidence_heads_cost_less_than_one_percent(student):
    heads = sum(weight.numel() for name, weight in student.named_parameters() if name.startswith("judge"))
    # A linear layer takes one multiply-accumulate for each weight.
    from cdmodel.flop_count import count_flops
    from cdmodel.sampling import ClipGeometry

    flops = count_flops(student.eval(), ClipGeometry(frames=8, height=48, width=48), torch.device("cpu"))
    assert 2 * heads < 0.01 * flops


def test_the_description_of_certain_logits_has_a_wide_margin_and_no_entropy():
    certain, undecided = describe_logits(torch.tensor([[50.0, 0, 0, 0, 0, 0], [0.0] * 6]))
    assert certain[-1] == pytest.approx(1.0)
    assert certain[-2] == pytest.approx(0.0, abs=1e-6)
    assert undecided[-1] == pytest.approx(0.0)
    assert undecided[-2] == pytest.approx(torch.log(torch.tensor(6.0)).item())


def test_two_classes_are_enough():
    student = build_student(num_classes=2, frames=4, height=16, width=16).eval()
    assert student(torch.randn(1, 4, 3, 16, 16)).logits_NK.shape == (1, 2)


def test_frames_too_small_for_the_strides_are_refused():
    with pytest.raises(ValueError, match="at least 16 x 16"):
        build_student(num_classes=3, frames=8, height=8, width=48)
