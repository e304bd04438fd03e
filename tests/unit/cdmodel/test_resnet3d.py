from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cdmodel.errors import BundleError
from cdmodel.resnet3d import build_resnet3d, load_published


@cache
def _on_paper(**arguments: object) -> nn.Module:
    """Build without memory or arithmetic."""
    with torch.device("meta"):
        return build_resnet3d(num_classes=400, frames=16, height=112, width=112, **arguments).eval()


def _small(num_classes: int = 3, **arguments: object) -> nn.Module:
    return build_resnet3d(num_classes=num_classes, frames=4, height=16, width=16, depth=10, **arguments).eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """A small checkpoint as the authors' would be after its conversion: parallel prefix, no counters."""
    torch.manual_seed(7)
    state = _small(5, shortcut="A").state_dict()
    path = tmp_path_factory.mktemp("published") / "resnet-10.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in state.items() if "num_batches" not in name}, path)
    return path


def _change(published: Path, folder: Path, **changes: torch.Tensor | None) -> Path:
    tensors = load_file(published)
    for name, tensor in changes.items():
        key = "module." + name.replace("__", ".")
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    save_file(tensors, folder / "changed.safetensors")
    return folder / "changed.safetensors"


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("conv1.weight", (64, 3, 7, 7, 7)),
        ("bn1.running_mean", (64,)),
        ("layer1.0.conv1.weight", (128, 64, 1, 1, 1)),
        ("layer1.0.conv2.weight", (128, 4, 3, 3, 3)),
        ("layer1.0.downsample.0.weight", (256, 64, 1, 1, 1)),
        ("layer1.0.downsample.1.bias", (256,)),
        ("layer3.22.conv3.weight", (1024, 512, 1, 1, 1)),
        ("layer4.0.conv2.weight", (1024, 32, 3, 3, 3)),
        ("layer4.2.bn3.weight", (2048,)),
        ("fc.weight", (400, 2048)),
    ],
)
def test_the_parameters_of_resnext_101_are_the_published_ones(name, shape):
    assert tuple(_on_paper(depth=101, kind="resnext").state_dict()[name].shape) == shape


@pytest.mark.parametrize(
    ("arguments", "millions"),
    [
        ({"depth": 101, "kind": "resnext"}, 48.34),
        ({"depth": 18, "shortcut": "A"}, 33.24),
        ({"depth": 34, "shortcut": "A"}, 63.54),
        ({"depth": 50}, 47.02),
        ({"depth": 101}, 86.06),
    ],
)
def test_each_member_has_its_known_number_of_parameters(arguments, millions):
    assert sum(p.numel() for p in _on_paper(**arguments).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


def test_one_clip_costs_resnext_101_its_known_multiplications():
    network = _on_paper(depth=101, kind="resnext")
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(torch.empty(1, 16, 3, 112, 112))
    assert counter.get_total_flops() == pytest.approx(2 * 9.6e9, rel=0.01)


def test_shortcut_a_has_no_parameters():
    assert not any("downsample" in name for name in _on_paper(depth=50, shortcut="A").state_dict())


@pytest.mark.parametrize("arguments", [{"shortcut": "A"}, {"shortcut": "B"}, {"max_pool": False, "stem_frames": 3}])
def test_each_clip_gets_logits(arguments):
    with torch.inference_mode():
        assert _small(**arguments)(torch.randn(2, 4, 3, 16, 16)).shape == (2, 3)


def test_a_resnext_of_other_cardinality_answers():
    network = build_resnet3d(
        num_classes=3, frames=4, height=16, width=16, depth=50, kind="resnext", cardinality=2, stem_stride_frames=2
    )
    with torch.inference_mode():
        assert network.eval()(torch.randn(1, 4, 3, 16, 16)).shape == (1, 3)


@pytest.mark.parametrize(
    "arguments", [{"depth": 19}, {"kind": "vgg"}, {"shortcut": "C"}, {"kind": "resnext"}, {"stem_frames": 0}]
)
def test_a_network_that_does_not_exist_is_refused(arguments):
    with pytest.raises(ValueError, match=r"must be|at least"):
        build_resnet3d(num_classes=3, frames=4, height=16, width=16, **arguments)


def test_a_published_checkpoint_gives_the_same_answers(published):
    torch.manual_seed(7)
    original, copy = _small(5, shortcut="A"), _small(5, shortcut="A")
    facts = load_published(copy, published)
    clips = torch.randn(1, 4, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(original(clips), copy(clips))
    assert facts.new == ()
    assert "conv1.weight" in facts.loaded


def test_with_other_classes_the_head_alone_is_new(published):
    network = _small(3, shortcut="A")
    before = network.fc.weight.clone()
    facts = load_published(network, published)
    assert facts.new == ("fc.weight", "fc.bias")
    assert torch.equal(network.fc.weight, before)
    assert "layer4.0.conv2.weight" in facts.loaded


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layer2__0__conv1__weight": None}, "layer2.0.conv1.weight is missing"),
        ({"layer9__0__conv1__weight": torch.zeros(1)}, "layer9.0.conv1.weight is not a parameter"),
        ({"bn1__weight": torch.zeros(32)}, r"bn1.weight has the shape \[32\], the network needs \[64\]"),
    ],
)
def test_a_parameter_that_does_not_fit_is_named(published, tmp_path, changes, said):
    with pytest.raises(BundleError, match=said):
        load_published(_small(5, shortcut="A"), _change(published, tmp_path, **changes))


def test_the_checkpoint_of_another_shortcut_is_refused(published):
    with pytest.raises(BundleError, match=r"downsample.*missing"):
        load_published(_small(5, shortcut="B"), published)


def test_a_pickle_is_refused_unread(tmp_path):
    (tmp_path / "resnet.pth").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(BundleError, match=r"\.safetensors files only"):
        load_published(_small(), tmp_path / "resnet.pth")


@pytest.mark.parametrize("content", [b"", b"not a tensor in sight"])
def test_what_is_no_safetensors_file_is_refused(tmp_path, content):
    (tmp_path / "broken.safetensors").write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read"):
        load_published(_small(), tmp_path / "broken.safetensors")
    with pytest.raises(BundleError, match="cannot be read"):
        load_published(_small(), tmp_path / "absent.safetensors")
