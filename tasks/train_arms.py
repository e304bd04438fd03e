"""Train the students that an ablation compares, against the teacher of a bundle; their folder is what ``evaluate`` reads.

One network per distinct recipe and seed. The teacher is not trained: its answers to ``train`` are imitated, those to
``conf``, which it must never have seen, are judged. The folder appears complete or not at all; until then everything lies
in a working folder beside it, and a killed run goes on there with the network it was at.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cdmodel.ablation_arms import ArmLessons, train_arm
from cdmodel.bundle import BundleManifest, training_seed
from cdmodel.calibration_fit import fit_temperature
from cdmodel.descent import OnProgress, TrainingProgress
from cdmodel.errors import OutputError, SourceError
from cdmodel.models import CascadeModels, load_bundle, pick_device
from cdmodel.role_clips import ClipPixels, FitRole, RoleClips, clips_for_student
from cdmodel.splits import assign_roles
from cdmodel.student_recipes import needed_trainings
from cdmodel.training import score_teacher
from cdmodel.types import LabeledVideo
from cdmodel.weights import write_weights
from storage.corpus import CorpusRules
from storage.dataset import read_dataset
from storage.work_folder import hold_work_folder, new_folder
from tasks.arm_settings import ArmSettings
from tasks.arms_folder import load_arm, weights_name, write_index
from tasks.read_clips import ClipViews, SkippedVideo, read_roles

LESSON_ROLES: tuple[FitRole, ...] = ("train", "conf", "cal")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedArms:
    """What was written."""

    folder: Path
    networks: int
    videos_used: int
    skipped: tuple[SkippedVideo, ...]
    warnings: tuple[str, ...]
    """What a reader of the comparison has to know, one sentence each."""


def train_arms(
    dataset: str,
    bundle: Path,
    out: str,
    settings: ArmSettings,
    on_progress: OnProgress,
    *,
    videos: str | None = None,
    corpus: CorpusRules | None = None,
) -> TrainedArms:
    """Train every arm under every seed and write their weights to the new local folder ``out``.

    ``videos`` and ``corpus`` are those of ``train_bundle``.

    Raises:
        BundleError: the bundle cannot be loaded.
        OutputError: ``out`` exists, is not local, or is being trained, or was begun with other videos or settings.
        SourceError: the data set has no videos in train, conf or cal, or labels that the bundle does not know.
        TrainingError: no video of a role can be read, or a loss is no longer a number.
    """
    folder = new_folder(out)
    models = load_bundle(bundle, pick_device(), settings.allowed_builders)
    lessons_of = _by_role(dataset, models.manifest, videos, corpus)
    key = _key(lessons_of, models, settings)
    views = ClipViews(
        sampling=models.manifest.sampling, student=models.student.geometry, teacher=models.teacher.geometry
    )
    with hold_work_folder(folder, key) as work:
        read = read_roles(lessons_of, models.manifest.labels, views, work.path / "clips", on_progress)
        lessons = _to_lessons(read.roles, models, on_progress)
        unfinished = work.path / "arms"
        networks = _train_all(unfinished, lessons, settings, models, on_progress)
        write_index(unfinished, models, settings)
        _appear(unfinished, folder)
        work.remove()
    return TrainedArms(
        folder=folder,
        networks=networks,
        videos_used=sum(len(clips.videos) for clips in read.roles.values()),
        skipped=read.skipped,
        warnings=tuple(_shortcomings(models.manifest)),
    )


def _by_role(
    dataset: str, manifest: BundleManifest, place: str | None, corpus: CorpusRules | None
) -> dict[FitRole, tuple[LabeledVideo, ...]]:
    found = read_dataset(dataset, corpus, videos=place, label_kind=manifest.label_kind)
    videos = assign_roles(found.videos, training_seed(manifest))
    unknown = sorted({label for video in videos for label in video.labels} - set(manifest.labels))
    if unknown:
        raise SourceError(dataset, f"the bundle does not know the labels {', '.join(unknown[:10])}")
    divided = {role: tuple(video for video in videos if video.split == role) for role in LESSON_ROLES}
    missing = [role for role, of_role in divided.items() if not of_role]
    if missing:
        raise SourceError(dataset, f"no video for {', '.join(missing)}")
    return divided


def _key(lessons_of: Mapping[FitRole, tuple[LabeledVideo, ...]], models: CascadeModels, settings: ArmSettings) -> str:
    """Return the hash of everything that decides the outcome."""
    videos = {role: [asdict(video) for video in of_role] for role, of_role in lessons_of.items()}
    facts = [videos, models.model_version, asdict(settings)]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _shortcomings(manifest: BundleManifest) -> Iterator[str]:
    origin = manifest.provenance.get("target_origin")
    if origin in ("crossfit", "insample") and _learned(manifest):
        yield (
            f"the bundle was trained with origin = {origin}: its teacher learned from conf, on which the arms take it for "
            "new; train the bundle with origin = heldout to compare them"
        )


def _learned(manifest: BundleManifest) -> bool:
    """Tell whether anything of the bundle's teacher was trained with the bundle."""
    settings = manifest.provenance.get("settings")
    teacher = settings.get("teacher") if isinstance(settings, dict) else None
    return not (isinstance(teacher, dict) and teacher.get("learn") == "nothing")


def _to_lessons(roles: Mapping[FitRole, RoleClips], models: CascadeModels, on_progress: OnProgress) -> ArmLessons:
    logits = {role: _ask_teacher(clips, role, models, on_progress) for role, clips in roles.items()}
    return ArmLessons(
        train=clips_for_student(roles["train"]),
        train_teacher_logits_NK=logits["train"],
        conf=clips_for_student(roles["conf"]),
        conf_teacher_logits_NK=logits["conf"],
        teacher_temperature=fit_temperature(logits["cal"], roles["cal"].clip_truth(), models.manifest.label_kind),
    )


def _ask_teacher(
    clips: RoleClips, role: FitRole, models: CascadeModels, on_progress: OnProgress
) -> NDArray[np.float32]:
    pixels = ClipPixels.of(clips.teacher_NTCHW)
    answers_NK = score_teacher(models.teacher.network, models.teacher.spec, pixels)
    done = LESSON_ROLES.index(role) + 1
    on_progress(TrainingProgress(stage="score", step=done, steps=len(LESSON_ROLES), loss=None, accuracy=None))
    return answers_NK


def _train_all(
    folder: Path, lessons: ArmLessons, settings: ArmSettings, models: CascadeModels, on_progress: OnProgress
) -> int:
    """Train what is not in the folder yet; a refinement starts from the plain training of its recipe, as it lies there."""
    folder.mkdir(exist_ok=True)
    wanted = [(recipe, seed) for seed in settings.seeds for recipe in needed_trainings(settings.arms)]
    for recipe, seed in wanted:
        path = folder / weights_name(recipe, seed)
        if path.exists():
            continue
        plain = recipe.without_refinement()
        base = None if recipe == plain else load_arm(folder, plain, seed, settings, models)
        arm = train_arm(recipe, lessons, settings.train_settings(models.manifest), seed, on_progress, base)
        unfinished = path.with_suffix(".new")
        write_weights(arm.network, unfinished)
        unfinished.replace(path)
    return len(wanted)


def _appear(unfinished: Path, folder: Path) -> None:
    try:
        unfinished.rename(folder)
    except OSError as error:
        raise OutputError(str(folder), f"cannot be written ({error.strerror})") from error
