"""Random batches of labeled clips, varied a little, each decided by (seed, stream, step) alone.

N clips, T frames, C channels, H height, W width, K labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cdmodel.augmentation import recolour_clips, shift_clips
from cdmodel.bundle import ModelSpec
from cdmodel.errors import TrainingError
from cdmodel.models import normalise
from cdmodel.role_clips import LabeledClips

CLIPS_OF_ONE_VIDEO = 8
"""In a batch whose clips are to be compared within their videos."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Clips as they enter a network, on its device."""

    rows_N: NDArray[np.int64]
    """Where they stand in their role, ascending."""
    clips_NTCHW: Tensor
    truth_NK: Tensor
    video_N: Tensor


class ClipDrawer:
    """Draws clips with replacement: any, or with ``by_video`` several of each video that was drawn; heavy ones oftener."""

    def __init__(
        self,
        clips: LabeledClips,
        spec: ModelSpec,
        *,
        size: int,
        seed: int,
        stream: int,
        device: torch.device,
        by_video: bool = False,
    ) -> None:
        if not len(clips):
            raise TrainingError("training", "no clip could be read of the videos of one role")
        self._clips = clips
        self._spec = spec
        self._size = size
        self._key = (seed, stream)
        self._device = device
        self._by_video = by_video
        self._order_N = np.argsort(clips.video_N, kind="stable")
        _, self._first_V, self._count_V = np.unique(clips.video_N[self._order_N], return_index=True, return_counts=True)
        weight_N = clips.weight_N
        self._reach_N = None if weight_N is None else np.cumsum(weight_N)
        self._reach_V = None if weight_N is None else np.cumsum(weight_N[self._order_N][self._first_V])

    def draw(self, step: int) -> Batch:
        """Return the batch of a step."""
        random = self._random(step)
        rows_N = self._pick_rows(random)
        moved_NTCHW = shift_clips(self._clips.pixels.read(rows_N), random)
        return Batch(
            rows_N=rows_N,
            clips_NTCHW=recolour_clips(normalise(moved_NTCHW, self._spec, self._device), random),
            truth_NK=torch.from_numpy(self._clips.truth_NK[rows_N]).to(self._device),
            video_N=torch.from_numpy(self._clips.video_N[rows_N]).to(self._device),
        )

    def name_videos(self, step: int) -> list[str]:
        """Return the names of the videos in the batch of a step."""
        return self._clips.names_of(self._pick_rows(self._random(step)))

    def _random(self, step: int) -> np.random.Generator:
        return np.random.default_rng((*self._key, step))

    def _pick_rows(self, random: np.random.Generator) -> NDArray[np.int64]:
        if not self._by_video:
            return np.sort(_draw(random, len(self._clips), self._size, self._reach_N))
        each = min(CLIPS_OF_ONE_VIDEO, self._size)
        videos = _draw(random, len(self._first_V), max(self._size // each, 1), self._reach_V)
        places = np.floor(random.random((len(videos), each)) * self._count_V[videos, None]).astype(np.int64)
        return np.sort(self._order_N[(self._first_V[videos, None] + places).reshape(-1)])


def _draw(random: np.random.Generator, things: int, size: int, reach: NDArray[np.float64] | None) -> NDArray[np.int64]:
    """Draw ``size`` of so many things with replacement, each as often as it reaches on from the one before."""
    if reach is None:
        return random.integers(0, things, size=size)
    places = np.searchsorted(reach, random.random(size) * reach[-1], side="right")
    return np.asarray(np.minimum(places, things - 1), dtype=np.int64)
