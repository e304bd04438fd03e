"""A student that starts from another bundle's, instead of from nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from cdmodel.bundle import STUDENT_WEIGHTS, ModelSpec, read_manifest
from cdmodel.errors import BundleError
from cdmodel.weights import read_weights


def start_from(network: nn.Module, spec: ModelSpec, labels: Sequence[str], start: Path) -> None:
    """Fill a new student with the weights of the bundle in ``start``; classes go by name, new ones stay as they are.

    Args:
        network: built from ``spec`` for ``labels``.
        spec: must be that of the bundle's student, weights apart.
        labels: in the order of the network's outputs.
        start: local folder of the bundle.

    Raises:
        BundleError: the bundle cannot be read, or its student is another network.
    """
    manifest = read_manifest(start)
    before = manifest.student
    if (before.builder, before.arguments, before.geometry) != (spec.builder, spec.arguments, spec.geometry):
        raise BundleError(
            str(start),
            f"student.start needs the same network: there it is {before.builder} with {before.arguments} on "
            f"{before.geometry}; leave student.start out (retrain.warm_start = false), or ask for that one",
        )
    tensors = read_weights(start / STUDENT_WEIGHTS)
    is_same = tuple(manifest.labels) == tuple(labels)
    head = None if is_same else _find_class_head(network, spec)
    number_of = {label: number for number, label in enumerate(manifest.labels)}
    rows = [(row, number_of[label]) for row, label in enumerate(labels) if label in number_of]
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            found = tensors.get(name)
            if found is None or (is_same and found.shape != tensor.shape):
                raise BundleError(str(start), f"its student has no such {name}")
            if head is not None and name.rpartition(".")[0] == head:
                for row, number in rows:
                    tensor[row] = found[number]
            elif found.shape == tensor.shape:
                tensor.copy_(found)
            # Else a layer that depends on how many classes there are: it is learned anew.


def _find_class_head(network: nn.Module, spec: ModelSpec) -> str:
    """Return the name of the linear layer whose output is the class logits, by looking at one clip.

    Raises:
        BundleError: there is none.
    """
    outputs: dict[str, Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, output: outputs.update({name: output})

    geometry = spec.geometry
    linear = [(name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    hooks = [module.register_forward_hook(remember(name)) for name, module in linear]
    was_training = network.training
    try:
        with torch.no_grad():
            network.eval()
            logits_NK = network(torch.zeros(1, geometry.frames, 3, geometry.height, geometry.width)).logits_NK
    finally:
        network.train(was_training)
        for hook in hooks:
            hook.remove()
    for name, output in outputs.items():
        if output is logits_NK:
            return name
    raise BundleError(
        spec.builder, "its class logits are not the output of a linear layer: it can only go on with the same labels"
    )
