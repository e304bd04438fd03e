from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cdmodel.bundle import BUILTIN_BUILDERS, ModelSpec
from cdmodel.errors import BundleError
from cdmodel.models import build_network
from cdmodel.sampling import ClipGeometry
from cdmodel.torchvision_teacher import build_torchvision_teacher


class _R3D(nn.Module):
    """Stands in for torchvision's: wants channels before frames, and no weights."""

    def __init__(self, *, weights: object, num_classes: int) -> None:
        super().__init__()
        assert weights is None
        self.fc = nn.Linear(3, num_classes)

    def forward(self, clips_NCTHW: torch.Tensor) -> torch.Tensor:
        assert clips_NCTHW.shape[1] == 3
        return self.fc(clips_NCTHW.mean(dim=(2, 3, 4)))


@pytest.fixture
def fake_torchvision(monkeypatch):
    modules = {name: ModuleType(name) for name in ("torchvision", "torchvision.models", "torchvision.models.video")}
    modules["torchvision.models.video"].r3d_18 = _R3D
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture
def no_torchvision(monkeypatch):
    for name in ("torchvision", "torchvision.models", "torchvision.models.video"):
        monkeypatch.setitem(sys.modules, name, None)


def _spec(model: str, geometry: ClipGeometry) -> ModelSpec:
    return ModelSpec(
        builder="cdmodel.torchvision_teacher:build_torchvision_teacher",
        arguments={"model": model},
        geometry=geometry,
        mean=(0.43216, 0.394666, 0.37645),
        std=(0.22803, 0.22145, 0.216989),
        weights_sha256="",
    )


@pytest.mark.usefixtures("fake_torchvision")
def test_a_model_of_torchvision_gets_its_own_order_of_dimensions():
    network = build_network(_spec("r3d_18", ClipGeometry(frames=5, height=8, width=8)), 4, BUILTIN_BUILDERS)
    assert network(torch.randn(2, 5, 3, 8, 8)).shape == (2, 4)
    assert set(network.state_dict()) == {"model.fc.weight", "model.fc.bias"}


@pytest.mark.usefixtures("fake_torchvision")
def test_a_checkpoint_with_torchvisions_names_is_taken_over(tmp_path):
    weight = torch.full((4, 3), 2.0)
    save_file({"fc.weight": weight, "fc.bias": torch.zeros(4)}, tmp_path / "r3d.safetensors")
    spec = _spec("r3d_18", ClipGeometry(frames=5, height=8, width=8))
    same, other = build_network(spec, 4, BUILTIN_BUILDERS), build_network(spec, 5, BUILTIN_BUILDERS)
    assert same.load_published(tmp_path / "r3d.safetensors").new == ()
    assert torch.equal(same.model.fc.weight, weight)
    assert other.load_published(tmp_path / "r3d.safetensors").new == ("model.fc.weight", "model.fc.bias")


@pytest.mark.usefixtures("no_torchvision")
def test_without_torchvision_the_error_says_so():
    with pytest.raises(BundleError, match="torchvision: the teacher r3d_18 needs it"):
        build_network(_spec("r3d_18", ClipGeometry(frames=5, height=8, width=8)), 4, BUILTIN_BUILDERS)


@pytest.mark.usefixtures("fake_torchvision")
@pytest.mark.parametrize("model", ["resnet18", "load_model", "__doc__", ""])
def test_only_video_models_can_be_named(model):
    with pytest.raises(ValueError, match="must be one of"):
        build_torchvision_teacher(num_classes=2, frames=16, height=112, width=112, model=model)


@pytest.mark.usefixtures("fake_torchvision")
def test_clips_that_a_model_cannot_take_are_refused():
    with pytest.raises(BundleError, match=r"mvit_v2_s takes frames.*224.*got \(16, 112, 112\)"):
        build_network(_spec("mvit_v2_s", ClipGeometry(frames=16, height=112, width=112)), 4, BUILTIN_BUILDERS)
