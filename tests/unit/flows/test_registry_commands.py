"""The commands ``models``: what they print, and how they fail."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cdmodel.bundle import model_version, read_manifest
from cdmodel.testing import write_tiny_bundle
from flows.cli import app
from storage.registry import open_registry


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    folders = [tmp_path_factory.mktemp("bundles") / str(seed) for seed in range(3)]
    for seed, folder in enumerate(folders):
        write_tiny_bundle(folder, seed=seed)
    return folders[0], folders[1], folders[2]


@pytest.fixture
def registry(tmp_path: Path) -> str:
    return str(tmp_path / "models")


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["models", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


def _json(*arguments: object) -> Any:
    return json.loads(_run(*arguments, "--json"))


def _refuse(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["models", *map(str, arguments)])
    assert (done.exit_code, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    return done.stderr


def _version(folder: Path) -> str:
    return model_version(read_manifest(folder))


def test_a_bundle_is_promoted_rolled_back_and_promoted_again_and_the_history_says_all(registry, bundles):
    first, second, third = map(_version, bundles)
    for number, folder in enumerate(bundles, start=1):
        assert f"means {_version(folder)} now" in _run("promote", registry, folder, "--why", f"number {number}")
    back = _json("rollback", registry, "--why", "it names every cat a dog")
    assert (back["model_version"], back["previous"], back["number"], back["action"]) == (second, third, 4, "rollback")
    assert f"means {first} now (meant {second} before)" in _run("rollback", registry)
    assert "nothing to go back to" in _refuse("rollback", registry)
    assert _json("promote", registry, third)["number"] == 6
    history = _json("history", registry)
    assert (history["registry"], history["alias"]) == (registry, "production")
    assert [move["model_version"] for move in history["moves"]] == [first, second, third, second, first, third]
    assert [move["previous"] for move in history["moves"]] == [None, first, second, third, second, first]
    assert [move["reason"] for move in history["moves"]][:4] == ["number 1", "number 2", "number 3", back["reason"]]
    assert all(re.fullmatch(r"[^@]+@.+", move["moved_by"]) for move in history["moves"])
    assert history["moves"][0]["metrics"] == read_manifest(bundles[0]).metrics
    text = _run("history", registry).splitlines()
    assert len(text) == 7
    assert "it names every cat a dog" in text[4]


def test_what_a_registry_has_is_listed_and_shown(registry, bundles):
    first, second = map(_version, bundles[:2])
    for folder, alias in zip(bundles, ("production", "candidate"), strict=False):
        _run("promote", registry, folder, "--alias", alias)
    listed = _json("list", registry)
    assert listed["aliases"] == {"candidate": second, "production": first}
    assert [(bundle["model_version"], bundle["aliases"]) for bundle in listed["bundles"]] == [
        (first, ["production"]),
        (second, ["candidate"]),
    ]
    assert len(_run("list", registry).splitlines()) == 3
    shown = _json("show", registry, "production")
    manifest = read_manifest(bundles[0])
    assert shown == {**_json("show", registry, first)}
    assert (shown["model_version"], shown["labels"], shown["aliases"]) == (first, list(manifest.labels), ["production"])
    assert (shown["metrics"], shown["provenance"]) == (manifest.metrics, manifest.provenance)
    assert [(move["alias"], move["number"]) for move in shown["history"]] == [("production", 1)]
    text = _run("show", registry, "production")
    assert first in text
    assert ", ".join(manifest.labels) in text
    open_registry(registry).add(bundles[2])
    assert "no alias ever meant it" in _run("show", registry, _version(bundles[2]))


def test_an_alias_of_this_registry_or_of_another_one_is_promoted(registry, bundles, tmp_path):
    _run("promote", registry, bundles[0], "--alias", "candidate")
    _run("promote", registry, f"{registry}@candidate")
    assert _json("list", registry)["aliases"] == dict.fromkeys(("candidate", "production"), _version(bundles[0]))
    other = str(tmp_path / "other")
    _run("promote", other, f"{registry}@candidate")
    assert [bundle["model_version"] for bundle in _json("list", other)["bundles"]] == [_version(bundles[0])]


def test_bad_requests_are_refused_in_one_line_and_leave_nothing_behind(registry, bundles, tmp_path):
    assert "no registry.json there" in _refuse("list", registry)
    assert "bundle.json cannot be read" in _refuse("promote", registry, tmp_path / "nothing")
    assert "cannot be the name of an alias" in _refuse("promote", registry, bundles[0], "--alias", "Production")
    assert "no registry.json there" in _refuse("promote", registry, "m-000000000000")
    assert not Path(registry).exists()
    _run("promote", registry, bundles[0])
    assert f"there is {_version(bundles[0])}" in _refuse("promote", registry, "m-000000000000")
    assert "there is production" in _refuse("show", registry, "prod")
    assert "there is production" in _refuse("history", registry, "--alias", "prod")
    assert "no alias candidate" in _refuse("rollback", registry, "--alias", "candidate")
    assert "holds something else" in _refuse("promote", bundles[0].parent.parent, bundles[0])
    (Path(registry) / "registry.json").write_text('{"kind": "cdlabel model registry", "schema_version": 7}')
    assert "schema 7 is unknown to this version" in _refuse("list", registry)


def test_a_registry_without_bundles_says_so(registry):
    open_registry(registry, create=True)
    assert _run("list", registry) == "no bundles yet\n"
    assert _json("list", registry) == {"registry": registry, "aliases": {}, "bundles": []}
