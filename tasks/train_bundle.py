"""Train a bundle: labeled videos in; a folder with both networks, their calibration and what was measured out.

The roles of the videos, disjoint by group: teacher and student learn the classes from ``train``; the teacher is judged on
clips it never saw, and the student learns to foretell that (``confidence.origin``); temperatures, thresholds and pools
are fitted on ``cal``; ``test`` is touched once, for the metrics. Until the bundle stands, everything lies in a working
folder beside it; the same command goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from pydantic import JsonValue, TypeAdapter

from cdmodel.bundle import (
    SCHEMA_VERSION,
    STUDENT_WEIGHTS,
    TRAIN_VIDEOS_BY_LABEL,
    BundleManifest,
    file_sha256,
    model_version,
    write_manifest,
)
from cdmodel.bundle_fit import FittedBundle, fit_bundle
from cdmodel.descent import SECONDS_BETWEEN_CHECKPOINTS, Keeper, OnProgress
from cdmodel.errors import OutputError, SourceError
from cdmodel.network_training import check_networks
from cdmodel.role_clips import FitRole
from cdmodel.spent_share import check_foretold
from cdmodel.splits import MUST_SHOW_ALL, absent_classes, assign_roles, check_classes
from cdmodel.teacher_judgement import check_folds
from cdmodel.teacher_source import check_known, describe_teacher, known_labels, write_teacher
from cdmodel.train_settings import TrainSettings
from cdmodel.types import Dataset, LabeledVideo
from cdmodel.weights import write_weights
from storage.corpus import CorpusRules
from storage.dataset import read_dataset
from storage.work_folder import WorkFolder, hold_work_folder, new_folder
from tasks.read_clips import ClipViews, ReadRoles, SkippedVideo, read_roles

ROLES: tuple[FitRole, ...] = get_args(FitRole)
OPTIONAL_ROLE: FitRole = "risk"
_SETTINGS = TypeAdapter(TrainSettings)


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
    warnings: tuple[str, ...]
    """What a reader of the metrics has to know, one sentence each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is to be learned, before anything is decoded."""

    dataset: str
    videos: Mapping[FitRole, tuple[LabeledVideo, ...]]
    labels: tuple[str, ...]
    """In the order of the networks' outputs: the data set's, or those that a given teacher answers with."""
    settings: TrainSettings
    warnings: tuple[str, ...]

    def key(self) -> str:
        """Return the hash of everything that decides the outcome."""
        facts = {
            "dataset": self.dataset,
            "videos": self.videos_told(),
            "labels": self.labels,
            "settings": _to_json(self.settings),
            "weights": _list_files(self.settings.teacher.weights),
            "start": _list_files(self.settings.student.start),
            "no_dearer_than": _list_files(self.settings.no_dearer_than),
        }
        return _digest(facts)

    def videos_told(self) -> dict[str, list[dict[str, Any]]]:
        """Return all of each role, as far as it decides the outcome."""
        return {role: [asdict(video) for video in of_role] for role, of_role in self.videos.items()}


def train_bundle(
    dataset: str,
    out: str,
    settings: TrainSettings,
    on_progress: OnProgress,
    *,
    videos: str | None = None,
    corpus: CorpusRules | None = None,
    checkpoint_seconds: float = SECONDS_BETWEEN_CHECKPOINTS,
) -> TrainedBundle:
    """Train on the labeled videos of ``dataset`` and write a bundle to the new local folder ``out``.

    The folder appears complete or not at all. The same videos, settings and machine give the same bundle, however often
    the training was killed and started again; at most ``checkpoint_seconds`` of work are lost each time.

    Args:
        dataset: as ``storage.dataset.read_dataset`` takes it.
        out: where the bundle goes.
        settings: all that can be chosen.
        on_progress: told how far it is.
        videos: the folder or URL of the videos of a published data set.
        corpus: where else than in its own folder a manifest may name videos.
        checkpoint_seconds: how often the state of a training is written.

    Raises:
        BundleError: a network cannot be built.
        OutputError: ``out`` exists, is not local, or is being trained, or was begun with other settings.
        SourceError: the data set cannot be read, has one class only, or too few groups for its roles.
        TrainingError: no video of a role can be read, or a loss is no longer a number.
    """
    folder = new_folder(out)
    plan = _plan(dataset, videos, corpus, settings)
    check_networks(settings, plan.labels)
    if settings.no_dearer_than is not None:
        check_foretold(Path(settings.no_dearer_than), settings.student.describe().geometry)
    with hold_work_folder(folder, plan.key()) as work:
        views = ClipViews(
            sampling=settings.sampling,
            student=settings.student.describe().geometry,
            teacher=describe_teacher(settings.teacher).geometry,
        )
        read = read_roles(plan.videos, plan.labels, views, work.path / "clips", on_progress)
        keeper = Keeper(checkpoints=work, every_seconds=checkpoint_seconds)
        fitted = fit_bundle(read.roles, plan.labels, settings, on_progress, keeper)
        manifest = _write_bundle(folder, work, fitted, plan, read)
        work.remove()
    return TrainedBundle(
        folder=folder,
        model_version=model_version(manifest),
        labels=plan.labels,
        metrics=manifest.metrics,
        videos_used=sum(len(clips.videos) for clips in read.roles.values()),
        skipped=read.skipped,
        warnings=(*plan.warnings, *fitted.networks.warnings()),
    )


def _plan(dataset: str, place: str | None, corpus: CorpusRules | None, settings: TrainSettings) -> _Plan:
    found = read_dataset(dataset, corpus, videos=place, label_kind=settings.label_kind)
    videos = assign_roles(found.videos, settings.seed)
    known = known_labels(settings.teacher)
    # A given teacher knows its classes; what it says of a clip teaches the student more than the class that it shows.
    labels = check_classes(dataset, videos, MUST_SHOW_ALL if known is None else ())
    if known is not None:
        check_known(dataset, labels, known)
    divided = _divide(dataset, videos)
    check_folds([video.group for role in ("train", "conf") for video in divided[role]], settings)
    return _Plan(
        dataset=dataset,
        videos=divided,
        labels=known or labels,
        settings=settings,
        warnings=(*_shortcomings(found), *_absences(videos, divided)),
    )


def _divide(dataset: str, videos: Sequence[LabeledVideo]) -> dict[FitRole, tuple[LabeledVideo, ...]]:
    divided = {role: tuple(video for video in videos if video.split == role) for role in ROLES}
    missing = [role for role, of_role in divided.items() if not of_role and role != OPTIONAL_ROLE]
    if missing:
        groups = len({video.group for video in videos})
        raise SourceError(
            dataset, f"no video for {', '.join(missing)}: {groups} groups are there, and each role needs its own"
        )
    return {role: of_role for role, of_role in divided.items() if of_role}


def _shortcomings(dataset: Dataset) -> Iterable[str]:
    if dataset.missing:
        yield f"{len(dataset.missing)} videos of the annotation are not in the folder, the first {dataset.missing[0]}"
    if dataset.shared_sources:
        yield (
            f"{len(dataset.shared_sources)} source recordings are both in the published training and test parts: what is "
            "measured is too good by as much"
        )


def _absences(videos: Sequence[LabeledVideo], roles: Iterable[FitRole]) -> Iterable[str]:
    for role in roles:
        absent = absent_classes(videos, role)
        if absent:
            yield f"no video in {role} shows {', '.join(absent)}: of that nothing is learned or measured there"


def _write_bundle(folder: Path, work: WorkFolder, fitted: FittedBundle, plan: _Plan, read: ReadRoles) -> BundleManifest:
    """Write everything into the working folder first, so that the bundle appears by one rename."""
    unfinished = work.path / "bundle"
    networks = fitted.networks
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        write_weights(networks.student, unfinished / STUDENT_WEIGHTS)
        decisions = fitted.decisions
        manifest = BundleManifest(
            schema_version=SCHEMA_VERSION,
            labels=plan.labels,
            sampling=plan.settings.sampling,
            student=replace(networks.student_spec, weights_sha256=file_sha256(unfinished / STUDENT_WEIGHTS)),
            teacher=write_teacher(networks.teacher, networks.teacher_spec, unfinished),
            label_kind=plan.settings.label_kind,
            calibration=decisions.calibration,
            default_policy=decisions.policy,
            default_aggregation=decisions.aggregation,
            value_at_share=decisions.value_at_share,
            risk=decisions.risk,
            reference=decisions.reference,
            provenance=_describe_origin(fitted, plan, read),
            metrics=fitted.metrics,
        )
        write_manifest(unfinished, manifest)
        unfinished.rename(folder)
    except OSError as error:
        raise OutputError(str(folder), f"cannot be written ({error.strerror})") from error
    return manifest


def _describe_origin(fitted: FittedBundle, plan: _Plan, read: ReadRoles) -> dict[str, JsonValue]:
    networks = fitted.networks
    return {
        "dataset": plan.dataset.rstrip("/").rpartition("/")[2],
        "dataset_sha256": _digest(plan.videos_told()),
        "videos": {role: len(clips.videos) for role, clips in read.roles.items()},
        TRAIN_VIDEOS_BY_LABEL: {
            label: int(shown)
            for label, shown in zip(plan.labels, read.roles["train"].truth_VK.sum(axis=0), strict=True)
        },
        "videos_skipped": [{"uri": video.uri, "reason": video.reason} for video in read.skipped],
        "target_origin": networks.target_origin,
        "targets": {name: round(value, 4) for name, value in asdict(networks.target_check).items()},
        "warnings": [*plan.warnings, *networks.warnings()],
        "settings": _to_json(_without_places(plan.settings)),
    }


def _without_places(settings: TrainSettings) -> TrainSettings:
    """Name given weights as such and not by where they lie, so that the same training elsewhere gives the same bundle."""
    teacher, student = settings.teacher, settings.student
    return replace(
        settings,
        teacher=replace(teacher, weights=_last_part(teacher.weights), labels=_last_part(teacher.labels)),
        student=replace(student, start=_last_part(student.start)),
        no_dearer_than=_last_part(settings.no_dearer_than),
    )


def _last_part(place: str | None) -> str | None:
    return None if place is None else Path(place).name


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _list_files(place: str | None) -> list[tuple[str, int, int]]:
    """Return name, size and modification time of everything in a folder of weights, or of the one file."""
    if place is None:
        return []
    path = Path(place)
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]


def _to_json(settings: TrainSettings) -> JsonValue:
    facts: JsonValue = _SETTINGS.dump_python(settings, mode="json")
    return facts
