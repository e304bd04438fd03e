"""Decoded clips on their way into training, in memory or on disk, and what both networks say of them.

Torch-free. Pixels may be memory-mapped: only what is drawn is read. N clips, V videos, T frames, C channels, H height,
W width, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cdmodel.labels import Truth

FitRole = Literal["train", "conf", "cal", "risk", "test"]
"""``risk`` may be missing: only who certifies a threshold needs it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPixels:
    """Clips of one size, taken from one or several arrays by row; nothing is copied before it is asked for."""

    parts: tuple[NDArray[np.uint8], ...]
    """Each [n, T, C, H, W]; row r of the whole lies in the part where the lengths before it sum to at most r."""
    rows_N: NDArray[np.int64]
    """Which rows of the parts these clips are, in order."""

    def __len__(self) -> int:
        return len(self.rows_N)

    @staticmethod
    def of(*parts: NDArray[np.uint8]) -> ClipPixels:
        """Return all clips of the arrays, one array after another."""
        return ClipPixels(parts=parts, rows_N=np.arange(sum(len(part) for part in parts)))

    def subset(self, places: NDArray[np.int64]) -> ClipPixels:
        """Return some of the clips, in the order of ``places``."""
        return ClipPixels(parts=self.parts, rows_N=self.rows_N[places])

    def read(self, places: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the pixels at these places [n, T, C, H, W], copied; ascending places read a disk in order."""
        rows_n = self.rows_N[places]
        if len(self.parts) == 1:
            return np.asarray(self.parts[0][rows_n])
        ends = np.cumsum([len(part) for part in self.parts])
        part_n = np.searchsorted(ends, rows_n, side="right")
        pixels_NTCHW = np.empty((len(rows_n), *self.parts[0].shape[1:]), dtype=np.uint8)
        for number, part in enumerate(self.parts):
            here_n = part_n == number
            pixels_NTCHW[here_n] = part[rows_n[here_n] - (ends[number] - len(part))]
        return pixels_NTCHW


@dataclass(frozen=True, slots=True, kw_only=True)
class LabeledClips:
    """Clips as one model sees them, each with its video's labels."""

    pixels: ClipPixels
    truth_NK: Truth
    video_N: NDArray[np.int64]
    """Which video each clip belongs to: a position in ``videos``."""
    videos: tuple[str, ...]
    """Names of the videos, for messages."""
    weight_N: NDArray[np.float64] | None = None
    """How often each clip is drawn against the others; None draws all alike."""

    def __post_init__(self) -> None:
        if not len(self.pixels) == len(self.truth_NK) == len(self.video_N):
            raise ValueError(
                f"{len(self.pixels)} clips, {len(self.truth_NK)} labels and {len(self.video_N)} videos of clips do not agree"
            )

    def __len__(self) -> int:
        return len(self.video_N)

    def subset(self, rows: NDArray[np.int64]) -> LabeledClips:
        """Return some of the clips, in the order of ``rows``."""
        return LabeledClips(
            pixels=self.pixels.subset(rows),
            truth_NK=self.truth_NK[rows],
            video_N=self.video_N[rows],
            videos=self.videos,
            weight_N=None if self.weight_N is None else self.weight_N[rows],
        )

    def names_of(self, rows: NDArray[np.int64]) -> list[str]:
        """Return the names of the videos these clips belong to, ascending."""
        return sorted({self.videos[int(video)] for video in self.video_N[rows]})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleClips:
    """The clips of all videos of one role, one video after another, as each model sees them."""

    student_NTCHW: NDArray[np.uint8]
    teacher_NTCHW: NDArray[np.uint8]
    truth_VK: Truth
    clips_V: NDArray[np.int64]
    """How many clips each video has; sums to N."""
    groups: tuple[str, ...]
    """Source recording of each video (V)."""
    videos: tuple[str, ...]
    """URI of each video (V)."""
    weight_V: NDArray[np.float64] | None = None
    """How often the clips of each video are learned from; None: all alike."""

    def __post_init__(self) -> None:
        clips, videos = int(self.clips_V.sum()), len(self.clips_V)
        clips_agree = len(self.student_NTCHW) == len(self.teacher_NTCHW) == clips
        if not clips_agree or not len(self.truth_VK) == len(self.groups) == len(self.videos) == videos:
            raise ValueError(
                f"{len(self.student_NTCHW)} clips for the student, {len(self.teacher_NTCHW)} for the teacher and "
                f"{clips} counted in {videos} videos with {len(self.truth_VK)} labels, {len(self.groups)} groups and "
                f"{len(self.videos)} names do not agree"
            )

    @property
    def label_V(self) -> NDArray[np.int64]:  # noqa: N802 - shape suffix
        """The label of each video; of several, the first."""
        return np.asarray(self.truth_VK.argmax(axis=1))

    def clip_labels(self) -> NDArray[np.int64]:
        """Return each clip's label [N]: its video's."""
        return np.repeat(self.label_V, self.clips_V)

    def clip_truth(self) -> Truth:
        """Return which labels are true of each clip [N, K]: its video's."""
        return np.repeat(self.truth_VK, self.clips_V, axis=0)

    def clip_groups(self) -> NDArray[np.str_]:
        """Return the source recording of each clip [N]."""
        return np.repeat(np.array(self.groups, dtype=np.str_), self.clips_V)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoleLogits:
    """Uncalibrated answers of both networks to the clips of one role."""

    student_NK: NDArray[np.float32]
    q_teacher_N: NDArray[np.float32]
    q_student_N: NDArray[np.float32]
    teacher_NK: NDArray[np.float32]


def clips_for_student(*roles: RoleClips) -> LabeledClips:
    """Return the clips of the roles, one role after another, as the student sees them."""
    return _join([role.student_NTCHW for role in roles], roles)


def clips_for_teacher(*roles: RoleClips) -> LabeledClips:
    """Return the clips of the roles, one role after another, as the teacher sees them."""
    return _join([role.teacher_NTCHW for role in roles], roles)


def _join(pixels: Sequence[NDArray[np.uint8]], roles: Sequence[RoleClips]) -> LabeledClips:
    clips_V = np.concatenate([role.clips_V for role in roles])
    return LabeledClips(
        pixels=ClipPixels.of(*pixels),
        truth_NK=np.concatenate([role.clip_truth() for role in roles]),
        video_N=np.repeat(np.arange(len(clips_V)), clips_V),
        videos=tuple(name for role in roles for name in role.videos),
        weight_N=_join_weights(roles),
    )


def _join_weights(roles: Sequence[RoleClips]) -> NDArray[np.float64] | None:
    """Return the weights of the roles' clips; None where all are equal, which draw as if there were none."""
    if all(role.weight_V is None for role in roles):
        return None
    weight_N = np.concatenate(
        [
            np.repeat(np.ones(len(role.clips_V)) if role.weight_V is None else role.weight_V, role.clips_V)
            for role in roles
        ]
    )
    return None if (weight_N == weight_N[:1]).all() else weight_N
