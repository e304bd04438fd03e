"""Varying clips a little, so that a network does not learn them by heart. All frames of a clip change alike.

N clips, T frames, C channels, H height, W width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def shift_clips(pixels_NTCHW: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Move each clip by up to a twelfth of its size; what the move uncovers repeats the border."""
    height, width = pixels_NTCHW.shape[-2:]
    down_N = random.integers(-(height // 12), height // 12 + 1, size=len(pixels_NTCHW)).tolist()
    right_N = random.integers(-(width // 12), width // 12 + 1, size=len(pixels_NTCHW)).tolist()
    moved_NTCHW = np.empty_like(pixels_NTCHW)
    for clip, (down, right) in enumerate(zip(down_N, right_N, strict=True)):
        _shift(pixels_NTCHW[clip], moved_NTCHW[clip], down, right)
    return moved_NTCHW


def _shift(pixels_TCHW: NDArray[np.uint8], moved_TCHW: NDArray[np.uint8], down: int, right: int) -> None:
    """Fill ``moved[y, x]`` with ``pixels[y + down, x + right]``: one copy of what stays, then the borders."""
    height, width = pixels_TCHW.shape[-2:]
    top, bottom = max(-down, 0), height - max(down, 0)
    left, end = max(-right, 0), width - max(right, 0)
    moved_TCHW[..., top:bottom, left:end] = pixels_TCHW[..., top + down : bottom + down, left + right : end + right]
    moved_TCHW[..., :top, left:end] = moved_TCHW[..., top : top + 1, left:end]
    moved_TCHW[..., bottom:, left:end] = moved_TCHW[..., bottom - 1 : bottom, left:end]
    moved_TCHW[..., :left] = moved_TCHW[..., left : left + 1]
    moved_TCHW[..., end:] = moved_TCHW[..., end - 1 : end]


def recolour_clips(clips_NTCHW: Tensor, random: np.random.Generator) -> Tensor:
    """Swap, stretch and offset the colour channels of each clip, alike in all of its frames.

    One 3 x 3 matrix for each clip: on a CPU three times as fast as picking channels by index.
    """
    clips, device = len(clips_NTCHW), clips_NTCHW.device
    order_NC = np.argsort(random.random((clips, 3)), axis=1)
    gain_NC = random.uniform(0.7, 1.3, (clips, 3)).astype(np.float32)
    offset_NC = random.uniform(-0.3, 0.3, (clips, 3)).astype(np.float32)
    mix_NCC = np.zeros((clips, 3, 3), dtype=np.float32)
    np.put_along_axis(mix_NCC, order_NC[:, :, None], gain_NC[:, :, None], axis=2)
    with torch.autocast(device.type, enabled=False):
        mixed_NTCP = torch.from_numpy(mix_NCC).to(device).unsqueeze(1) @ clips_NTCHW.flatten(3)
    return mixed_NTCP.view_as(clips_NTCHW).add_(torch.from_numpy(offset_NC).to(device).view(clips, 1, 3, 1, 1))
