"""A network made faster says the same, and is faster because other routines do the work."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from cdmodel.fast_inference import CLIPS_ON_CPU, OneDnnConvolutions, fold_batch_norms
from cdmodel.models import load_bundle
from cdmodel.teacher import build_teacher
from cdmodel.testing import write_tiny_bundle

pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA.*:UserWarning")
FRAMES, SIZE = 8, 32


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(3)
    network = build_teacher(num_classes=5, frames=FRAMES, height=SIZE, width=SIZE)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):  # as after a training: no layer leaves its input as it is
            for values in (module.running_mean, module.running_var, module.weight, module.bias):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5)
    return network.eval()


def clips(count: int) -> Tensor:
    return torch.rand(count, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(count))


def routines(network: nn.Module, clips_NTCHW: Tensor) -> set[str]:
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        network(clips_NTCHW)
    return {event.key for event in profiled.key_averages()}


@pytest.mark.parametrize("count", [1, 3])
def test_small_batches_on_one_thread_are_convolved_by_onednn(teacher: nn.Module, count: int) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            expected, slow = teacher(clips(count)), routines(teacher, clips(count))
            with OneDnnConvolutions():
                found, fast = teacher(clips(count)), routines(teacher, clips(count))
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert "aten::slow_conv3d" in slow  # else this class has nothing to do any more
    assert "aten::slow_conv3d" not in fast
    assert "aten::mkldnn_convolution" in fast


@pytest.mark.parametrize(
    "settings", [{"padding": "same"}, {"padding": 1, "groups": 2}, {"stride": (1, 2, 2), "bias": False}]
)
def test_every_kind_of_convolution_gives_what_torch_gives(settings: dict[str, object]) -> None:
    torch.manual_seed(1)
    layer, pixels = nn.Conv3d(4, 6, 3, **settings).eval(), torch.rand(1, 4, 5, 6, 7)  # type: ignore[arg-type]
    for dtype in (torch.float32, torch.float64):
        values = pixels.to(dtype)
        expected = layer.to(dtype)(values).detach()
        with torch.inference_mode(), OneDnnConvolutions():
            torch.testing.assert_close(layer(values), expected, rtol=1e-5, atol=1e-5)


def test_folded_batch_norms_are_gone_and_say_the_same(teacher: nn.Module) -> None:
    with torch.inference_mode():
        expected = teacher(clips(2))
        folded = fold_batch_norms(copy.deepcopy(teacher))
        found = folded(clips(2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm3d) for module in folded.modules())


def test_a_batch_norm_that_follows_something_else_stays() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.BatchNorm2d(2)).eval()
    assert [type(layer) for layer in fold_batch_norms(network)] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]


def test_a_teacher_on_a_cpu_sees_few_clips_at_once_and_answers_about_all(tmp_path: Path) -> None:
    write_tiny_bundle(tmp_path)
    teacher = load_bundle(tmp_path).teacher
    seen: list[int] = []
    teacher.network.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    geometry = teacher.geometry
    pixels = np.zeros((CLIPS_ON_CPU + 1, geometry.frames, 3, geometry.height, geometry.width), dtype=np.uint8)
    assert len(teacher.score(pixels)) == CLIPS_ON_CPU + 1
    assert seen == [CLIPS_ON_CPU, 1]
