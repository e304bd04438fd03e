"""MobileNetV2, the image encoder: one picture in, 1280 features out. Batch norm is folded into the convolutions.

Folded, because the encoder is meant to stay as it was trained: nothing in it changes between training and scoring, and
it costs less. Parameter names are those of the usual checkpoints (``features.2.conv.0.0.weight``).
Source: Sandler et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks", table 2.
N pictures, C channels, H height, W width, D features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Padding = Literal["same", "symmetric"]
"""Where a stride of 2 starts: ``same`` as TensorFlow pads, ``symmetric`` one pixel on each side, as PyTorch does."""
FEATURES = 1280
STEM_CHANNELS = 32
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, channels, blocks, stride of the first block."""
BATCH_NORM_EPSILON = 1e-5


class MobileNetV2(nn.Module):
    """Stem, seventeen inverted residual blocks, one 1 x 1 convolution, average over the picture."""

    def __init__(self, padding: Padding) -> None:
        super().__init__()
        channels = STEM_CHANNELS
        layers: list[nn.Module] = [_activated(3, channels, kernel=3, padding=padding, stride=2)]
        for expansion, channels_out, blocks, first_stride in STAGES:
            for block in range(blocks):
                stride = first_stride if block == 0 else 1
                layers.append(_InvertedResidual(channels, channels_out, expansion, stride, padding))
                channels = channels_out
        layers.append(_activated(channels, FEATURES, kernel=1, padding=padding))
        self.features = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                # Without norms the default would let the signal die out over the layers. Source: He et al. 2015.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)

    def forward(self, pictures_NCHW: Tensor) -> Tensor:
        """Return features [N, D]."""
        features_NCHW: Tensor = self.features(pictures_NCHW)
        return features_NCHW.mean(dim=(2, 3))


def fold_batch_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the same encoder without batch norms: each is multiplied into the convolution just before it.

    A norm is recognised by its ``running_var``; its convolution has the same name but a last number lower by one.
    Tensors without a norm come back unchanged. Source: Jacob et al. 2018, section 3.2.
    """
    norms = [name.removesuffix(".running_var") for name in tensors if name.endswith(".running_var")]
    folded = {name: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] not in norms}
    for norm in norms:
        parent, _, number = norm.rpartition(".")
        convolution = f"{parent}.{int(number) - 1}"
        scale_C = tensors[f"{norm}.weight"] / torch.sqrt(tensors[f"{norm}.running_var"] + BATCH_NORM_EPSILON)
        folded[f"{convolution}.weight"] = tensors[f"{convolution}.weight"] * scale_C.view(-1, 1, 1, 1)
        folded[f"{convolution}.bias"] = tensors[f"{norm}.bias"] - tensors[f"{norm}.running_mean"] * scale_C
    return folded


class _InvertedResidual(nn.Module):
    """Widen, convolve each channel alone, narrow again without an activation; add the input where shapes allow."""

    def __init__(self, channels_in: int, channels_out: int, expansion: int, stride: int, padding: Padding) -> None:
        super().__init__()
        self._adds_input = stride == 1 and channels_in == channels_out
        channels = channels_in * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(_activated(channels_in, channels, kernel=1, padding=padding))
        layers.append(_activated(channels, channels, kernel=3, padding=padding, stride=stride, groups=channels))
        layers.append(nn.Conv2d(channels, channels_out, 1))
        self.conv = nn.Sequential(*layers)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y_NCHW: Tensor = self.conv(x_NCHW)
        return x_NCHW + y_NCHW if self._adds_input else y_NCHW


class _SamePadConv2d(nn.Conv2d):
    """Pads so that the output has ceil(size / stride) positions, the odd pixel at the end, as TensorFlow does."""

    def forward(self, x_NCHW: Tensor) -> Tensor:
        pads: list[int] = []
        # From the last dimension to the first, as functional.pad wants it.
        for size, kernel, stride in zip(x_NCHW.shape[:1:-1], self.kernel_size[::-1], self.stride[::-1], strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(functional.pad(x_NCHW, pads))


def _activated(
    channels_in: int, channels_out: int, *, kernel: int, padding: Padding, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    match padding:
        case "same":
            convolution: nn.Conv2d = _SamePadConv2d(channels_in, channels_out, kernel, stride=stride, groups=groups)
        case "symmetric":
            convolution = nn.Conv2d(
                channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, groups=groups
            )
    return nn.Sequential(convolution, nn.ReLU6(inplace=True))
