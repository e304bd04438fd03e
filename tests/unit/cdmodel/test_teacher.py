from __future__ import annotations

import pytest
import torch

from cdmodel.flop_count import count_flops
from cdmodel.sampling import ClipGeometry
from cdmodel.student import build_student
from cdmodel.teacher import build_teacher


def test_each_clip_gets_logits():
    teacher = build_teacher(num_classes=5, frames=16, height=64, width=64).eval()
    with torch.inference_mode():
        assert teacher(torch.randn(2, 16, 3, 64, 64)).shape == (2, 5)


def test_other_geometries_work_unchanged():
    teacher = build_teacher(num_classes=3, frames=8, height=48, width=80, channels=12).eval()
    with torch.inference_mode():
        assert teacher(torch.randn(1, 8, 3, 48, 80)).shape == (1, 3)


def test_the_teacher_costs_ten_to_a_hundred_times_the_student():
    cpu = torch.device("cpu")
    teacher = build_teacher(num_classes=12, frames=16, height=64, width=64).eval()
    student = build_student(num_classes=12, frames=8, height=48, width=48).eval()
    dear = count_flops(teacher, ClipGeometry(frames=16, height=64, width=64), cpu)
    cheap = count_flops(student, ClipGeometry(frames=8, height=48, width=48), cpu)
    assert 0.01 < cheap / dear < 0.1


def test_time_order_matters_to_the_teacher():
    torch.manual_seed(0)
    teacher = build_teacher(num_classes=4, frames=8, height=32, width=32).eval()
    clip = torch.randn(1, 8, 3, 32, 32)
    with torch.inference_mode():
        assert not torch.allclose(teacher(clip), teacher(clip.flip(1)))


@pytest.mark.parametrize("geometry", [(4, 64, 64), (16, 16, 64), (16, 64, 16)])
def test_clips_too_small_for_the_strides_are_refused(geometry):
    frames, height, width = geometry
    with pytest.raises(ValueError, match="at least 8 frames"):
        build_teacher(num_classes=3, frames=frames, height=height, width=width)
