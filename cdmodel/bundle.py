"""A model bundle: one folder with ``bundle.json``, ``student.safetensors``, ``teacher.safetensors`` or ``teacher/``.

``teacher/`` is a flat folder, such as Hugging Face writes: configuration and weights of a network that its builder
reads itself. Torch-free: reads, checks and names a bundle; ``models`` builds the networks. Nothing is ever unpickled. A bundle's
version is the hash of its manifest, which holds the hashes of its weights, so equal versions mean equal bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field, JsonValue, TypeAdapter, ValidationError
from typing_extensions import Annotated

from cdmodel.aggregation import Aggregation
from cdmodel.calibration import Calibration
from cdmodel.drift import ConfidenceReference
from cdmodel.errors import BundleError
from cdmodel.labels import LabelKind
from cdmodel.policies import EscalationPolicy
from cdmodel.risk import RiskCurve
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.setting_groups import FORBID_UNKNOWN

SCHEMA_VERSION: Final = 2
MANIFEST_NAME = "bundle.json"
STUDENT_WEIGHTS = "student.safetensors"
TEACHER_WEIGHTS = "teacher.safetensors"
TEACHER_FOLDER = "teacher"
"""Stands in the place of ``teacher.safetensors``."""
TEACHER_FOLDER_SUFFIXES = (".safetensors", ".json", ".txt")
BUNDLE_FILES = (MANIFEST_NAME, STUDENT_WEIGHTS, TEACHER_WEIGHTS)
"""Of a bundle whose teacher is one file."""
TRAIN_VIDEOS_BY_LABEL = "train_videos_by_label"
"""In the provenance of a bundle: how many videos of the role ``train`` showed each label."""
DEMO_BUNDLE = Path(__file__).parent / "demo_bundle"
"""The small bundle that ships with the project: kinetic scenes, see ``scenes``."""
BUILTIN_BUILDERS = ("cdmodel.",)
"""Prefixes of builders that are allowed without being named in the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """How to build one network and what to feed it."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    builder: str
    """``module:function``; called with num_classes, frames, height, width and ``arguments``."""
    arguments: dict[str, JsonValue]
    geometry: ClipGeometry
    mean: tuple[float, float, float]
    """Per RGB channel, of pixels scaled to 0..1; input = (pixel / 255 - mean) / std."""
    std: tuple[float, float, float]
    weights_sha256: str
    """Of the file; of a folder as ``weights_sha256`` makes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleManifest:
    """Everything of a bundle but its weights: the contents of ``bundle.json``."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    schema_version: Literal[2]
    labels: tuple[str, ...]
    """Class names; a label's position is its ``label_id``."""
    label_kind: LabelKind = "single"
    """Whether a video has exactly one of the labels or any number of them."""
    sampling: ClipSampling
    student: ModelSpec
    teacher: ModelSpec
    calibration: Calibration
    default_policy: Annotated[EscalationPolicy, Field(discriminator="kind")]
    default_aggregation: Annotated[Aggregation, Field(discriminator="kind")]
    value_at_share: tuple[float, ...] = ()
    """Smallest values of ``video_rank`` that escalate 0 %, 5 % ... 100 % of the clips of ``cal``: budgets are read off it."""
    risk: RiskCurve | None = None
    """Harm of each threshold on the role ``risk``; None where there was no such role, so that nothing is certified."""
    reference: ConfidenceReference | None = None
    """The models' confidence on the videos of ``cal``, against which drift is measured; None: it is not."""
    provenance: dict[str, JsonValue]
    """Where it came from: data, seeds, versions, origin of the confidence targets."""
    metrics: dict[str, JsonValue]
    """What was measured on held-out data, units in the names."""

    def __post_init__(self) -> None:
        if len(self.labels) < 2 or len(set(self.labels)) != len(self.labels):
            raise ValueError(f"a bundle needs at least two distinct labels, got {list(self.labels)}")


_MANIFEST = TypeAdapter(BundleManifest)


def read_manifest(folder: Path) -> BundleManifest:
    """Read and check the bundle in a local folder: schema, weights present, hashes equal.

    Raises:
        BundleError: anything is missing, unreadable, of another schema version, or changed since it was written.
    """
    path = folder / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except OSError as error:
        raise BundleError(
            str(folder), f"not a model bundle: {MANIFEST_NAME} cannot be read ({error.strerror})"
        ) from error
    manifest = parse_manifest(str(folder), text)
    _check_weights(folder / STUDENT_WEIGHTS, manifest.student)
    _check_weights(find_teacher(folder), manifest.teacher)
    return manifest


def parse_manifest(subject: str, text: bytes) -> BundleManifest:
    """Return what the contents of a ``bundle.json`` say; the weights are not looked at. ``subject`` names it in errors.

    Raises:
        BundleError: it is damaged, or of another schema version.
    """
    _refuse_other_schema(subject, text)
    try:
        return _MANIFEST.validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or MANIFEST_NAME
        raise BundleError(subject, f"{MANIFEST_NAME} is damaged at {where}: {first['msg']}") from error


def write_manifest(folder: Path, manifest: BundleManifest) -> None:
    """Write ``bundle.json``; the weights it names must already stand beside it."""
    _check_weights(folder / STUDENT_WEIGHTS, manifest.student)
    _check_weights(find_teacher(folder), manifest.teacher)
    (folder / MANIFEST_NAME).write_bytes(_MANIFEST.dump_json(manifest, indent=2) + b"\n")


def model_version(manifest: BundleManifest) -> str:
    """Return the bundle's name in every table: ``m-`` and 12 hex digits of its content's hash."""
    # A field that came later is left out where it holds nothing, so that older bundles keep their names.
    later = {"reference"} if manifest.reference is None else None
    return "m-" + hashlib.sha256(_MANIFEST.dump_json(manifest, exclude=later)).hexdigest()[:12]


def training_seed(manifest: BundleManifest) -> int:
    """Return the seed that divided the videos of a bundle's training; another one would put what it learned into ``test``."""
    settings = manifest.provenance.get("settings")
    seed = settings.get("seed") if isinstance(settings, dict) else None
    return seed if isinstance(seed, int) else 0


def untaught_labels(manifest: BundleManifest) -> tuple[str, ...]:
    """Return the labels that no training video showed; none where the bundle does not tell, as earlier ones do not."""
    shown = manifest.provenance.get(TRAIN_VIDEOS_BY_LABEL)
    return tuple(label for label in manifest.labels if not shown.get(label)) if isinstance(shown, dict) else ()


def check_builder(subject: str, builder: str, allowed_prefixes: Sequence[str]) -> None:
    """Refuse a builder that neither this project nor the configuration allows.

    Raises:
        BundleError: naming the builder and the setting that would allow it.
    """
    module, separator, function = builder.partition(":")
    if not (separator and module and function):
        raise BundleError(subject, f"builder {builder!r} is not of the form module:function")
    # Whole names only: allowing ``acme`` must not allow ``acme_evil``.
    if not any(f"{module}.".startswith(f"{prefix.rstrip('.')}.") for prefix in allowed_prefixes):
        raise BundleError(
            subject, f"builder {builder!r} is not allowed; add its module to models.allowed_builders if you trust it"
        )


def find_teacher(folder: Path) -> Path:
    """Return where the teacher's weights of a bundle lie: its file ``teacher.safetensors``, or its folder ``teacher``.

    Raises:
        BundleError: both are there.
    """
    file, directory = folder / TEACHER_WEIGHTS, folder / TEACHER_FOLDER
    if file.exists() and directory.exists():
        raise BundleError(str(folder), f"holds both {TEACHER_WEIGHTS} and {TEACHER_FOLDER}/; remove one")
    return directory if directory.is_dir() else file


def check_teacher_file(subject: str, name: str) -> None:
    """Refuse a file that has no place in the folder of a teacher: one elsewhere, hidden, or that could hold a pickle.

    Raises:
        BundleError: naming the file.
    """
    is_plain = name and name == name.strip() and not name.startswith(".") and not set(name) & set("/\\:\0")
    if not is_plain or not name.endswith(TEACHER_FOLDER_SUFFIXES):
        raise BundleError(
            subject,
            f"{name!r} has no place in {TEACHER_FOLDER}/, which is flat and holds {' '.join(TEACHER_FOLDER_SUFFIXES)}",
        )


def weights_sha256(path: Path) -> str:
    """Return the hex digest of weights: a file's, or for a folder that of its sorted lines ``name sha256``.

    Raises:
        BundleError: the folder is empty, or holds what has no place there.
        OSError: something cannot be read.
    """
    if not path.is_dir():
        return file_sha256(path)
    files = sorted(path.iterdir(), key=lambda file: file.name)
    if not files:
        raise BundleError(str(path), "weights cannot be read (the folder is empty)")
    for file in files:
        check_teacher_file(str(path), file.name)
    lines = "".join(f"{file.name} {file_sha256(file)}\n" for file in files)
    return hashlib.sha256(lines.encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_other_schema(subject: str, text: bytes) -> None:
    try:
        version = json.loads(text)["schema_version"]
    except (ValueError, TypeError, KeyError) as error:
        raise BundleError(subject, f"{MANIFEST_NAME} is damaged: no schema_version in it") from error
    if version != SCHEMA_VERSION:
        raise BundleError(
            subject, f"bundle schema {version!r} is unknown to this version, which reads schema {SCHEMA_VERSION}"
        )


def _check_weights(path: Path, spec: ModelSpec) -> None:
    try:
        found = weights_sha256(path)
    except OSError as error:
        raise BundleError(str(path), f"weights cannot be read ({error.strerror})") from error
    if found != spec.weights_sha256:
        raise BundleError(str(path), "weights differ from the hash in bundle.json; fetch the bundle again")
