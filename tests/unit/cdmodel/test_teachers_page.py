"""The page docs/teachers.md does what it says."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from cdmodel.bundle import BUILTIN_BUILDERS
from cdmodel.models import build_network
from cdmodel.resnet3d import build_resnet3d, load_published
from cdmodel.teacher_source import TeacherSettings, describe_teacher

PAGE = (Path(__file__).parents[3] / "docs" / "teachers.md").read_text()
TABLES = [tomllib.loads(block)["teacher"] for block in re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)]
CONVERSION = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


def _small() -> nn.Module:
    return build_resnet3d(num_classes=5, frames=4, height=16, width=16, depth=10, shortcut="A").eval()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table["weights"])
def test_every_example_is_a_valid_table(table):
    assert TypeAdapter(TeacherSettings).validate_python(table).weights == table["weights"]


@pytest.mark.parametrize("table", [table for table in TABLES if "builder" in table], ids=lambda table: table["weights"])
def test_every_builder_of_an_example_takes_its_arguments(table):
    settings = TypeAdapter(TeacherSettings).validate_python(table)
    spec = describe_teacher(replace(settings, weights=None, learn="all"))
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build_network(spec, 400, BUILTIN_BUILDERS).parameters()) > 10**6


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_published_pickle_is_converted_as_the_page_says(tmp_path, monkeypatch, is_zip):
    """The files of 2018 are older than torch's zip format, and were written on GPUs from a parallel model."""
    torch.manual_seed(0)
    network = _small()
    state = {f"module.{name}": tensor for name, tensor in network.state_dict().items() if "num_batches" not in name}
    published = {"epoch": 200, "arch": "resnet-10", "state_dict": state, "optimizer": {"state": {}}}
    torch.save(published, tmp_path / "resnext-101-kinetics.pth", _use_new_zipfile_serialization=is_zip)
    monkeypatch.chdir(tmp_path)
    (code,) = CONVERSION
    exec(compile(code, "docs/teachers.md", "exec"), {})
    copy = _small()
    assert load_published(copy, tmp_path / "resnext-101-kinetics.safetensors").new == ()
    clip = torch.randn(1, 4, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(copy(clip), network(clip))
