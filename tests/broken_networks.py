"""Networks that a user may bring along and that go wrong."""

from __future__ import annotations

import os
import signal

import torch
from torch import Tensor, nn

from cdmodel.teacher import Teacher


class _Overflowing(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(3, num_classes)

    def forward(self, clips_NTCHW: Tensor) -> Tensor:
        return self.classify(clips_NTCHW.mean(dim=(1, 3, 4))) * torch.inf


def build_overflowing(*, num_classes: int, frames: int, height: int, width: int) -> nn.Module:
    """Return a teacher whose first answer is no number."""
    return _Overflowing(num_classes)


BRIGHT = 250
"""Grey level of a video that ``build_deadly`` dies of."""


def build_deadly(*, num_classes: int, frames: int, height: int, width: int, channels: int) -> nn.Module:
    """Return a teacher that takes its process down, with no word, when it is shown a video of almost white frames."""
    teacher = Teacher(num_classes=num_classes, channels=channels)
    teacher.register_forward_pre_hook(_die_of_brightness)
    return teacher


def _die_of_brightness(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    (normalised_clips_NTCHW,) = arguments
    if float(normalised_clips_NTCHW.min()) > 0.9:
        os.kill(os.getpid(), signal.SIGKILL)
