"""The folder of students that an ablation trained: ``arms.json`` and one safetensors file for each network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from cdmodel.ablation_arms import TrainedArm, rebuild_arm
from cdmodel.bundle import BundleManifest, file_sha256
from cdmodel.errors import BundleError, ConfigError
from cdmodel.models import CascadeModels
from cdmodel.student_recipes import ABLATIONS, StudentRecipe, needed_trainings
from cdmodel.weights import load_weights
from tasks.arm_settings import ArmSettings, shared_arguments

ARMS_NAME = "arms.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedArms:
    """The networks of a folder of arms, ready to score."""

    seeds: tuple[int, ...]
    networks: Mapping[str, tuple[TrainedArm, ...]]
    """By the name of the ablation, one for each seed; ablations with one recipe share theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Index:
    """What ``arms.json`` says."""

    schema_version: Literal[1] = 1
    model_version: str
    """Of the bundle whose teacher was imitated."""
    teacher_sha256: str
    settings: ArmSettings
    shape: str | None = None
    """Hash of what the arms share with the bundle; None in folders from before it was written down."""
    weights_sha256: dict[str, str] = field(default_factory=dict)
    """By file name; empty in folders from before it was written down."""


_INDEX = TypeAdapter(_Index)


def load_arms(folder: Path, models: CascadeModels) -> LoadedArms:
    """Read the arms in ``folder``, which must have been trained against the teacher of ``models``.

    Raises:
        BundleError: the folder holds no arms, or those of another teacher or another shape of student, or is damaged.
    """
    index = _read_index(folder)
    if index.teacher_sha256 != models.manifest.teacher.weights_sha256:
        raise BundleError(str(folder), "these arms were trained against another teacher")
    if index.shape is not None and index.shape != _shape_of(models.manifest):
        raise BundleError(str(folder), "these arms have the student or the clips of another bundle")
    for name, sha256 in index.weights_sha256.items():
        if not (folder / name).exists() or file_sha256(folder / name) != sha256:
            raise BundleError(str(folder / name), f"is missing or differs from the hash in {ARMS_NAME}; train it again")
    settings = index.settings
    networks: dict[str, tuple[TrainedArm, ...]] = {}
    for recipe, names in needed_trainings(settings.arms).items():
        if names:
            loaded = tuple(load_arm(folder, recipe, seed, settings, models) for seed in settings.seeds)
            # Also ablations that were not asked for by name, or not known yet: what counts is how their student learned.
            networks |= dict.fromkeys((name for name in ABLATIONS if ABLATIONS[name] == recipe), loaded)
    return LoadedArms(seeds=settings.seeds, networks=networks)


def load_arm(
    folder: Path, recipe: StudentRecipe, seed: int, settings: ArmSettings, models: CascadeModels
) -> TrainedArm:
    """Read one network of a folder that is finished or not.

    Raises:
        BundleError: it is missing, or has another shape.
    """
    arm = rebuild_arm(recipe, settings.train_settings(models.manifest), len(models.manifest.labels))
    load_weights(arm.network, folder / weights_name(recipe, seed), head="")
    return arm


def write_index(folder: Path, models: CascadeModels, settings: ArmSettings) -> None:
    """Write the file that makes the folder one of arms, last."""
    index = _Index(
        model_version=models.model_version,
        teacher_sha256=models.manifest.teacher.weights_sha256,
        settings=settings,
        shape=_shape_of(models.manifest),
        weights_sha256={path.name: file_sha256(path) for path in sorted(folder.glob("*.safetensors"))},
    )
    (folder / ARMS_NAME).write_bytes(_INDEX.dump_json(index, indent=2) + b"\n")


def weights_name(recipe: StudentRecipe, seed: int) -> str:
    """Name a training by what it is, so that no list of arms can mix two up."""
    digest = hashlib.sha256(json.dumps(asdict(recipe), sort_keys=True).encode()).hexdigest()[:12]
    return f"{digest}-{seed}.safetensors"


def _read_index(folder: Path) -> _Index:
    try:
        return _INDEX.validate_json((folder / ARMS_NAME).read_bytes())
    except OSError as error:
        raise BundleError(
            str(folder), f"holds no trained arms: {ARMS_NAME} cannot be read ({error.strerror})"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or ARMS_NAME
        raise BundleError(str(folder), f"{ARMS_NAME} is damaged at {where}: {first['msg']}") from error
    except ConfigError as error:
        raise BundleError(str(folder), f"{ARMS_NAME} is damaged at settings.{error}") from error


def _shape_of(manifest: BundleManifest) -> str:
    """Return the hash of labels, clips and the student's shape: arms score only where all of them are the same."""
    student = manifest.student
    facts = [
        manifest.labels,
        manifest.label_kind,
        asdict(manifest.sampling),
        student.builder,
        shared_arguments(manifest),
        asdict(student.geometry),
    ]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
