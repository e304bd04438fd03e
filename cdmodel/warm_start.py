"""A student that starts from another bundle's, instead of from nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from cdmodel.bundle import STUDENT_WEIGHTS, ModelSpec, read_manifest
from cdmodel.errors import BundleError
from cdmodel.weights import find_head, read_weights


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
    head, _ = find_head(network, len(labels))
    number_of = {label: number for number, label in enumerate(manifest.labels)}
    rows = [(row, number_of[label]) for row, label in enumerate(labels) if label in number_of]
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            found = tensors.get(name)
            if found is None:
                raise BundleError(str(start), f"its student lacks {name}")
            if name.rpartition(".")[0] == head:
                for row, number in rows:
                    tensor[row] = found[number]
            elif found.shape == tensor.shape:
                tensor.copy_(found)
            elif tuple(manifest.labels) == tuple(labels):
                raise BundleError(str(start), f"its student has another {name}: {tuple(found.shape)}")
            # Else a layer that depends on how many classes there are: it is learned anew.
