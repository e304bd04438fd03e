"""A teacher from a Hugging Face model folder: any video classifier that transformers itself knows.

VideoMAE, V-JEPA 2, TimeSformer, ViViT, VideoPrism. Reads ``config.json`` and safetensors of a local folder, nothing
else: no code of the folder is run, no pickle is opened, no network is touched. transformers is imported on use.
N clips, T frames, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from cdmodel.errors import BundleError
from cdmodel.sampling import ClipGeometry
from cdmodel.weights import find_head

CONFIG_NAME = "config.json"
PREPROCESSOR_NAMES = ("video_preprocessor_config.json", "preprocessor_config.json")
REFUSED_FILES = ("adapter_config.json",)
"""Names another model, which would be fetched."""
REFUSED_KEYS = ("auto_map", "quantization_config", "attn_implementation", "_attn_implementation", "use_kernels")
"""Of ``config.json``: each can name code that is not transformers' own."""
ANY_GEOMETRY = ("timesformer", "vjepa2")
"""Model types that take clips of other sizes than they were trained with."""
_MADE_UP_LABEL = re.compile(r"LABEL_\d+")

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class FolderFacts:
    """What a model folder says of its model."""

    geometry: ClipGeometry
    """As it was trained."""
    mean: Triple | None
    """Of pixels scaled to 0..1, with ``std`` as in a ModelSpec; None where the folder does not say."""
    std: Triple | None
    labels: tuple[str, ...] | None
    """In the order of the outputs; None where they are numbers only."""


def build_hf_teacher(*, num_classes: int, frames: int, height: int, width: int, folder: str) -> nn.Module:
    """Return the folder's network, with its weights; maps normalised RGB clips [N, T, 3, H, W] to logits [N, K].

    Raises:
        BundleError: the folder is refused or damaged, or transformers is not installed.
        ValueError: the model answers with other classes, or takes clips of another size.
    """
    config = _read_config(Path(folder))
    if config.num_labels != num_classes:
        raise ValueError(f"{folder} answers with {config.num_labels} classes, not {num_classes}")
    _check_geometry(config, ClipGeometry(frames=frames, height=height, width=width))
    return _load(Path(folder), num_classes, may_be_new="")


def open_with_new_head(folder: Path, geometry: ClipGeometry, num_classes: int) -> HuggingFaceTeacher:
    """Return the folder's network with a new, untrained classifier of K classes, whatever the folder's own is.

    Raises:
        BundleError: as ``build_hf_teacher``, or the model takes clips of another size.
    """
    try:
        _check_geometry(_read_config(folder), geometry)
    except ValueError as error:
        raise BundleError(str(folder), str(error)) from error
    teacher = _load(folder, num_classes, may_be_new=None)
    find_head(teacher, num_classes)[1].reset_parameters()
    return teacher


def read_facts(folder: Path) -> FolderFacts:
    """Read what the folder says of geometry, normalisation and labels; loads no weights.

    Raises:
        BundleError: the folder is refused or damaged, or transformers is not installed.
    """
    config = _read_config(folder)
    mean, std = _read_normalisation(folder)
    labels = tuple(str(config.id2label[index]) for index in range(config.num_labels))
    made_up = all(_MADE_UP_LABEL.fullmatch(label) for label in labels)
    return FolderFacts(geometry=_geometry_of(config), mean=mean, std=std, labels=None if made_up else labels)


class HuggingFaceTeacher(nn.Module):
    """One of transformers' video classifiers, called as all teachers are."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips_NTCHW: Tensor) -> Tensor:
        """Return logits [N, K]."""
        logits: Tensor = self.model(**{self.model.main_input_name: clips_NTCHW}).logits
        # VideoPrism answers [N, 1, K].
        return logits.flatten(0, -2)

    def write(self, folder: Path) -> None:
        """Write ``config.json`` and safetensors into the folder, which is made."""
        self.model.save_pretrained(folder)


def _read_config(folder: Path) -> Any:
    """Return transformers' configuration of the folder, after a look at what it asks for."""
    raw = _read_json(folder / CONFIG_NAME)
    for key in REFUSED_KEYS:
        if raw.get(key) is not None:
            raise BundleError(str(folder), f"{CONFIG_NAME} has {key!r}, which can name foreign code and is never used")
    for name in REFUSED_FILES:
        if (folder / name).exists():
            raise BundleError(str(folder), f"{name} names another model; merge the adapter into the weights first")
    for index in folder.glob("*.index.json"):
        _check_shards(index)
    transformers = _import_transformers()
    with _transformers_errors(folder, f"{CONFIG_NAME} cannot be used"):
        return transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def _check_shards(index: Path) -> None:
    shards = _read_json(index).get("weight_map")
    names = set(map(str, shards.values())) if isinstance(shards, dict) else {""}
    for name in sorted(names):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise BundleError(str(index), f"{name!r} is no safetensors file beside it")


def _load(folder: Path, num_classes: int, may_be_new: str | None) -> HuggingFaceTeacher:
    """Load the network; ``may_be_new`` is the module whose weights the folder may lack, None the classifier."""
    transformers = _import_transformers()
    with _transformers_errors(folder, "the model cannot be loaded"):
        model, facts = transformers.AutoModelForVideoClassification.from_pretrained(
            str(folder),
            num_labels=num_classes,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are reported, and refused below
            output_loading_info=True,
        )
    head = find_head(model, num_classes)[0] if may_be_new is None else may_be_new
    _refuse_misfits(folder, facts["missing_keys"], "is missing", head)
    _refuse_misfits(folder, [key[0] for key in facts["mismatched_keys"]], "has another shape", head)
    return HuggingFaceTeacher(model.eval())


def _refuse_misfits(folder: Path, names: Collection[str], what: str, head: str) -> None:
    misfits = sorted(name for name in names if not (head and name.startswith(f"{head}.")))
    if misfits:
        raise BundleError(str(folder), f"{misfits[0]} {what}")


def _check_geometry(config: Any, geometry: ClipGeometry) -> None:
    own = _geometry_of(config)
    if config.model_type not in ANY_GEOMETRY and geometry != own:
        raise ValueError(
            f"a {config.model_type} of this folder takes {own.frames} frames of {own.height} x {own.width}, "
            f"got {geometry.frames} of {geometry.height} x {geometry.width}"
        )


def _geometry_of(config: Any) -> ClipGeometry:
    frames = getattr(config, "num_frames", None) or config.frames_per_clip
    size = getattr(config, "image_size", None) or config.crop_size
    height, width = (size, size) if isinstance(size, int) else size
    return ClipGeometry(frames=int(frames), height=int(height), width=int(width))


def _read_normalisation(folder: Path) -> tuple[Triple | None, Triple | None]:
    """Return mean and std of pixels scaled to 0..1 that do what the folder's preprocessor does to bytes."""
    path = next((folder / name for name in PREPROCESSOR_NAMES if (folder / name).exists()), None)
    if path is None:
        return None, None
    settings = _read_json(path)
    try:
        # What it does: ((byte * rescale_factor) - offset - image_mean) / image_std.
        scale = 255 * float(settings.get("rescale_factor", 1 / 255)) if settings.get("do_rescale", True) else 255.0
        offset = 1.0 if settings.get("offset", False) else 0.0
        normalises = settings.get("do_normalize", True)
        mean = _triple(settings["image_mean"]) if normalises else (0.0, 0.0, 0.0)
        std = _triple(settings["image_std"]) if normalises else (1.0, 1.0, 1.0)
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(str(path), f"cannot be used: {error!r}") from error
    return (
        _triple([(offset + value) / scale for value in mean]),
        _triple([value / scale for value in std]),
    )


def _triple(values: Collection[float]) -> Triple:
    red, green, blue = (round(float(value), 9) for value in values)
    return red, green, blue


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BundleError(str(path), f"cannot be read: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise BundleError(str(path), "holds no JSON object")
    return content


def _import_transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise BundleError("transformers", "a Hugging Face teacher needs it: pip install 'cdlabel[hf]'") from error
    # What they would say (bars, reports of new parameters) is said by our own errors.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    return transformers


@contextmanager
def _transformers_errors(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a damaged configuration makes transformers raise anything
        raise BundleError(str(folder), f"{what}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error) or repr(error)).strip().splitlines()[0]
