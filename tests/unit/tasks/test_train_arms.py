from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from coloured_videos import write_coloured_set

from cdmodel.bundle import read_manifest, write_manifest
from cdmodel.errors import BundleError, OutputError
from cdmodel.models import load_bundle
from cdmodel.sampling import ClipGeometry
from cdmodel.splits import assign_roles
from cdmodel.testing import write_tiny_bundle
from storage.dataset import read_dataset
from tasks import train_arms as training
from tasks.arm_settings import ArmSettings
from tasks.arms_folder import ARMS_NAME, load_arms
from tasks.train_arms import train_arms

LABELS = ("blue", "green", "red")
SETTINGS = ArmSettings(seeds=(0, 1), arms=("A8", "A9", "A10"), steps=2, clips_per_step=2)
NETWORKS = 8
"""A8; the plain training that A9 and A10 start from; both of them; twice."""


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arms")
    write_tiny_bundle(folder / "bundle", labels=LABELS)
    return str(write_coloured_set(folder / "set", [("red",), ("green",), ("blue",)], groups=5)), folder / "bundle"


def _watch(monkeypatch, *, killed_at=None):
    """Let every network be trained as ever, and remember it; the kill comes before the network of that number."""
    seen = {}

    def train_arm(recipe, lessons, settings, seed, on_progress, base=None):
        if len(seen) == killed_at:
            raise KeyboardInterrupt
        seen[recipe, seed] = original(recipe, lessons, settings, seed, on_progress, base)
        return seen[recipe, seed]

    original = training.train_arm
    monkeypatch.setattr(training, "train_arm", train_arm)
    return seen


@pytest.fixture(scope="module")
def trained(places, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        seen = _watch(patch)
        out = tmp_path_factory.mktemp("whole") / "arms"
        made = train_arms(*places, str(out), SETTINGS, lambda progress: None)
    assert (made.networks, made.videos_used, made.skipped, made.warnings) == (NETWORKS, 12, (), ())
    return out, seen


def test_arms_come_back_bit_by_bit_with_their_refinements(places, trained):
    out, seen = trained
    arms = load_arms(out, load_bundle(places[1]))
    clips = torch.rand(5, 2, 3, 16, 16)
    assert arms.networks.keys() == {"A7", "A8", "A8_context", "A8_rank", "A9", "A10"}
    for of_seeds in arms.networks.values():
        for seed, arm in zip(arms.seeds, of_seeds, strict=True):
            made = seen[arm.recipe, seed]
            assert arm.spec == made.spec
            with torch.inference_mode():
                pairs = zip(arm.network(clips), made.network(clips), strict=True)
                assert all(torch.equal(one, other) for one, other in pairs)
    assert {arms.networks[name][0].recipe.refinement for name in ("A8", "A9", "A10")} == {
        "none",
        "gatekeeper",
        "post_hoc",
    }


@pytest.mark.parametrize("killed_at", [1, 3])
def test_a_killed_run_goes_on_with_the_network_it_was_at(places, trained, tmp_path, monkeypatch, killed_at):
    out = tmp_path / "arms"
    with monkeypatch.context() as patch:
        _watch(patch, killed_at=killed_at)
        with pytest.raises(KeyboardInterrupt):
            train_arms(*places, str(out), SETTINGS, lambda progress: None)
    assert [path.name for path in tmp_path.iterdir()] == [".arms.work"]
    rest = _watch(monkeypatch)
    train_arms(*places, str(out), SETTINGS, lambda progress: None)
    assert len(rest) == NETWORKS - killed_at
    assert [path.name for path in tmp_path.iterdir()] == ["arms"]
    assert _contents(out) == _contents(trained[0])


def test_a_killed_run_is_not_continued_with_other_settings(places, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        _watch(patch, killed_at=0)
        with pytest.raises(KeyboardInterrupt):
            train_arms(*places, str(tmp_path / "arms"), SETTINGS, lambda progress: None)
    with pytest.raises(OutputError, match="other videos or settings"):
        train_arms(*places, str(tmp_path / "arms"), replace(SETTINGS, steps=3), lambda progress: None)


def test_arms_learn_from_the_roles_that_the_training_of_the_bundle_gave(tmp_path, monkeypatch):
    """With another division they would learn from what an evaluation of the same bundle calls test."""
    dataset = str(write_coloured_set(tmp_path / "set", [("red",), ("blue",)], groups=9, roles=[None]))
    write_tiny_bundle(tmp_path / "bundle", labels=LABELS)
    manifest = replace(read_manifest(tmp_path / "bundle"), provenance={"settings": {"seed": 5}})
    write_manifest(tmp_path / "bundle", manifest)
    read = {}

    def stop(videos, *rest):
        read.update({role: {video.group for video in of_role} for role, of_role in videos.items()})
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "read_roles", stop)
    with pytest.raises(KeyboardInterrupt):
        train_arms(dataset, tmp_path / "bundle", str(tmp_path / "arms"), SETTINGS, lambda progress: None)
    divided = assign_roles(read_dataset(dataset).videos, 5)
    assert read == {role: {v.group for v in divided if v.split == role} for role in ("train", "conf", "cal")}
    assert read != {
        role: {v.group for v in assign_roles(divided, 0) if v.split == role} for role in ("train", "test", "cal")
    }


def test_a_teacher_that_learned_from_conf_is_said(places, tmp_path):
    dataset, bundle = places
    other = _with(bundle, tmp_path / "bundle", provenance={"target_origin": "crossfit"})
    once = replace(SETTINGS, seeds=(0,), arms=("A8",))
    made = train_arms(dataset, other, str(tmp_path / "arms"), once, lambda progress: None)
    assert ["its teacher learned from conf" in warning for warning in made.warnings] == [True]


def test_arms_of_another_teacher_or_another_shape_are_refused(places, trained, tmp_path):
    write_tiny_bundle(tmp_path / "other", labels=LABELS, seed=1)
    with pytest.raises(BundleError, match="another teacher"):
        load_arms(trained[0], load_bundle(tmp_path / "other"))
    student = read_manifest(places[1]).student
    wide = replace(student, geometry=ClipGeometry(frames=2, height=24, width=24))
    with pytest.raises(BundleError, match="of another bundle"):
        load_arms(trained[0], load_bundle(_with(places[1], tmp_path / "wide", student=wide)))


@pytest.mark.parametrize("how", ["changed", "gone", "no index", "half an index", "unknown arm"])
def test_damaged_arms_are_refused(places, trained, tmp_path, how):
    for name, content in _contents(trained[0]).items():
        (tmp_path / name).write_bytes(content)
    weights, index = min(tmp_path.glob("*.safetensors")), tmp_path / ARMS_NAME
    match how:
        case "changed":
            weights.write_bytes(weights.read_bytes()[:-1] + b"!")
        case "gone":
            weights.unlink()
        case "no index":
            index.unlink()
        case "half an index":
            index.write_bytes(index.read_bytes()[:40])
        case "unknown arm":
            facts = json.loads(index.read_text())
            index.write_text(json.dumps(facts | {"settings": facts["settings"] | {"arms": ["A99"]}}))
    with pytest.raises(BundleError, match=r"holds no trained arms|is damaged at|differs from the hash"):
        load_arms(tmp_path, load_bundle(places[1]))


def test_arms_from_before_hashes_were_written_down_are_still_read(places, trained, tmp_path):
    for name, content in _contents(trained[0]).items():
        (tmp_path / name).write_bytes(content)
    facts = json.loads((tmp_path / ARMS_NAME).read_text())
    del facts["weights_sha256"], facts["shape"]
    (tmp_path / ARMS_NAME).write_text(json.dumps(facts))
    assert load_arms(tmp_path, load_bundle(places[1])).seeds == SETTINGS.seeds


def _with(bundle: Path, folder: Path, **changes) -> Path:
    """Copy a bundle, with another manifest."""
    folder.mkdir()
    for name, content in _contents(bundle).items():
        (folder / name).write_bytes(content)
    manifest = read_manifest(bundle)
    assert asdict(replace(manifest, **changes)) != asdict(manifest)
    write_manifest(folder, replace(manifest, **changes))
    return folder


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
