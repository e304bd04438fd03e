"""A teacher from ``torchvision.models.video``, by name, where torchvision is installed.

Weights come from the bundle or a safetensors file with torchvision's own parameter names; nothing is downloaded.
N clips, T frames, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from torch import Tensor, nn

from cdmodel.errors import BundleError
from cdmodel.weights import LoadedWeights, fill_network, find_head, read_weights

MODELS = (
    "mc3_18",
    "mvit_v1_b",
    "mvit_v2_s",
    "r2plus1d_18",
    "r3d_18",
    "s3d",
    "swin3d_b",
    "swin3d_s",
    "swin3d_t",
)
"""A bundle chooses among these names, not among everything that torchvision can call."""
FIXED_GEOMETRY = {"mvit_v1_b": (16, 224, 224), "mvit_v2_s": (16, 224, 224)}
"""Frames, height and width that a model's position embeddings are made for."""

_OWN = "model."


def build_torchvision_teacher(
    *, num_classes: int, frames: int, height: int, width: int, model: str = "r2plus1d_18"
) -> nn.Module:
    """Return a network that maps normalised RGB clips [N, T, 3, H, W] to logits [N, K], with random weights.

    Raises:
        BundleError: torchvision cannot be imported here.
        ValueError: it has no such model, or the model takes clips of another size.
    """
    if model not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {model!r}")
    geometry = (frames, height, width)
    if FIXED_GEOMETRY.get(model, geometry) != geometry:
        raise ValueError(f"{model} takes frames, height and width {FIXED_GEOMETRY[model]}, got {geometry}")
    try:
        # RuntimeError: a torchvision built for another torch cannot register its operators.
        video_models = importlib.import_module("torchvision.models.video")
    except (ImportError, RuntimeError) as error:
        raise BundleError("torchvision", f"the teacher {model} needs it, and it cannot be imported: {error}") from error
    return TorchvisionTeacher(getattr(video_models, model)(weights=None, num_classes=num_classes), num_classes)


class TorchvisionTeacher(nn.Module):
    """One of torchvision's video classifiers, which want channels before frames."""

    def __init__(self, model: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.model = model
        self._num_classes = num_classes

    def forward(self, clips_NTCHW: Tensor) -> Tensor:
        """Return logits [N, K]."""
        logits_NK: Tensor = self.model(clips_NTCHW.transpose(1, 2))
        return logits_NK

    def load_published(self, path: Path) -> LoadedWeights:
        """Take over a checkpoint of torchvision's, or of this module; the classifier stays new with other classes.

        Raises:
            BundleError: naming the first parameter that is missing, mis-shaped or unexpected.
        """
        tensors = {f"{_OWN}{name.removeprefix(_OWN)}": tensor for name, tensor in read_weights(path).items()}
        return fill_network(self, tensors, path, find_head(self, self._num_classes)[0])
