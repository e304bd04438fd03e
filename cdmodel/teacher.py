"""The built-in teacher: a compact residual network of (2+1)D convolutions.

Sees what is in the picture and what moves in it. Slow beside the student, and better, because it has more frames,
more pixels and colour. Any other module that maps clips to logits can stand in its place.
N clips, T frames, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

WIDENING = 5
"""How many times wider the last stage is than the first."""


def build_teacher(*, num_classes: int, frames: int, height: int, width: int, channels: int = 24) -> nn.Module:
    """Return a network that maps normalised RGB clips [N, T, 3, H, W] to logits [N, K].

    ``channels`` is the width of the first stage; later stages have up to five times as many. ``frames``, ``height`` and
    ``width`` must be at least 8, 32 and 32, so that something is left after the strides.
    """
    if frames < 8 or height < 32 or width < 32:
        raise ValueError(f"the teacher needs at least 8 frames of 32 x 32, got {frames} of {height} x {width}")
    # Channels last: on CPUs twice as fast as the default layout.
    network = Teacher(num_classes=num_classes, channels=channels)
    return network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload,no-any-return]


class Teacher(nn.Module):
    """Stem, five (2+1)D residual blocks, average and maximum over space and time, one linear layer."""

    def __init__(self, *, num_classes: int, channels: int) -> None:
        super().__init__()
        self.stem = build_stem(channels)
        self.blocks = build_blocks(channels)
        self.dropout = nn.Dropout(0.3)
        self.classify = nn.Linear(2 * WIDENING * channels, num_classes)

    def forward(self, clips_NTCHW: Tensor) -> Tensor:
        """Return logits [N, K]."""
        x_NCTHW = self.blocks(self.stem(show_motion(clips_NTCHW)))
        pooled_NC = torch.cat([x_NCTHW.mean(dim=(2, 3, 4)), x_NCTHW.amax(dim=(2, 3, 4))], dim=1)
        logits_NK: Tensor = self.classify(self.dropout(pooled_NC))
        return logits_NK


def build_stem(channels: int) -> nn.Sequential:
    """Return the first layers: [N, 6, T, H, W] of ``show_motion`` to [N, channels, T, H / 2, W / 2]."""
    return nn.Sequential(
        nn.Conv3d(6, channels, (1, 5, 5), stride=(1, 2, 2), padding=(0, 2, 2), bias=False),
        nn.BatchNorm3d(channels),
        nn.ReLU(inplace=True),
        nn.Conv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0), bias=False),
        nn.BatchNorm3d(channels),
        nn.ReLU(inplace=True),
    )


def build_blocks(channels: int) -> nn.Sequential:
    """Return five residual blocks: ``channels`` to ``WIDENING * channels``, a quarter of the time, an eighth of the size."""
    second, third, fourth = channels * 4 // 3, channels * 8 // 3, channels * WIDENING
    return nn.Sequential(
        _ResidualBlock(channels, second, stride_T=1, stride_HW=2),
        _ResidualBlock(second, second, stride_T=1, stride_HW=1),
        _ResidualBlock(second, third, stride_T=2, stride_HW=2),
        _ResidualBlock(third, third, stride_T=1, stride_HW=1),
        _ResidualBlock(third, fourth, stride_T=2, stride_HW=2),
    )


class _ResidualBlock(nn.Module):
    """A spatial, then a temporal convolution, beside a shortcut. Source: Tran et al. 2018, R(2+1)D."""

    def __init__(self, channels_in: int, channels_out: int, *, stride_T: int, stride_HW: int) -> None:
        super().__init__()
        self.space = nn.Sequential(
            nn.Conv3d(
                channels_in, channels_out, (1, 3, 3), stride=(1, stride_HW, stride_HW), padding=(0, 1, 1), bias=False
            ),
            nn.BatchNorm3d(channels_out),
            nn.ReLU(inplace=True),
        )
        self.time = nn.Sequential(
            nn.Conv3d(channels_out, channels_out, (3, 1, 1), stride=(stride_T, 1, 1), padding=(1, 0, 0), bias=False),
            nn.BatchNorm3d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if channels_in != channels_out:
            stride = (stride_T, stride_HW, stride_HW)
            self.shortcut = nn.Sequential(
                nn.Conv3d(channels_in, channels_out, 1, stride=stride, bias=False), nn.BatchNorm3d(channels_out)
            )

    def forward(self, x_NCTHW: Tensor) -> Tensor:
        return torch.relu(self.time(self.space(x_NCTHW)) + self.shortcut(x_NCTHW))


def show_motion(clips_NTCHW: Tensor) -> Tensor:
    """Return [N, 6, T, H, W]: the pixels, and their deviation from the clip's mean picture, where only motion is."""
    x_NCTHW = clips_NTCHW.transpose(1, 2)
    both_NCTHW = torch.cat([x_NCTHW, x_NCTHW - x_NCTHW.mean(dim=2, keepdim=True)], dim=1)
    return both_NCTHW.contiguous(memory_format=torch.channels_last_3d)
