"""Train the students that an ablation compares, against the teacher of a bundle; their folder is what ``evaluate`` reads.

One network per distinct recipe and seed. The teacher is not trained: its answers to ``train`` are imitated, those to
``conf``, which it must never have seen, are judged. A killed run goes on with the next network.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter

from cdmodel.ablation_arms import ArmLessons, TrainedArm, rebuild_arm, train_arm
from cdmodel.bundle import BundleManifest
from cdmodel.calibration_fit import fit_temperature
from cdmodel.descent import OnProgress, TrainingProgress
from cdmodel.errors import BundleError, ConfigError, OutputError, SourceError
from cdmodel.models import CascadeModels, load_bundle
from cdmodel.role_clips import ClipPixels, FitRole, RoleClips, clips_for_student
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.splits import assign_roles
from cdmodel.student_recipes import ABLATIONS, StudentRecipe, needed_trainings
from cdmodel.train_settings import StudentSettings, TrainSettings
from cdmodel.training import score_teacher
from cdmodel.types import LabeledVideo
from cdmodel.weights import load_weights, write_weights
from storage.corpus import CorpusRules
from storage.dataset import read_dataset
from storage.work_folder import hold_work_folder
from tasks.read_clips import ClipViews, read_roles

ARMS_NAME = "arms.json"
SCHEMA_VERSION = 1
LESSON_ROLES: tuple[FitRole, ...] = ("train", "conf", "cal")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSettings:
    """Which ablations are trained, and how often."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    seeds: tuple[int, ...] = (0, 1, 2)
    """One training of every arm each; all arms of a seed start alike and see the same clips."""
    arms: tuple[str, ...] = tuple(ABLATIONS)
    """Names of ablations, see docs/evaluation.md; by default all."""
    steps: int = 2000
    learning_rate: float = 0.004
    clips_per_step: int = 32
    background_weight: float = 0.15

    def __post_init__(self) -> None:
        unknown = [arm for arm in self.arms if arm not in ABLATIONS]
        if unknown:
            raise ConfigError("arms", f"{', '.join(unknown)} is no ablation; there are {', '.join(ABLATIONS)}")
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("seeds", f"must be different numbers, none negative, got {list(self.seeds)}")

    def train_settings(self, manifest: BundleManifest) -> TrainSettings:
        """Return the settings of a training whose student has the shape of the bundle's."""
        arguments = {k: v for k, v in manifest.student.arguments.items() if k != "detach_teacher_head"}
        return TrainSettings(
            label_kind=manifest.label_kind,
            clips_per_step=self.clips_per_step,
            background_weight=self.background_weight,
            allowed_builders=(manifest.student.builder.partition(":")[0],),
            sampling=manifest.sampling,
            student=StudentSettings(
                builder=manifest.student.builder,
                arguments=arguments,
                geometry=manifest.student.geometry,
                steps=self.steps,
                learning_rate=self.learning_rate,
            ),
        )


_SETTINGS = TypeAdapter(ArmSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedArms:
    """What was written."""

    folder: Path
    networks: int
    videos_used: int
    videos_skipped: int


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
        OutputError: ``out`` holds something else, or is being written.
        SourceError: the data set has no videos in train, conf or cal, or labels that the bundle does not know.
        TrainingError: no video of a role can be read, or a loss is no longer a number.
    """
    folder = Path(out)
    if (folder / ARMS_NAME).exists():
        raise OutputError(out, "holds trained arms already; name a new folder")
    models = load_bundle(bundle)
    lessons_of = _by_role(dataset, models.manifest, videos, corpus)
    key = hashlib.sha256(
        json.dumps([dataset, models.model_version, asdict(settings)], sort_keys=True).encode()
    ).hexdigest()
    views = ClipViews(
        sampling=models.manifest.sampling, student=models.student.geometry, teacher=models.teacher.geometry
    )
    with hold_work_folder(folder, key) as work:
        read = read_roles(lessons_of, models.manifest.labels, views, work.path / "clips", on_progress)
        lessons = _to_lessons(read.roles, models, on_progress)
        folder.mkdir(parents=True, exist_ok=True)
        networks = _train_all(folder, lessons, settings, settings.train_settings(models.manifest), on_progress)
        _write_index(folder, models, settings)
        work.remove()
    return TrainedArms(
        folder=folder,
        networks=networks,
        videos_used=sum(len(clips.videos) for clips in read.roles.values()),
        videos_skipped=len(read.skipped),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedArms:
    """The networks of a folder of arms, ready to score."""

    seeds: tuple[int, ...]
    networks: Mapping[str, tuple[TrainedArm, ...]]
    """By the name of the ablation, one for each seed; ablations with one recipe share theirs."""


def load_arms(folder: Path, models: CascadeModels) -> LoadedArms:
    """Read the arms in ``folder``, which must have been trained against the teacher of ``models``.

    Raises:
        BundleError: the folder holds no arms, or those of another teacher, or is damaged.
    """
    try:
        index = json.loads((folder / ARMS_NAME).read_bytes())
        if index["schema_version"] != SCHEMA_VERSION:
            raise BundleError(str(folder), f"arms of schema {index['schema_version']} are unknown to this version")
        settings = _SETTINGS.validate_python(index["settings"])
        teacher = index["teacher_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(str(folder), f"holds no trained arms ({error})") from error
    if teacher != models.manifest.teacher.weights_sha256:
        raise BundleError(str(folder), "these arms were trained against another teacher")
    train_settings = settings.train_settings(models.manifest)
    networks: dict[str, tuple[TrainedArm, ...]] = {}
    for recipe, names in needed_trainings(settings.arms).items():
        loaded = tuple(_load_arm(folder, recipe, seed, train_settings, models) for seed in settings.seeds)
        networks |= dict.fromkeys(names, loaded)
    return LoadedArms(seeds=settings.seeds, networks=networks)


def _by_role(
    dataset: str, manifest: BundleManifest, place: str | None, corpus: CorpusRules | None
) -> dict[FitRole, tuple[LabeledVideo, ...]]:
    found = read_dataset(dataset, corpus, videos=place, label_kind=manifest.label_kind)
    videos = assign_roles(found.videos, seed=0)
    unknown = sorted({label for video in videos for label in video.labels} - set(manifest.labels))
    if unknown:
        raise SourceError(dataset, f"the bundle does not know the labels {', '.join(unknown[:10])}")
    divided = {role: tuple(video for video in videos if video.split == role) for role in LESSON_ROLES}
    missing = [role for role, of_role in divided.items() if not of_role]
    if missing:
        raise SourceError(dataset, f"no video for {', '.join(missing)}")
    return divided


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
    on_progress(TrainingProgress(stage="teacher", step=LESSON_ROLES.index(role), steps=3, loss=None, accuracy=None))
    return score_teacher(models.teacher.network, models.teacher.spec, pixels)


def _train_all(
    folder: Path, lessons: ArmLessons, settings: ArmSettings, train_settings: TrainSettings, on_progress: OnProgress
) -> int:
    """Train what is not there yet; a refinement starts from the plain training of its recipe."""
    networks = 0
    for seed in settings.seeds:
        bases: dict[StudentRecipe, TrainedArm] = {}
        for recipe in needed_trainings(settings.arms):
            networks += 1
            path = folder / _weights_name(recipe, seed)
            needed_as_base = any(
                other.refinement != "none" and other.without_refinement() == recipe
                for other in needed_trainings(settings.arms)
            )
            if path.exists() and not needed_as_base:
                continue
            base = bases.get(recipe.without_refinement()) if recipe.refinement != "none" else None
            arm = train_arm(recipe, lessons, train_settings, seed, on_progress, base)
            if needed_as_base:
                bases[recipe] = arm
            unfinished = path.with_suffix(".new")
            write_weights(arm.network, unfinished)
            unfinished.replace(path)
    return networks


def _write_index(folder: Path, models: CascadeModels, settings: ArmSettings) -> None:
    """Write the file that makes the folder one of arms, last."""
    index = {
        "schema_version": SCHEMA_VERSION,
        "model_version": models.model_version,
        "teacher_sha256": models.manifest.teacher.weights_sha256,
        "settings": _SETTINGS.dump_python(settings, mode="json"),
    }
    (folder / ARMS_NAME).write_text(json.dumps(index, indent=2) + "\n")


def _load_arm(
    folder: Path, recipe: StudentRecipe, seed: int, settings: TrainSettings, models: CascadeModels
) -> TrainedArm:
    network = rebuild_arm(recipe, settings, len(models.manifest.labels))
    load_weights(network, folder / _weights_name(recipe, seed), head="")
    return TrainedArm(recipe=recipe, network=network.eval(), spec=models.manifest.student)


def _weights_name(recipe: StudentRecipe, seed: int) -> str:
    """Name a training by what it is, so that no list of arms can mix two up."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]
    return f"{digest}-{seed}.safetensors"
