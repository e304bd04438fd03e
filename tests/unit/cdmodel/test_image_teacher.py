from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cdmodel.decode import ClipReader
from cdmodel.errors import BundleError
from cdmodel.image_teacher import ImageTeacher, build_image_teacher
from cdmodel.mobilenet import MobileNetV2, fold_batch_norm
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.weights import write_weights

REAL_ENCODER = "mobilenet_v2_imagenet_fp16.safetensors"


def _build(num_classes: int = 3, **arguments: object) -> ImageTeacher:
    network = build_image_teacher(num_classes=num_classes, frames=4, height=32, width=48, **arguments)
    assert isinstance(network, ImageTeacher)
    return network.eval()


@pytest.fixture(scope="module")
def teacher() -> ImageTeacher:
    torch.manual_seed(0)
    return _build()


def _normed(convolution: nn.Conv2d) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(convolution.out_channels)
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


def test_each_clip_gets_logits(teacher):
    with torch.inference_mode():
        assert teacher(torch.randn(2, 4, 3, 32, 48)).shape == (2, 3)


def test_time_order_matters(teacher):
    clip = torch.randn(1, 4, 3, 32, 48)
    with torch.inference_mode():
        assert (teacher(clip) - teacher(clip.flip(1))).abs().max() > 1e-3


def test_only_the_head_learns_unless_told_otherwise(teacher):
    learning = {name.partition(".")[0] for name, parameter in teacher.named_parameters() if parameter.requires_grad}
    assert learning == {"head"}
    assert all(parameter.requires_grad for parameter in _build(train_encoder=True).parameters())


def test_a_step_of_training_leaves_the_encoder_alone(teacher):
    teacher(torch.randn(1, 4, 3, 32, 48)).sum().backward()
    assert teacher.encoder.features[0][0].weight.grad is None
    assert teacher.head.classify.weight.grad is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"height": 16}, "at least 32 x 32"),
        ({"padding": "valid"}, "same or symmetric"),
        ({"hidden": 0}, "at least 1"),
    ],
)
def test_what_cannot_work_is_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        build_image_teacher(**({"num_classes": 2, "frames": 4, "height": 32, "width": 32} | arguments))


def test_same_padding_puts_the_odd_pixel_at_the_end():
    """On an even size a stride of 2 then starts at the first pixel, on an odd size one before it."""
    convolution = MobileNetV2("same").features[0][0]
    nn.init.zeros_(convolution.weight)
    nn.init.zeros_(convolution.bias)
    convolution.weight.data[0, 0, 0, 0] = 1.0
    rows_HW = torch.arange(8.0).view(8, 1).expand(8, 8) + 1
    even, odd = rows_HW.expand(1, 3, 8, 8), rows_HW[:7, :7].expand(1, 3, 7, 7)
    with torch.inference_mode():
        assert convolution(even)[0, 0, :, 1].tolist() == [1, 3, 5, 7]
        assert convolution(odd)[0, 0, :, 1].tolist() == [0, 2, 4, 6]


def test_a_folded_norm_changes_no_answer():
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 5, 3, bias=False)
    norm = _normed(convolution)
    pair = nn.Sequential(nn.Sequential(convolution, norm)).eval()
    folded = fold_batch_norm(pair.state_dict())
    alone = nn.Conv2d(3, 5, 3)
    alone.load_state_dict({name.removeprefix("0.0."): tensor for name, tensor in folded.items()})
    pictures = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(alone(pictures), pair(pictures))


def _with_norms(encoder: MobileNetV2) -> dict[str, Tensor]:
    """Return the encoder's checkpoint as torchvision writes it: a batch norm after each convolution, no biases."""
    state: dict[str, Tensor] = {}
    for name, module in encoder.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, number = name.rpartition(".")
            state[f"{name}.weight"] = module.weight.contiguous()
            norm = nn.BatchNorm2d(module.out_channels)
            norm.bias.data = module.bias.data
            norm.running_var.fill_(1 - norm.eps)
            state |= {f"{parent}.{int(number) + 1}.{key}": value for key, value in norm.state_dict().items()}
    return state | {"classifier.1.weight": torch.zeros(1000, 1280), "classifier.1.bias": torch.zeros(1000)}


def test_an_encoder_with_its_norms_is_taken_over(tmp_path):
    torch.manual_seed(2)
    original, copy = _build(padding="symmetric"), _build(padding="symmetric")
    for parameter in original.encoder.parameters():
        parameter.data += 0.001 * torch.rand_like(parameter)
    save_file(_with_norms(original.encoder), tmp_path / "mobilenet_v2.safetensors")
    facts = copy.load_published(tmp_path / "mobilenet_v2.safetensors")
    pictures = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(copy.encoder(pictures), original.encoder(pictures), rtol=1e-3, atol=1e-3)
    assert "head.classify.weight" in facts.new
    assert not any(name.startswith("encoder.") for name in facts.new)


def test_a_whole_teacher_is_taken_over_with_its_head(teacher, tmp_path):
    write_weights(teacher, tmp_path / "teacher.safetensors")
    copy = _build()
    assert copy.load_published(tmp_path / "teacher.safetensors").new == ()
    clip = torch.randn(1, 4, 3, 32, 48)
    with torch.inference_mode():
        assert torch.equal(copy(clip), teacher(clip))


@pytest.mark.parametrize("name", ["layer1.weight", "classifier.1.weight"])
def test_what_is_no_mobilenet_is_refused(teacher, tmp_path, name):
    save_file({name: torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match="not a MobileNetV2"):
        teacher.load_published(tmp_path / "other.safetensors")


def _see(video: Path, encoder: MobileNetV2, weights: dict[str, Tensor]) -> Tensor:
    """Return ImageNet's probabilities [1001] for the video's first clip."""
    with video.open("rb") as file:
        reader = ClipReader(file, str(video), ClipSampling())
        batch = next(iter(reader.read_clips(ClipGeometry(frames=1, height=224, width=224))))
    picture = torch.from_numpy(batch.pixels_NTCHW[0, :1]).float() / 127.5 - 1
    with torch.inference_mode():
        features_ND = encoder(picture)
        return nn.functional.linear(features_ND, weights["classifier.1.weight"], weights["classifier.1.bias"]).softmax(
            dim=1
        )[0]


@pytest.mark.parametrize(
    ("video", "seen"),
    [
        ("animal_locomotion-AAOYRUDX-elephants.mp4", {"Indian elephant", "African elephant", "tusker"}),
        ("animal_jump-AIEPABQT-monkey.mp4", {"howler monkey", "siamang", "spider monkey"}),
    ],
)
def test_the_real_encoder_recognises_what_real_frames_show(real_weights, real_videos, video, seen):
    teacher = _build()
    facts = teacher.load_published(real_weights / REAL_ENCODER)
    assert len(facts.loaded) == len(teacher.encoder.state_dict())
    weights = {name: tensor.float() for name, tensor in load_file(real_weights / REAL_ENCODER).items()}
    labels = (real_weights / "imagenet_labels.txt").read_text().splitlines()
    probabilities_K = _see(real_videos / "actions" / "known" / video, teacher.encoder, weights)
    best = probabilities_K.topk(3)
    assert {labels[index].split(",")[0] for index in best.indices} == seen
    assert best.values.sum() > 0.3
