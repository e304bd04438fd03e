"""Weights from a safetensors file into a network, by name. Nothing is ever unpickled.

Knows nothing of bundles: it says what a file gave, what is missing, and what stays as the builder initialised it.
K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from cdmodel.errors import BundleError

PARALLEL_PREFIX = "module."
"""What ``nn.DataParallel`` puts before every name."""
_UNTRAINED_COUNTER = "num_batches_tracked"


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedWeights:
    """What a file gave a network."""

    loaded: tuple[str, ...]
    """Parameters and buffers that were taken from the file, in the network's order."""
    new: tuple[str, ...]
    """Parameters of the head that the file lacks, or has for another number of classes: as the builder made them."""


@runtime_checkable
class LoadsPublished(Protocol):
    """A network that knows more names than its own: those of a published checkpoint of its family."""

    def load_published(self, path: Path) -> LoadedWeights:
        """Take over a file's weights.

        Raises:
            BundleError: the file is not of this network's family.
        """
        ...


@runtime_checkable
class WritesFolder(Protocol):
    """A network that is stored as a folder; its builder reads that folder again."""

    def write(self, folder: Path) -> None:
        """Write configuration and weights into the folder, which is made; safetensors, json and txt only."""
        ...


def load_weights(network: nn.Module, path: Path, head: str) -> LoadedWeights:
    """Take over a file whose names are the network's own; only the module named ``head`` may stay new.

    Raises:
        BundleError: the file cannot be read, or lacks a parameter, has one too many or of another shape; names it.
    """
    return fill_network(network, read_weights(path), path, head)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return a file's tensors by name, floats as float32, without the prefix ``module.``.

    Raises:
        BundleError: the file cannot be read, or is no safetensors file.
    """
    if path.suffix != ".safetensors":
        raise BundleError(str(path), "weights are read from .safetensors files only; docs/teachers.md converts others")
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BundleError(str(path), f"weights cannot be read: {str(error).splitlines()[0]}") from error
    return {
        name.removeprefix(PARALLEL_PREFIX): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in tensors.items()
    }


def write_weights(network: nn.Module, path: Path) -> None:
    """Write all of a network's parameters and buffers as safetensors."""
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    path.write_bytes(save(state))


def fill_network(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, head: str) -> LoadedWeights:
    """Copy tensors into the network by name; ``path`` is what errors name, ``head`` the module that may stay new.

    Raises:
        BundleError: naming the first parameter that is missing, mis-shaped or unexpected.
    """
    own = network.state_dict()
    unexpected = next((name for name in tensors if name not in own), None)
    if unexpected is not None and not _is_in(unexpected, head):
        raise BundleError(str(path), f"{unexpected} is not a parameter of {type(network).__name__}")
    misfits = [name for name, tensor in own.items() if name not in tensors or tensors[name].shape != tensor.shape]
    for name in misfits:
        # Checkpoints written before torch 0.4.1 lack the counter, and nothing that we compute depends on it.
        if not _is_in(name, head) and not name.endswith(_UNTRAINED_COUNTER):
            raise BundleError(str(path), _describe_misfit(name, tensors.get(name), own[name]))
    new = {name for name in own if _is_in(name, head)} if any(_is_in(name, head) for name in misfits) else set()
    taken = {name: tensors[name] for name in own if name in tensors and name not in new}
    network.load_state_dict(taken, strict=False)
    return LoadedWeights(loaded=tuple(taken), new=tuple(name for name in own if name in new))


def find_head(network: nn.Module, num_classes: int) -> tuple[str, nn.Linear]:
    """Return the name and module of the classifier: the last linear layer with K outputs.

    Raises:
        BundleError: there is none.
    """
    heads = [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear) and module.out_features == num_classes
    ]
    if not heads:
        raise BundleError(type(network).__name__, f"no linear layer answers with {num_classes} classes")
    return heads[-1]


def _is_in(name: str, module: str) -> bool:
    return name.startswith(f"{module}.")


def _describe_misfit(name: str, found: Tensor | None, wanted: Tensor) -> str:
    if found is None:
        return f"{name} is missing"
    return f"{name} has the shape {list(found.shape)}, the network needs {list(wanted.shape)}"
