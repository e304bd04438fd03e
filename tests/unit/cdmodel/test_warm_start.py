"""A student that starts from another bundle's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cdmodel.bundle import BUILTIN_BUILDERS, read_manifest
from cdmodel.errors import BundleError
from cdmodel.models import build_network, load_bundle
from cdmodel.testing import write_tiny_bundle
from cdmodel.warm_start import start_from

LABELS = ("left", "right", "still")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "bundle", labels=LABELS, seed=7)
    return tmp_path / "bundle"


def started(bundle: Path, labels: tuple[str, ...]) -> torch.nn.Module:
    spec = read_manifest(bundle).student
    torch.manual_seed(1)
    network = build_network(spec, len(labels), BUILTIN_BUILDERS)
    start_from(network, spec, labels, bundle)
    return network.eval()


def test_it_answers_as_the_other_one_does(bundle: Path) -> None:
    models = load_bundle(bundle)
    clips = torch.rand(5, 2, 3, 16, 16)
    with torch.no_grad():
        found, expected = started(bundle, LABELS)(clips), models.student.network(clips)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_classes_go_by_name_and_a_new_one_starts_anew(bundle: Path) -> None:
    spec = read_manifest(bundle).student
    old = started(bundle, LABELS).classify
    torch.manual_seed(1)
    fresh = build_network(spec, 4, BUILTIN_BUILDERS).classify
    new = started(bundle, ("still", "jump", "left", "right")).classify
    for row, number in ((0, 2), (2, 0), (3, 1)):
        assert torch.equal(new.weight[row], old.weight[number])
        assert torch.equal(new.bias[row], old.bias[number])
    assert torch.equal(new.weight[1], fresh.weight[1])


def test_another_network_is_refused_by_name(bundle: Path) -> None:
    spec = read_manifest(bundle).student
    larger = replace(spec, arguments={"channels": 8, "hidden": 4})
    network = build_network(larger, 3, BUILTIN_BUILDERS)
    with pytest.raises(BundleError, match=r"student\.start needs the same network: there it is cdmodel\.student"):
        start_from(network, larger, LABELS, bundle)
