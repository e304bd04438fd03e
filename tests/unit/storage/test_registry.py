from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from cdmodel.bundle import (
    MANIFEST_NAME,
    STUDENT_WEIGHTS,
    TEACHER_FOLDER,
    TEACHER_WEIGHTS,
    model_version,
    read_manifest,
    weights_sha256,
    write_manifest,
)
from cdmodel.errors import BundleError, DamagedObject, RegistryConflict, RegistryError
from cdmodel.testing import write_tiny_bundle
from storage.bundles import BundleReference, absolute_bundle, as_reference, local_bundle, pin_bundle
from storage.filesystem import open_store
from storage.registry import Registry, open_registry


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Three bundles of one shape and different weights."""
    folders = [tmp_path_factory.mktemp("bundles") / str(seed) for seed in range(3)]
    for seed, folder in enumerate(folders):
        write_tiny_bundle(folder, seed=seed)
    return folders[0], folders[1], folders[2]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return open_registry(str(tmp_path / "registry"), create=True)


def _version(folder: Path) -> str:
    return model_version(read_manifest(folder))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_bundle_is_kept_as_it_is_under_its_version_and_adding_it_again_changes_nothing(registry, bundles):
    added = registry.add(bundles[0])
    assert added.model_version == _version(bundles[0])
    assert _files(Path(added.uri)) == _files(bundles[0])
    assert added.size_bytes == sum(map(len, _files(bundles[0]).values()))
    before = [path.stat() for path in Path(added.uri).iterdir()]
    assert registry.add(bundles[0]) == added
    assert [path.stat() for path in Path(added.uri).iterdir()] == before
    second = registry.add(bundles[1])
    assert registry.bundles() == (added, second)
    assert registry.manifest(added.model_version) == read_manifest(bundles[0])


def test_a_bundle_is_there_when_its_manifest_is(registry, bundles):
    version = _version(bundles[0])
    half = Path(registry.uri) / "bundles" / version
    half.mkdir(parents=True)
    shutil.copy(bundles[0] / STUDENT_WEIGHTS, half)
    assert registry.bundles() == ()
    with pytest.raises(RegistryError, match=f"no bundle {version}"):
        registry.bundle_uri(version)
    with pytest.raises(RegistryError, match="no bundle"):
        registry.move("production", version, after=0, moved_by="me")
    registry.add(bundles[0])
    assert _files(half) == _files(bundles[0])


def test_what_stands_where_a_weight_belongs_is_refused_and_a_missing_one_is_put_back(registry, bundles):
    added = Path(registry.add(bundles[0]).uri)
    (added / TEACHER_WEIGHTS).unlink()
    with pytest.raises(BundleError):
        read_manifest(added)
    registry.add(bundles[0])
    read_manifest(added)
    (added / TEACHER_WEIGHTS).write_bytes(b"cut")
    with pytest.raises(DamagedObject, match=TEACHER_WEIGHTS):
        registry.add(bundles[0])


def test_a_damaged_bundle_is_not_added(registry, bundles, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(bundles[0], folder)
    (folder / STUDENT_WEIGHTS).write_bytes(b"something else")
    with pytest.raises(BundleError, match="differ from the hash"):
        registry.add(folder)
    assert not (Path(registry.uri) / "bundles").exists()


def test_a_teacher_that_is_a_folder_is_kept_as_one(registry, bundles, tmp_path):
    folder = tmp_path / "bundle"
    shutil.copytree(bundles[0], folder)
    (folder / TEACHER_FOLDER).mkdir()
    (folder / TEACHER_WEIGHTS).rename(folder / TEACHER_FOLDER / "model.safetensors")
    (folder / TEACHER_FOLDER / "config.json").write_text("{}")
    text = json.loads((folder / MANIFEST_NAME).read_text())
    text["teacher"]["weights_sha256"] = weights_sha256(folder / TEACHER_FOLDER)
    (folder / MANIFEST_NAME).write_text(json.dumps(text))
    write_manifest(folder, read_manifest(folder))
    added = registry.add(folder)
    assert read_manifest(Path(added.uri)) == read_manifest(folder)
    assert registry.bundles() == (added,)


def test_an_alias_means_what_it_was_moved_to_last_and_its_history_says_all(registry, bundles):
    first, second = (registry.add(folder).model_version for folder in bundles[:2])
    assert (registry.current("production"), registry.history("production")) == (None, ())
    one = registry.move("production", first, after=0, moved_by="ann@desk", reason="the first", metrics={"a": 0.5})
    two = registry.move("production", second, after=1, moved_by="retrain run-7", reason="better", metrics={"a": 0.75})
    assert (one.number, one.previous, two.number, two.previous) == (1, None, 2, first)
    assert registry.history("production") == (one, two)
    assert registry.current("production") == two
    assert (two.moved_by, two.reason, two.metrics) == ("retrain run-7", "better", {"a": 0.75})
    assert (registry.resolve("production"), registry.resolve(first)) == (second, first)
    assert registry.aliases() == (two,)
    assert registry.last_number("production") == 2


def test_of_two_who_saw_the_same_move_the_second_is_refused_even_with_the_same_words(registry, bundles):
    first, second = (registry.add(folder).model_version for folder in bundles[:2])
    move = registry.move("production", first, after=0, moved_by="me")
    for version in (first, second):
        with pytest.raises(RegistryConflict, match="has moved since"):
            registry.move("production", version, after=0, moved_by="me")
    with pytest.raises(RegistryConflict, match="no move 2"):
        registry.move("production", second, after=2, moved_by="me")
    assert registry.history("production") == (move,)


def test_names_that_are_not_known_are_named_with_those_that_are(registry, bundles):
    version = registry.add(bundles[0]).model_version
    with pytest.raises(RegistryError, match="no alias production in this registry, which is empty"):
        registry.resolve("production")
    registry.move("production", version, after=0, moved_by="me")
    with pytest.raises(RegistryError, match="no alias prodction in this registry; there is production"):
        registry.resolve("prodction")
    with pytest.raises(RegistryError, match=f"no bundle m-000000000000 in this registry; there is {version}"):
        registry.resolve("m-000000000000")
    for bad in ("Production", "a/b", "", version):
        with pytest.raises(RegistryError, match="cannot be the name of an alias"):
            registry.move(bad, version, after=0, moved_by="me")


def test_a_history_that_was_tampered_with_is_refused(registry, bundles):
    version = registry.add(bundles[0]).model_version
    for number in range(3):
        registry.move("production", version, after=number, moved_by="me")
    moves = Path(registry.uri) / "aliases" / "production"
    (moves / "000003.json").write_bytes((moves / "000002.json").read_bytes())
    with pytest.raises(DamagedObject, match="not move 3 of production"):
        registry.current("production")
    (moves / "000003.json").write_bytes(b"{")
    with pytest.raises(DamagedObject, match=r"000003\.json"):
        registry.resolve("production")
    (moves / "000003.json").unlink()
    (moves / "000001.json").unlink()
    assert registry.current("production").number == 2
    with pytest.raises(DamagedObject, match=r"000001\.json: this move is missing"):
        registry.history("production")


def test_a_bundle_under_a_name_that_is_not_its_own_is_refused(registry, bundles):
    added = Path(registry.add(bundles[0]).uri)
    added.rename(added.with_name("m-000000000000"))
    with pytest.raises(DamagedObject, match="it is the manifest of"):
        registry.manifest("m-000000000000")


def test_a_place_that_is_no_registry_is_said_so(tmp_path, bundles):
    with pytest.raises(RegistryError, match=r"no registry\.json there"):
        open_registry(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(RegistryError, match="is a file"):
        open_registry(str(bundles[0] / MANIFEST_NAME), create=True)
    with pytest.raises(RegistryError, match=r"holds something else \(bundle\.json\)"):
        open_registry(str(bundles[0]), create=True)
    (tmp_path / "odd").mkdir()
    for content, words in (
        ('{"kind": "cdlabel model registry", "schema_version": 2}', "schema 2 is unknown to this version"),
        ('{"kind": "cdlabel model registry", "schema_version": "1"}', "schema '1' is unknown"),
        ('{"kind": "npm", "schema_version": 1}', "of kind 'npm'"),
        ("[1]", "does not say so"),
        ("{", "does not say so"),
    ):
        (tmp_path / "odd" / "registry.json").write_text(content)
        for create in (False, True):
            with pytest.raises(RegistryError, match=words):
                open_registry(str(tmp_path / "odd"), create=create)


def test_a_store_without_conditional_writes_moves_no_alias(registry, bundles, monkeypatch):
    version = registry.add(bundles[0]).model_version
    monkeypatch.setattr("storage.registry_place.probe", lambda _: False)
    with pytest.raises(RegistryError, match="does not honour create-only writes") as refused:
        registry.move("production", version, after=0, moved_by="me")
    assert "\n" not in str(refused.value)
    assert registry.current("production") is None


def test_a_bundle_is_named_by_its_registry_wherever_a_bundle_is_taken(registry, bundles, tmp_path, monkeypatch):
    first, second = (registry.add(folder) for folder in bundles[:2])
    registry.move("production", first.model_version, after=0, moved_by="me")
    asked = f"{registry.uri}@production"
    assert as_reference(asked) == BundleReference(registry=registry.uri, name="production")
    assert local_bundle(asked) == Path(first.uri)
    pinned = pin_bundle(asked)
    registry.move("production", second.model_version, after=1, moved_by="me")
    assert (pinned, local_bundle(pinned)) == (first.uri, Path(first.uri))
    assert pin_bundle(asked) == second.uri
    assert pin_bundle(f"{registry.uri}@{first.model_version}") == first.uri
    monkeypatch.chdir(tmp_path)
    assert pin_bundle("registry@production") == second.uri
    assert absolute_bundle("registry@production") == asked
    assert absolute_bundle("bundle") == str(tmp_path / "bundle")
    with pytest.raises(RegistryError, match="no alias candidate"):
        local_bundle(f"{registry.uri}@candidate")


def test_a_folder_whose_name_has_an_at_sign_stays_a_folder(bundles, tmp_path, monkeypatch):
    shutil.copytree(bundles[0], tmp_path / "me@home")
    monkeypatch.chdir(tmp_path)
    assert as_reference("me@home") is None
    assert local_bundle("me@home") == local_bundle(absolute_bundle("me@home")) == tmp_path / "me@home"
    assert as_reference("s3://models@production") == BundleReference(registry="s3://models", name="production")
    assert as_reference("sftp://me@host/models/bundle") is None
    assert (as_reference(None), pin_bundle(None)) == (None, None)


def test_a_registry_lives_wherever_fsspec_reaches(bundles, monkeypatch):
    monkeypatch.setattr("storage.registry_place.probe", lambda _: True)
    registry = open_registry("memory://models-of-this-test", create=True)
    version = registry.add(bundles[0]).model_version
    registry.move("production", version, after=0, moved_by="me")
    assert open_registry("memory://models-of-this-test").resolve("production") == version
    assert open_store(registry.bundle_uri(version)).read(MANIFEST_NAME) == (bundles[0] / MANIFEST_NAME).read_bytes()
