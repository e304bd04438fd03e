from __future__ import annotations

import subprocess
import sys
from typing import get_args

import pytest
import torch
from torch import nn

from cdmodel.bundle import BUILTIN_BUILDERS, ModelSpec
from cdmodel.flop_count import count_flops
from cdmodel.models import StudentOutput, build_network
from cdmodel.sampling import ClipGeometry
from cdmodel.student import build_compact_student, build_keyframe_student, build_student
from cdmodel.student_sizes import STUDENT_SIZES, StudentSize, StudentSpec, student_spec
from cdmodel.teacher import build_teacher
from cdmodel.training import TrainSettings

CPU = torch.device("cpu")
# Percent of the FLOPs of the built-in teacher.
STATED_BANDS = {"small": (0.7, 0.9), "medium": (2.5, 3.5), "large": (9.5, 11.0), "keyframe": (4.0, 5.0)}
BUILDERS = {"stack": build_student, "compact": build_compact_student, "keyframe": build_keyframe_student}


def _build(spec: StudentSpec, **more: bool) -> nn.Module:
    model = ModelSpec(
        builder=spec.builder,
        arguments={**spec.arguments, **more},
        geometry=spec.geometry,
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        weights_sha256="",
    )
    return build_network(model, 12, BUILTIN_BUILDERS)


COMPACT = StudentSpec("cdmodel.student:build_compact_student", {}, ClipGeometry(frames=8, height=40, width=40))
STUDENTS = [*map(student_spec, STUDENT_SIZES), COMPACT]
NAMES = [*STUDENT_SIZES, "compact"]


def _clips(geometry: ClipGeometry, clips: int = 3) -> torch.Tensor:
    return torch.randn(clips, geometry.frames, 3, geometry.height, geometry.width)


def _touched_by(network: nn.Module, head: str, geometry: ClipGeometry) -> set[str]:
    """Return which parts of the network a loss on this output moves."""
    network.train().zero_grad(set_to_none=True)
    getattr(network(_clips(geometry)), head).sum().backward()
    return {name.split(".")[0] for name, weight in network.named_parameters() if weight.grad is not None}


@pytest.fixture(scope="module")
def teacher_flops() -> int:
    teacher = build_teacher(num_classes=12, frames=16, height=64, width=64).eval()
    return count_flops(teacher, ClipGeometry(frames=16, height=64, width=64), CPU)


def test_every_size_is_listed_once():
    assert get_args(StudentSize) == STUDENT_SIZES


def test_the_small_student_is_the_one_that_training_makes_by_default():
    spec = student_spec("small")
    assert spec == ("cdmodel.student:build_student", {}, TrainSettings().student.describe().geometry)


def test_sizes_are_known_without_torch():
    code = "import sys, cdmodel.student_sizes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("size", STUDENT_SIZES)
def test_each_size_costs_its_stated_share_of_the_teachers_flops(size, teacher_flops):
    spec = student_spec(size)
    share = 100 * count_flops(_build(spec).eval(), spec.geometry, CPU) / teacher_flops
    least, most = STATED_BANDS[size]
    assert least <= share <= most


@pytest.mark.parametrize("spec", STUDENTS, ids=NAMES)
def test_each_size_gives_logits_and_two_confidences_the_same_alone_and_in_a_batch(spec):
    network = _build(spec).eval()
    clips = _clips(spec.geometry, 4)
    with torch.inference_mode():
        together, alone = network(clips), network(clips[2:3])
    assert isinstance(together, StudentOutput)
    assert [tuple(output.shape) for output in together] == [(4, 12), (4,), (4,)]
    for whole, single in zip(together, alone, strict=True):
        torch.testing.assert_close(whole[2:3], single, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("spec", STUDENTS, ids=NAMES)
def test_the_teachers_head_shapes_features_unless_it_is_detached(spec):
    assert _touched_by(_build(spec), "q_teacher_logit_N", spec.geometry) == {"judge_teacher", "backbone"}
    detached = _build(spec, detach_teacher_head=True)
    assert _touched_by(detached, "q_teacher_logit_N", spec.geometry) == {"judge_teacher"}


@pytest.mark.parametrize("spec", STUDENTS, ids=NAMES)
@pytest.mark.parametrize("detached", [False, True])
def test_the_students_head_moves_nothing_else_and_the_class_logits_no_head(spec, detached):
    network = _build(spec, detach_teacher_head=detached)
    assert _touched_by(network, "q_student_logit_N", spec.geometry) == {"judge_student"}
    assert _touched_by(network, "logits_NK", spec.geometry) == {"classify", "backbone"}


@pytest.mark.parametrize("spec", STUDENTS, ids=NAMES)
def test_detaching_changes_gradients_and_no_answer(spec):
    network, detached = _build(spec).eval(), _build(spec, detach_teacher_head=True).eval()
    detached.load_state_dict(network.state_dict())
    clips = _clips(spec.geometry)
    with torch.inference_mode():
        assert all(torch.equal(one, other) for one, other in zip(network(clips), detached(clips), strict=True))


def test_colour_is_seen_where_it_is_asked_for_and_not_otherwise():
    # Two clips of equal luma, one red and one blue.
    red_and_blue = torch.zeros(2, 4, 3, 96, 96)
    red_and_blue[0, :, 0] = 1.0
    red_and_blue[1, :, 2] = 0.299 / 0.114
    with torch.inference_mode():
        for colour in (False, True):
            network = build_student(num_classes=5, frames=4, height=96, width=96, colour=colour).eval()
            red, blue = network(red_and_blue).logits_NK
            assert torch.allclose(red, blue, atol=1e-5) != colour


@pytest.mark.parametrize("spec", [*map(student_spec, ("small", "medium", "large")), COMPACT])
def test_students_of_several_frames_see_their_order(spec):
    network = _build(spec).eval()
    moving = _clips(spec.geometry, 1)
    with torch.inference_mode():
        assert not torch.allclose(network(moving).logits_NK, network(moving.flip(1)).logits_NK)


@pytest.mark.parametrize(
    ("kind", "frames", "side", "complaint"),
    [
        ("stack", 8, 15, "at least 16 x 16"),
        ("compact", 8, 31, "at least 32 x 32"),
        ("compact", 3, 32, "at least 4 frames"),
        ("keyframe", 2, 32, "one frame a clip"),
        ("keyframe", 1, 15, "at least 16 x 16"),
    ],
)
def test_what_a_student_cannot_see_is_refused(kind, frames, side, complaint):
    with pytest.raises(ValueError, match=complaint):
        BUILDERS[kind](num_classes=3, frames=frames, height=side, width=side)


@pytest.mark.parametrize(("kind", "frames", "side"), [("stack", 1, 16), ("compact", 4, 32), ("keyframe", 1, 16)])
def test_the_least_that_is_accepted_works(kind, frames, side):
    network = BUILDERS[kind](num_classes=2, frames=frames, height=side, width=side).eval()
    assert network(torch.randn(2, frames, 3, side, side)).logits_NK.shape == (2, 2)
