from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cdmodel.bundle import (
    MANIFEST_NAME,
    TEACHER_FOLDER,
    TEACHER_WEIGHTS,
    file_sha256,
    find_teacher,
    model_version,
    read_manifest,
    weights_sha256,
    write_manifest,
)
from cdmodel.errors import BundleError
from cdmodel.models import load_bundle
from cdmodel.testing import write_tiny_bundle
from storage.bundles import local_bundle
from storage.filesystem import Store, open_store

BUILDER = """
from pathlib import Path
from cdmodel.teacher import build_teacher
from cdmodel.weights import read_weights

def build(*, num_classes, frames, height, width, folder):
    channels = int((Path(folder) / "channels.txt").read_text())
    network = build_teacher(num_classes=num_classes, frames=frames, height=height, width=width, channels=channels)
    network.load_state_dict(read_weights(Path(folder) / "model.safetensors"))
    return network
"""


@pytest.fixture
def bundle(tmp_path, monkeypatch) -> Path:
    """A bundle whose teacher is a folder: a builder of ones own, its weights and its settings."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "folder_builder.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(tmp_path / "code")
    folder = tmp_path / "bundle"
    manifest = write_tiny_bundle(folder)
    (folder / TEACHER_FOLDER).mkdir()
    (folder / TEACHER_WEIGHTS).rename(folder / TEACHER_FOLDER / "model.safetensors")
    (folder / TEACHER_FOLDER / "channels.txt").write_text("3")
    sha256 = weights_sha256(folder / TEACHER_FOLDER)
    teacher = replace(manifest.teacher, builder="folder_builder:build", arguments={}, weights_sha256=sha256)
    write_manifest(folder, replace(manifest, teacher=teacher))
    return folder


@pytest.fixture
def bucket(bundle) -> Store:
    """The bundle's files in a store that is no disk."""
    store = open_store(f"memory://bundles-{os.urandom(8).hex()}")
    for path in bundle.rglob("*"):
        if path.is_file():
            store.create(path.relative_to(bundle).as_posix(), path.read_bytes())
    return store


def test_the_hash_of_a_folder_covers_names_and_contents(tmp_path):
    (tmp_path / "b.json").write_bytes(b"{}")
    (tmp_path / "a.safetensors").write_bytes(b"weights")
    lines = "".join(f"{name} {file_sha256(tmp_path / name)}\n" for name in ("a.safetensors", "b.json"))
    assert weights_sha256(tmp_path) == hashlib.sha256(lines.encode()).hexdigest()


def test_a_teacher_from_a_folder_scores(bundle):
    models = load_bundle(bundle, allowed_builders=["folder_builder"])
    assert find_teacher(bundle) == bundle / TEACHER_FOLDER
    assert models.teacher.flops_per_clip > 0
    assert not models.teacher.network.training
    clips_NTCHW = torch.zeros(1, 8, 3, 32, 32, dtype=torch.uint8).numpy()
    assert models.teacher.score(clips_NTCHW).shape == (1, 3)


@pytest.mark.parametrize("change", ["edit", "add", "remove", "rename"])
def test_a_changed_folder_is_refused(bundle, change):
    channels = bundle / TEACHER_FOLDER / "channels.txt"
    match change:
        case "edit":
            channels.write_text("4")
        case "add":
            (bundle / TEACHER_FOLDER / "more.json").write_text("{}")
        case "remove":
            channels.unlink()
        case "rename":
            channels.rename(bundle / TEACHER_FOLDER / "chapters.txt")
    with pytest.raises(BundleError, match="differ from the hash"):
        read_manifest(bundle)


@pytest.mark.parametrize("name", ["model.bin", "model.pth", "modeling.py", ".hidden.json", "README", "sub.d"])
def test_a_file_that_has_no_place_there_is_refused(bundle, name):
    (bundle / TEACHER_FOLDER / name).write_bytes(b"")
    with pytest.raises(BundleError, match=rf"'{name}' has no place"):
        read_manifest(bundle)


def test_a_folder_in_the_folder_is_refused(bundle):
    (bundle / TEACHER_FOLDER / "sub.json").mkdir()
    with pytest.raises(BundleError, match="cannot be read"):
        read_manifest(bundle)


def test_an_empty_folder_is_refused(bundle):
    for file in (bundle / TEACHER_FOLDER).iterdir():
        file.unlink()
    with pytest.raises(BundleError, match="empty"):
        read_manifest(bundle)


def test_two_teachers_are_refused(bundle):
    (bundle / TEACHER_WEIGHTS).write_bytes(b"")
    with pytest.raises(BundleError, match="holds both"):
        read_manifest(bundle)


def test_a_builder_that_knows_no_folder_is_named(bundle):
    manifest = read_manifest(bundle)
    teacher = replace(manifest.teacher, builder="cdmodel.teacher:build_teacher")
    write_manifest(bundle, replace(manifest, teacher=teacher))
    with pytest.raises(BundleError, match="unexpected keyword argument 'folder'"):
        load_bundle(bundle)


def test_a_teacher_that_is_a_folder_is_fetched_from_a_bucket(bundle, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fetched = local_bundle(bucket.root)
    assert fetched.is_relative_to(tmp_path / "cache")
    assert model_version(read_manifest(fetched)) == model_version(read_manifest(bundle))
    assert sorted(file.name for file in fetched.iterdir()) == [MANIFEST_NAME, "student.safetensors", TEACHER_FOLDER]


@pytest.mark.parametrize(
    "name", ["../../.bashrc.txt", "/etc/x.txt", "sub/model.json", "model.bin", "..\\x.txt", ".x.txt"]
)
def test_what_a_bucket_may_not_bring_is_refused_before_anything_is_kept(bucket, tmp_path, monkeypatch, name):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    prefix = f"{bucket.root.removeprefix('memory:/')}/{TEACHER_FOLDER}"
    # Past the door, which would resolve the name: some servers keep such keys as they are.
    objects = bucket.filesystem.store
    objects[f"{prefix}/{name}"] = objects.pop(f"{prefix}/channels.txt")
    with pytest.raises(BundleError, match="has no place"):
        local_bundle(bucket.root)
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []
