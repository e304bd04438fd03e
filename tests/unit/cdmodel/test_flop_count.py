"""FLOPs are what torch's own counter says, without what that loads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cdmodel.flop_count import count_flops
from cdmodel.sampling import ClipGeometry
from cdmodel.student import build_student
from cdmodel.teacher import build_teacher

CPU = torch.device("cpu")
GEOMETRY = ClipGeometry(frames=8, height=32, width=32)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.attend = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    def forward(self, clips_NTCHW: Tensor) -> Tensor:
        tokens: Tensor = self.attend(self.embed(clips_NTCHW.flatten(0, 1)).flatten(2).transpose(1, 2))
        return torch.einsum("nlc,nkc->nlk", tokens, tokens)


NETWORKS = {
    "teacher": lambda: build_teacher(num_classes=5, frames=8, height=32, width=32),
    "student": lambda: build_student(num_classes=5, frames=8, height=32, width=32),
    "attention": Attention,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_is_counted_as_torch_counts_it(name: str) -> None:
    network = NETWORKS[name]().eval()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as theirs:
        network(torch.zeros(1, 8, 3, 32, 32))
    assert count_flops(network, GEOMETRY, CPU) == theirs.get_total_flops() > 0


def test_flops_of_a_linear_layer_are_two_per_weight() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 4 * 4, 7, bias=False))
    assert count_flops(flat, ClipGeometry(frames=2, height=4, width=4), CPU) == 2 * 96 * 7


def test_counting_loads_no_compiler() -> None:
    script = """
import sys
from cdmodel.models import load_bundle
from storage.bundles import local_bundle
load_bundle(local_bundle(None))
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])
