"""Decode the videos of a data set for training, once for each model, into a working folder.

A video that cannot be read is left out and remembered. Reading goes on where a killed process stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdmodel.clips import ClipSource
from cdmodel.decode_limits import DecodeLimits
from cdmodel.descent import OnProgress, TrainingProgress
from cdmodel.errors import DecodeError, TrainingError, VideoError
from cdmodel.labels import to_truth
from cdmodel.role_clips import FitRole, RoleClips
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.types import LabeledVideo
from storage.clip_store import ClipStore
from tasks.worker_decoder import open_clips


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedVideo:
    """A video that could not be read, and was left out."""

    uri: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRoles:
    """What could be read."""

    roles: Mapping[FitRole, RoleClips]
    skipped: tuple[SkippedVideo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipViews:
    """How clips are cut, and what each model sees of one."""

    sampling: ClipSampling
    student: ClipGeometry
    teacher: ClipGeometry


def read_roles(
    videos: Mapping[FitRole, Sequence[LabeledVideo]],
    labels: Sequence[str],
    views: ClipViews,
    folder: Path,
    on_progress: OnProgress,
) -> ReadRoles:
    """Return the clips of every role, mapped from ``folder``; the folder must always be given the same videos.

    Raises:
        OutputError: the disk does not take the clips.
        TrainingError: no video of a role can be read, or none of ``train`` that shows a class.
    """
    total, done = sum(len(of_role) for of_role in videos.values()), 0
    roles: dict[FitRole, RoleClips] = {}
    skipped: list[SkippedVideo] = []
    for role, of_role in videos.items():
        store = ClipStore(folder, role, [_shape(views.student), _shape(views.teacher)])
        for place, video in enumerate(of_role):
            if place >= len(store.videos):
                _read_into(store, video, views)
            done += 1
            on_progress(TrainingProgress(stage="read", step=done, steps=total, loss=None, accuracy=None))
        missed = _missed(store, of_role)
        if len(missed) == len(of_role):
            raise TrainingError(role, f"not one video of this role can be read; the last: {missed[-1].reason}")
        skipped += missed
        roles[role] = _collect(store, of_role, labels)
    _refuse_lost_classes(videos["train"], roles["train"], labels)
    return ReadRoles(roles=roles, skipped=tuple(skipped))


def _read_into(store: ClipStore, video: LabeledVideo, views: ClipViews) -> None:
    try:
        with open_clips(video.video, views.sampling, DecodeLimits()) as clips:
            student_NTCHW, teacher_NTCHW = _read_both(clips, views)
        if len(student_NTCHW) != len(teacher_NTCHW):
            raise DecodeError(video.video.uri, "two passes over the video gave different clips")
    except VideoError as error:
        store.add_failure(error.reason)
    else:
        store.add([student_NTCHW, teacher_NTCHW])


def _read_both(clips: ClipSource, views: ClipViews) -> list[NDArray[np.uint8]]:
    """Return the pixels of all clips as the student and as the teacher see them."""
    if views.student.keyframes_only or views.teacher.keyframes_only:
        seen = [list(clips.read_clips(geometry)) for geometry in (views.student, views.teacher)]
    else:
        seen = [list(view) for view in zip(*clips.read_views((views.student, views.teacher)), strict=True)]
    return [np.concatenate([batch.to_host() for batch in batches]) for batches in seen]


def _missed(store: ClipStore, videos: Sequence[LabeledVideo]) -> list[SkippedVideo]:
    return [
        SkippedVideo(uri=video.video.uri, reason=stored.failure)
        for video, stored in zip(videos, store.videos, strict=True)
        if stored.failure is not None
    ]


def _collect(store: ClipStore, videos: Sequence[LabeledVideo], labels: Sequence[str]) -> RoleClips:
    student_NTCHW, teacher_NTCHW = store.map_arrays()
    read = [(video, stored.clips) for video, stored in zip(videos, store.videos, strict=True) if stored.clips]
    number_of = {label: number for number, label in enumerate(labels)}
    return RoleClips(
        student_NTCHW=student_NTCHW,
        teacher_NTCHW=teacher_NTCHW,
        truth_VK=to_truth([[number_of[label] for label in video.labels] for video, _ in read], len(labels)),
        clips_V=np.array([clips for _, clips in read], dtype=np.int64),
        groups=tuple(video.group for video, _ in read),
        videos=tuple(video.video.uri for video, _ in read),
        weight_V=_weights([video.weight for video, _ in read]),
    )


def _weights(weights: Sequence[float]) -> NDArray[np.float64] | None:
    """Return the weights; None where all are 1, as if there were none."""
    return None if set(weights) <= {1.0} else np.array(weights, dtype=np.float64)


def _refuse_lost_classes(videos: Sequence[LabeledVideo], train: RoleClips, labels: Sequence[str]) -> None:
    """A class that ``train`` shows must not be lost with the videos that could not be read."""
    shown = {label for video in videos for label in video.labels}
    lost = [label for n, label in enumerate(labels) if label in shown and not train.truth_VK[:, n].any()]
    if lost:
        raise TrainingError("train", f"not one of the videos that show {', '.join(lost)} can be read")


def _shape(geometry: ClipGeometry) -> tuple[int, int, int, int]:
    return (geometry.frames, 3, geometry.height, geometry.width)
