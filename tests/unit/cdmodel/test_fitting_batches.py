"""Memory that runs out halves the batch, is told, and changes no answer."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cdmodel.bundle import ModelSpec
from cdmodel.errors import RunError
from cdmodel.models import TeacherScorer
from cdmodel.sampling import ClipGeometry

GEOMETRY = ClipGeometry(frames=2, height=4, width=4)


class _Crowded(nn.Module):
    """Answers with each clip's mean, as long as the batch fits."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room
        self.batches: list[int] = []

    def forward(self, clips_NTCHW: Tensor) -> Tensor:
        self.batches.append(len(clips_NTCHW))
        if len(clips_NTCHW) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return clips_NTCHW.mean(dim=(1, 2, 3, 4))[:, None]


def _teacher(network: nn.Module) -> TeacherScorer:
    spec = ModelSpec(builder="m:f", arguments={}, weights_sha256="", geometry=GEOMETRY, mean=(0.0,) * 3, std=(1.0,) * 3)
    return TeacherScorer(network=network, spec=spec, device=torch.device("cpu"), flops_per_clip=1)


def _clips(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 2, 3, 4, 4), dtype=np.uint8)


def test_a_batch_that_fits_is_scored_as_one() -> None:
    network = _Crowded(16)
    _teacher(network).score(_clips(16))
    assert network.batches == [16]


def test_a_batch_that_no_longer_fits_is_halved_for_good_and_that_is_told(caplog: pytest.LogCaptureFixture) -> None:
    network = _Crowded(16)
    teacher = _teacher(network)
    expected = teacher.score(_clips(16))
    network.room, network.batches = 5, []
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(teacher.score(_clips(16)), expected)
    assert network.batches == [16, 8, 4, 4, 4, 4]
    assert "no memory for 16 clips in the teacher: 8 at once" in caplog.text
    network.batches = []
    teacher.score(_clips(6))
    assert network.batches == [4, 2]


def test_no_room_for_one_clip_names_the_model() -> None:
    with pytest.raises(RunError, match="teacher"):
        _teacher(_Crowded(0)).score(_clips(3))
