"""Where a training run gets its teacher from: a builder, a file of weights, a Hugging Face folder, another bundle.

Knows nothing of training or of clips. Importing it does not load transformers.
N clips, T frames, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import JsonValue
from torch import nn

from cdmodel.bundle import (
    MANIFEST_NAME,
    TEACHER_FOLDER,
    TEACHER_WEIGHTS,
    ModelSpec,
    check_builder,
    find_teacher,
    read_manifest,
    weights_sha256,
)
from cdmodel.errors import BundleError, ConfigError, SourceError
from cdmodel.models import build_network
from cdmodel.sampling import ClipGeometry
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.weights import (
    LoadedWeights,
    LoadsPublished,
    WritesFolder,
    find_head,
    load_weights,
    write_weights,
)

BUILTIN_TEACHER = "cdmodel.teacher:build_teacher"
HUGGING_FACE_TEACHER = "cdmodel.hf_teacher:build_hf_teacher"
BUILTIN_GEOMETRY = ClipGeometry(frames=16, height=64, width=64)
GREY, SPREAD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

Learn = Literal["all", "head", "nothing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSettings:
    """Where the teacher comes from, and what it still learns."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    builder: str = BUILTIN_TEACHER
    """``module:function``; called with num_classes, frames, height, width and ``arguments``."""
    arguments: dict[str, JsonValue] = field(default_factory=dict)
    """Of the builder; docs/teachers.md lists those of each teacher."""
    geometry: ClipGeometry = BUILTIN_GEOMETRY
    """What it sees of a clip; a Hugging Face folder's own where this is left as it is."""
    mean: tuple[float, float, float] = GREY
    """Per RGB channel, of pixels scaled to 0..1; a Hugging Face folder's own where this and ``std`` are left."""
    std: tuple[float, float, float] = SPREAD
    """Input is (pixel / 255 - mean) / std."""
    weights: str | None = None
    """A .safetensors file, a Hugging Face folder, or a bundle's folder, whose teacher is then taken as it is there."""
    labels: str | None = None
    """Text file, one class per line, in the order of the outputs of ``weights``. Its head is then kept."""
    learn: Learn = "all"
    """``head``: the last linear layer only. ``nothing``: answer as ``weights`` do, with their classes."""
    steps: int = 1500
    learning_rate: float = 0.004
    """The highest; it rises to it and falls from it again (one cycle)."""

    def __post_init__(self) -> None:
        if self.learn == "nothing" and self.weights is None:
            raise ConfigError("teacher.learn", "a teacher that learns nothing needs weights; set teacher.weights")
        if self.labels is not None and self.weights is None:
            raise ConfigError("teacher.labels", "name the outputs of given weights; set teacher.weights too")
        if self.weights is not None and "://" in self.weights:
            raise ConfigError("teacher.weights", f"must be a local file or folder, got {self.weights}")
        if self.steps < 2:
            raise ConfigError("teacher.steps", f"must be at least 2, got {self.steps}")
        if not 0 < self.learning_rate < 1:
            raise ConfigError("teacher.learning_rate", f"must be above 0 and below 1, got {self.learning_rate}")
        if not min(self.std) > 0:
            raise ConfigError("teacher.std", f"must be above 0, got {self.std}")


def known_labels(settings: TeacherSettings) -> tuple[str, ...] | None:
    """Return the classes that a given teacher answers with, in the order of its outputs.

    None where training makes the head anew: for a teacher that starts from scratch, and for one that learns from a file
    or a Hugging Face folder whose classes ``labels`` does not name. A bundle keeps its classes.

    Raises:
        BundleError: the weights cannot be read.
        ConfigError: a teacher that learns nothing does not name its classes.
        SourceError: the file of labels cannot be used.
    """
    if not _keeps_head(settings):
        return None
    if settings.labels is not None:
        return _check_distinct(settings.labels, _read_lines(Path(settings.labels)))
    path = Path(str(settings.weights))
    if _is_bundle(path):
        return read_manifest(path).labels
    labels = _read_folder_labels(path)
    if labels is None:
        raise ConfigError("teacher.labels", f"{path} does not name its classes; give a file that does")
    return _check_distinct(str(path), labels)


def check_known(dataset: str, labels: Sequence[str], known: Sequence[str]) -> None:
    """Refuse a data set with labels that the teacher does not answer with.

    Raises:
        SourceError: naming them, and what they may have been meant for.
    """
    unknown = sorted(set(labels) - set(known))
    if not unknown:
        return
    parts = []
    for label in unknown[:5]:
        close = difflib.get_close_matches(label, known, n=1)
        parts.append(f"{label!r} (close: {close[0]!r})" if close else repr(label))
    more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
    raise SourceError(dataset, f"the teacher does not know the labels {', '.join(parts)}{more}")


def describe_teacher(settings: TeacherSettings) -> ModelSpec:
    """Return what the teacher is and sees, without its weights' hash; builds nothing.

    Raises:
        BundleError: ``weights`` is missing, or a folder that cannot be read.
    """
    spec = ModelSpec(
        builder=settings.builder,
        arguments=settings.arguments,
        geometry=settings.geometry,
        mean=settings.mean,
        std=settings.std,
        weights_sha256="",
    )
    path = None if settings.weights is None else Path(settings.weights)
    if path is None or path.is_file():
        return spec
    if not path.is_dir():
        raise BundleError(str(path), "there is no such file or folder")
    if _is_bundle(path):
        return replace(read_manifest(path).teacher, weights_sha256="")
    return _describe_folder(spec, path)


def open_teacher(
    settings: TeacherSettings, num_classes: int, allowed_builders: Sequence[str]
) -> tuple[nn.Module, ModelSpec]:
    """Build the teacher with its initial weights; the spec does not name them yet.

    The head is as in ``weights`` where ``known_labels`` has an answer, else new.

    Raises:
        BundleError: the builder is refused, or the weights do not fit it, or answer with other classes.
    """
    spec = describe_teacher(settings)
    if settings.weights is None:
        return build_network(spec, num_classes, allowed_builders), spec
    path = Path(settings.weights)
    source = find_teacher(path) if _is_bundle(path) else path
    open_with = _open_with_head if _keeps_head(settings) else _open_without_head
    return open_with(spec, source, num_classes, allowed_builders), spec


def choose_parameters(network: nn.Module, learn: Learn, num_classes: int) -> list[nn.Parameter]:
    """Return the parameters that learn, and set ``requires_grad`` of all accordingly.

    ``all`` are those that the builder left trainable, ``head`` those of the last linear layer with K outputs.

    Raises:
        BundleError: there is no such layer.
    """
    match learn:
        case "all":
            return [parameter for parameter in network.parameters() if parameter.requires_grad]
        case "head":
            head = find_head(network, num_classes)[1]
            network.requires_grad_(requires_grad=False)
            head.requires_grad_(requires_grad=True)
            return list(head.parameters())
        case "nothing":
            network.requires_grad_(requires_grad=False)
            return []


def enter_training(network: nn.Module) -> None:
    """Switch to training mode all but the modules whose parameters are all frozen: their batch norms stay as they are.

    ``network.train()`` alone would change the running statistics of a teacher of which only the head learns.
    """
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


def write_teacher(network: nn.Module, spec: ModelSpec, folder: Path) -> ModelSpec:
    """Write ``teacher.safetensors``, or ``teacher/`` for a network that is a folder, and return the spec with its hash.

    Raises:
        OSError: it cannot be written.
    """
    if isinstance(network, WritesFolder):
        target = folder / TEACHER_FOLDER
        network.write(target)
    else:
        target = folder / TEACHER_WEIGHTS
        write_weights(network, target)
    return replace(spec, weights_sha256=weights_sha256(target))


def _keeps_head(settings: TeacherSettings) -> bool:
    if settings.weights is None:
        return False
    return settings.learn == "nothing" or settings.labels is not None or _is_bundle(Path(settings.weights))


def _is_bundle(path: Path) -> bool:
    return (path / MANIFEST_NAME).is_file()


def _read_lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SourceError(str(path), f"the labels cannot be read: {error}") from error
    return tuple(line.strip() for line in lines if line.strip())


def _check_distinct(subject: str, labels: tuple[str, ...]) -> tuple[str, ...]:
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise SourceError(subject, f"names the class {twice[0]!r} twice")
    if len(labels) < 2:
        raise SourceError(subject, f"a teacher needs at least two classes, found {len(labels)}")
    return labels


def _read_folder_labels(path: Path) -> tuple[str, ...] | None:
    if not path.is_dir() or not (path / "config.json").exists():
        return None
    from cdmodel.hf_teacher import read_facts

    return read_facts(path).labels


def _describe_folder(spec: ModelSpec, folder: Path) -> ModelSpec:
    """Fill in what the folder says of itself, unless a builder of the user's own is to read it."""
    if spec.builder not in (BUILTIN_TEACHER, HUGGING_FACE_TEACHER):
        return spec
    if not (folder / "config.json").is_file():
        raise BundleError(str(folder), f"is neither a bundle ({MANIFEST_NAME}) nor a Hugging Face model (config.json)")
    from cdmodel.hf_teacher import read_facts

    facts = read_facts(folder)
    mean, std = spec.mean, spec.std
    if (mean, std) == (GREY, SPREAD):
        if facts.mean is None or facts.std is None:
            raise BundleError(str(folder), "does not say how pixels are normalised; set teacher.mean and teacher.std")
        mean, std = facts.mean, facts.std
    geometry = facts.geometry if spec.geometry == BUILTIN_GEOMETRY else spec.geometry
    return replace(spec, builder=HUGGING_FACE_TEACHER, geometry=geometry, mean=mean, std=std)


def _open_with_head(spec: ModelSpec, source: Path, num_classes: int, allowed_builders: Sequence[str]) -> nn.Module:
    if source.is_dir():
        return build_network(spec, num_classes, allowed_builders, source)
    network = build_network(spec, num_classes, allowed_builders)
    facts = _load(network, source, num_classes)
    if facts.new:
        raise BundleError(str(source), f"has no head of {num_classes} classes: {facts.new[0]} is missing or differs")
    return network


def _open_without_head(spec: ModelSpec, source: Path, num_classes: int, allowed_builders: Sequence[str]) -> nn.Module:
    if spec.builder == HUGGING_FACE_TEACHER:
        check_builder(str(source), spec.builder, allowed_builders)
        from cdmodel.hf_teacher import open_with_new_head

        return open_with_new_head(source, spec.geometry, num_classes)
    if source.is_dir():
        network = build_network(spec, num_classes, allowed_builders, source)
    else:
        network = build_network(spec, num_classes, allowed_builders)
        _load(network, source, num_classes)
    find_head(network, num_classes)[1].reset_parameters()
    return network


def _load(network: nn.Module, path: Path, num_classes: int) -> LoadedWeights:
    if isinstance(network, LoadsPublished):
        return network.load_published(path)
    return load_weights(network, path, find_head(network, num_classes)[0])
