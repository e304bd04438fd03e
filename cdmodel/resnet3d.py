"""3D residual networks, ResNet and ResNeXt, with the parameter names of the published 3D-ResNets checkpoints.

Sources: Hara et al. 2018, "Can Spatiotemporal 3D CNNs Retrace the History of 2D CNNs and ImageNet?" (the family);
He et al. 2016 (shortcuts A and B); Xie et al. 2017 (grouped bottleneck); Kataoka et al. 2020 (stem variants).
N clips, T frames, C channels, H height, W width, K classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from cdmodel.weights import LoadedWeights, load_weights

Kind = Literal["resnet", "resnext"]
Shortcut = Literal["A", "B"]
"""Where the shape changes: A drops positions and pads channels with zeros, B convolves (1 x 1 x 1)."""

BLOCKS_PER_STAGE = {
    10: (1, 1, 1, 1),
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
"""By depth. Source: He et al. 2016, table 1; Hara et al. 2018, table 1."""
FIRST_BOTTLENECK_DEPTH = 50
STEM_CHANNELS = 64
STAGE_STRIDES = (1, 2, 2, 2)
HEAD = "fc"


def build_resnet3d(
    *,
    num_classes: int,
    frames: int,
    height: int,
    width: int,
    depth: int = 18,
    kind: Kind = "resnet",
    shortcut: Shortcut = "B",
    cardinality: int = 32,
    stem_frames: int = 7,
    stem_stride_frames: int = 1,
    max_pool: bool = True,
) -> nn.Module:
    """Return a network that maps normalised RGB clips [N, T, 3, H, W] to logits [N, K].

    ``depth`` is one of 10, 18, 34, 50, 101, 152, 200 (a ResNeXt has at least 50). ``cardinality`` is the number of
    groups of a ResNeXt. ``stem_frames`` and ``stem_stride_frames`` are size and stride in time of the first
    convolution, and ``max_pool`` tells whether pooling follows it: the three stem options of the 2020 checkpoints.
    Any geometry works; the checkpoints of 2018 were trained on 16 frames of 112 x 112.
    """
    if depth not in BLOCKS_PER_STAGE:
        raise ValueError(f"depth must be one of {sorted(BLOCKS_PER_STAGE)}, got {depth}")
    if kind not in get_args(Kind) or shortcut not in get_args(Shortcut):
        raise ValueError(f"kind must be resnet or resnext and shortcut A or B, got {kind!r} and {shortcut!r}")
    if kind == "resnext" and depth < FIRST_BOTTLENECK_DEPTH:
        raise ValueError(f"a ResNeXt has a depth of at least {FIRST_BOTTLENECK_DEPTH}, got {depth}")
    if min(cardinality, stem_frames, stem_stride_frames, frames, height, width) < 1:
        raise ValueError("cardinality, stem and clip sizes must be at least 1")
    return ResNet3D(
        num_classes=num_classes,
        depth=depth,
        kind=kind,
        shortcut=shortcut,
        cardinality=cardinality,
        stem_frames=stem_frames,
        stem_stride_frames=stem_stride_frames,
        max_pool=max_pool,
    )


def load_published(network: nn.Module, path: Path) -> LoadedWeights:
    """Take over a published checkpoint that was converted to safetensors (docs/teachers.md).

    With another number of classes the file's ``fc`` is left out: the head is then as it was built, and ``new`` names
    it. The prefix ``module.`` of the published names is optional.

    Raises:
        BundleError: naming the first parameter that is missing, mis-shaped or unexpected.
    """
    return load_weights(network, path, HEAD)


class ResNet3D(nn.Module):
    """Stem, four stages of residual blocks, average over space and time, one linear layer."""

    def __init__(
        self,
        *,
        num_classes: int,
        depth: int,
        kind: Kind,
        shortcut: Shortcut,
        cardinality: int,
        stem_frames: int,
        stem_stride_frames: int,
        max_pool: bool,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(
            3,
            STEM_CHANNELS,
            (stem_frames, 7, 7),
            stride=(stem_stride_frames, 2, 2),
            padding=(stem_frames // 2, 3, 3),
            bias=False,
        )
        self.bn1 = nn.BatchNorm3d(STEM_CHANNELS)
        self.maxpool: nn.Module = nn.MaxPool3d(3, stride=2, padding=1) if max_pool else nn.Identity()
        channels = STEM_CHANNELS
        for stage, (blocks, stride) in enumerate(zip(BLOCKS_PER_STAGE[depth], STAGE_STRIDES, strict=True)):
            layer: list[nn.Module] = []
            shape = _shape_blocks(depth, kind, stage, cardinality)
            for block in range(blocks):
                layer.append(_Block(channels, shape, stride if block == 0 else 1, shortcut))
                channels = shape.channels_out
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
        self.fc = nn.Linear(channels, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clips_NTCHW: Tensor) -> Tensor:
        """Return logits [N, K]."""
        x_NCTHW = self.maxpool(torch.relu(self.bn1(self.conv1(clips_NTCHW.transpose(1, 2)))))
        for stage in range(len(STAGE_STRIDES)):
            x_NCTHW = self.get_submodule(f"layer{stage + 1}")(x_NCTHW)
        logits_NK: Tensor = self.fc(x_NCTHW.mean(dim=(2, 3, 4)))
        return logits_NK

    def load_published(self, path: Path) -> LoadedWeights:
        """Do as the function of the same name."""
        return load_published(self, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class _BlockShape:
    """Channels of the blocks of one stage."""

    is_bottleneck: bool
    channels: int
    """Inside the block."""
    channels_out: int
    groups: int
    """Of the middle convolution of a bottleneck."""


def _shape_blocks(depth: int, kind: Kind, stage: int, cardinality: int) -> _BlockShape:
    """Return the blocks' shape in stage 0 to 3. Sources: He et al. 2016, table 1; Xie et al. 2017, table 1."""
    is_bottleneck = depth >= FIRST_BOTTLENECK_DEPTH
    match kind:
        case "resnet":
            channels = 64 * 2**stage
            channels_out, groups = channels * (4 if is_bottleneck else 1), 1
        case "resnext":
            channels, channels_out, groups = cardinality * 4 * 2**stage, 256 * 2**stage, cardinality
    return _BlockShape(is_bottleneck=is_bottleneck, channels=channels, channels_out=channels_out, groups=groups)


class _Block(nn.Module):
    """Two 3 x 3 x 3 convolutions, or 1 - 3 - 1 in a bottleneck, beside a shortcut."""

    def __init__(self, channels_in: int, shape: _BlockShape, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        channels, channels_out = shape.channels, shape.channels_out
        self._stride, self._channels_out = stride, channels_out
        if shape.is_bottleneck:
            self.conv1 = _convolve(channels_in, channels, kernel=1)
            self.bn1 = nn.BatchNorm3d(channels)
            self.conv2 = _convolve(channels, channels, kernel=3, stride=stride, groups=shape.groups)
            self.bn2 = nn.BatchNorm3d(channels)
            self.conv3: nn.Module | None = _convolve(channels, channels_out, kernel=1)
            self.bn3 = nn.BatchNorm3d(channels_out)
        else:
            self.conv1 = _convolve(channels_in, channels, kernel=3, stride=stride)
            self.bn1 = nn.BatchNorm3d(channels)
            self.conv2 = _convolve(channels, channels, kernel=3)
            self.bn2 = nn.BatchNorm3d(channels)
            self.conv3 = None
        self.downsample: nn.Module | None = None
        if shortcut == "B" and (stride != 1 or channels_in != channels_out):
            self.downsample = nn.Sequential(
                _convolve(channels_in, channels_out, kernel=1, stride=stride), nn.BatchNorm3d(channels_out)
            )

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        """Return the stage's channels, by ``stride`` smaller."""
        y_NCTHW = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x_NCTHW)))))
        if self.conv3 is not None:
            y_NCTHW = self.bn3(self.conv3(torch.relu(y_NCTHW)))
        return torch.relu(y_NCTHW + self._shortcut(x_NCTHW))

    def _shortcut(self, x_NCTHW: Tensor) -> Tensor:
        if self.downsample is not None:
            shorter_NCTHW: Tensor = self.downsample(x_NCTHW)
            return shorter_NCTHW
        step = self._stride
        missing_channels = self._channels_out - x_NCTHW.shape[1]
        return functional.pad(x_NCTHW[:, :, ::step, ::step, ::step], (0, 0, 0, 0, 0, 0, 0, missing_channels))


def _convolve(channels_in: int, channels_out: int, *, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv3d:
    return nn.Conv3d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
