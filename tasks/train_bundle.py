"""Train a bundle: labeled videos in; a folder with both networks, their calibration and what was measured out.

The roles of the videos, disjoint by group: teacher and student learn the classes from ``train``; the teacher, who never
saw ``conf``, is judged there, and the student learns to foretell it; temperatures, thresholds and pools are fitted on
``cal``; ``test`` is touched once, for the metrics. All clips are held in memory.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue, TypeAdapter

from cdmodel.bundle import (
    STUDENT_WEIGHTS,
    TEACHER_WEIGHTS,
    BundleManifest,
    file_sha256,
    model_version,
    write_manifest,
)
from cdmodel.bundle_fit import FitRole, FittedBundle, RoleClips, fit_bundle
from cdmodel.decode import ClipReader
from cdmodel.errors import DecodeError, OutputError, SourceError, TrainingError, VideoError
from cdmodel.sampling import ClipGeometry
from cdmodel.splits import assign_roles
from cdmodel.training import OnProgress, TrainingProgress, TrainSettings, save_weights
from cdmodel.types import LabeledVideo
from storage.corpus import open_video
from storage.dataset import read_dataset

FIT_ROLES: tuple[FitRole, ...] = get_args(FitRole)


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedVideo:
    """A video that could not be read, and was left out."""

    uri: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedBundle:
    """What was written, and what was left out."""

    folder: Path
    model_version: str
    labels: tuple[str, ...]
    metrics: Mapping[str, JsonValue]
    """As in the bundle's manifest; measured on ``test``."""
    videos_used: int
    skipped: tuple[SkippedVideo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _ClipsOfVideo:
    student_NTCHW: NDArray[np.uint8]
    teacher_NTCHW: NDArray[np.uint8]
    label_id: int


def train_bundle(dataset: str, out: str, settings: TrainSettings, on_progress: OnProgress) -> TrainedBundle:
    """Train on the labeled videos of ``dataset`` and write a bundle to the new local folder ``out``.

    The folder appears complete or not at all. The same videos, settings and machine give the same bundle.

    Raises:
        OutputError: ``out`` exists or is not local.
        SourceError: the data set cannot be read, has one class only, or too few groups for four roles.
        TrainingError: no video of a role can be read, or a loss is no longer a number.
    """
    folder = _check_out(out)
    videos = _assign_roles(dataset, read_dataset(dataset).videos, settings.seed)
    labels = _check_labels(dataset, videos)
    roles, skipped = _read_roles(videos, labels, settings, on_progress)
    fitted = fit_bundle(roles, labels, settings, on_progress)
    provenance: dict[str, JsonValue] = {
        "dataset": dataset,
        "videos": {role: len(clips.label_V) for role, clips in roles.items()},
        "videos_skipped": len(skipped),
        "target_origin": "heldout",
        "settings": TypeAdapter(TrainSettings).dump_python(settings, mode="json"),
    }
    manifest = _write_bundle(folder, fitted, labels, settings, provenance)
    return TrainedBundle(
        folder=folder,
        model_version=model_version(manifest),
        labels=labels,
        metrics=manifest.metrics,
        videos_used=len(videos) - len(skipped),
        skipped=skipped,
    )


def _check_out(out: str) -> Path:
    if "://" in out:
        raise OutputError(out, "a bundle is written to a local folder; copy it from there")
    folder = Path(out)
    if folder.exists():
        raise OutputError(out, "exists already; name a new folder")
    return folder


def _assign_roles(dataset: str, videos: Sequence[LabeledVideo], seed: int) -> tuple[LabeledVideo, ...]:
    """Keep the roles the data set gives, or split its groups where it gives none. ``risk`` is left out."""
    videos = assign_roles(videos, seed)
    missing = [role for role in FIT_ROLES if not any(video.split == role for video in videos)]
    if missing:
        groups = len({video.group for video in videos})
        raise SourceError(
            dataset, f"no video for {_listed(missing)}: {groups} groups are there, and each role needs its own"
        )
    return tuple(video for video in videos if video.split in FIT_ROLES)


def _check_labels(dataset: str, videos: Sequence[LabeledVideo]) -> tuple[str, ...]:
    labels = tuple(sorted({label for video in videos for label in video.labels}))
    if len(labels) < 2:
        raise SourceError(dataset, f"training needs at least two classes, found {_listed(labels) or 'none'}")
    untaught = set(labels) - {label for video in videos if video.split == "train" for label in video.labels}
    if untaught:
        raise SourceError(dataset, f"no video in train shows {_listed(untaught)}")
    return labels


def _read_roles(
    videos: Sequence[LabeledVideo], labels: Sequence[str], settings: TrainSettings, on_progress: OnProgress
) -> tuple[dict[FitRole, RoleClips], tuple[SkippedVideo, ...]]:
    """Decode every video once for each model; what cannot be read is left out."""
    read: defaultdict[str, list[_ClipsOfVideo]] = defaultdict(list)
    skipped: list[SkippedVideo] = []
    for done, video in enumerate(videos, start=1):
        try:
            read[str(video.split)].append(_read_video(video, labels.index(video.labels[0]), settings))
        except VideoError as error:
            skipped.append(SkippedVideo(uri=video.video.uri, reason=error.reason))
        on_progress(TrainingProgress(stage="read", step=done, steps=len(videos), loss=None, accuracy=None))
    for role in FIT_ROLES:
        if not read[role]:
            raise TrainingError(role, f"not one video of this role can be read; the last: {skipped[-1].reason}")
    return {role: _join(read.pop(role)) for role in FIT_ROLES}, tuple(skipped)


def _read_video(video: LabeledVideo, label_id: int, settings: TrainSettings) -> _ClipsOfVideo:
    with open_video(video.video) as file:
        reader = ClipReader(file, video.video.uri, settings.sampling)
        student_NTCHW = _read_clips(reader, settings.student_geometry)
        teacher_NTCHW = _read_clips(reader, settings.teacher_geometry)
    if len(student_NTCHW) != len(teacher_NTCHW):
        raise DecodeError(video.video.uri, "two passes over the video gave different clips")
    return _ClipsOfVideo(student_NTCHW=student_NTCHW, teacher_NTCHW=teacher_NTCHW, label_id=label_id)


def _read_clips(reader: ClipReader, geometry: ClipGeometry) -> NDArray[np.uint8]:
    return np.concatenate([batch.pixels_NTCHW for batch in reader.read_clips(geometry)])


def _join(videos: Sequence[_ClipsOfVideo]) -> RoleClips:
    return RoleClips(
        student_NTCHW=np.concatenate([video.student_NTCHW for video in videos]),
        teacher_NTCHW=np.concatenate([video.teacher_NTCHW for video in videos]),
        label_V=np.array([video.label_id for video in videos], dtype=np.int64),
        clips_V=np.array([len(video.student_NTCHW) for video in videos], dtype=np.int64),
    )


def _write_bundle(
    folder: Path,
    fitted: FittedBundle,
    labels: tuple[str, ...],
    settings: TrainSettings,
    provenance: dict[str, JsonValue],
) -> BundleManifest:
    """Write everything beside the target first, so that the folder appears by one rename."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise OutputError(str(folder), f"cannot be written ({error.strerror})") from error
    try:
        save_weights(fitted.student, unfinished / STUDENT_WEIGHTS)
        save_weights(fitted.teacher, unfinished / TEACHER_WEIGHTS)
        manifest = BundleManifest(
            schema_version=1,
            labels=labels,
            sampling=settings.sampling,
            student=replace(fitted.student_spec, weights_sha256=file_sha256(unfinished / STUDENT_WEIGHTS)),
            teacher=replace(fitted.teacher_spec, weights_sha256=file_sha256(unfinished / TEACHER_WEIGHTS)),
            calibration=fitted.calibration,
            default_policy=fitted.defaults.policy,
            default_aggregation=fitted.defaults.aggregation,
            provenance=provenance,
            metrics=fitted.metrics,
        )
        write_manifest(unfinished, manifest)
        # mkdtemp makes folders for their owner alone.
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    except OSError as error:
        raise OutputError(str(folder), f"cannot be written ({error.strerror})") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return manifest


def _listed(names: Iterable[object]) -> str:
    return ", ".join(sorted(str(name) for name in names))
