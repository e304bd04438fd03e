from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from cdmodel.aggregation import MeanProbability
from cdmodel.bundle import (
    BUNDLE_FILES,
    DEMO_BUNDLE,
    MANIFEST_NAME,
    STUDENT_WEIGHTS,
    TEACHER_WEIGHTS,
    check_builder,
    file_sha256,
    model_version,
    read_manifest,
    write_manifest,
)
from cdmodel.calibration import CLIP_FEATURES, Calibration, ConfidenceMap
from cdmodel.drift import EDGES, ConfidenceReference, count_confidences
from cdmodel.errors import BundleError
from cdmodel.models import load_bundle
from cdmodel.policies import Gain
from cdmodel.testing import write_tiny_bundle


@pytest.fixture
def folder(tmp_path) -> Path:
    write_tiny_bundle(tmp_path / "bundle")
    return tmp_path / "bundle"


def _edit(folder: Path, **changes: object) -> None:
    path = folder / MANIFEST_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_what_was_written_is_read(tmp_path):
    written = write_tiny_bundle(
        tmp_path,
        calibration=Calibration(
            video_temperature=1.5, q_teacher=ConfidenceMap(weights=(0.5,) * len(CLIP_FEATURES), bias=0.5)
        ),
        policy=Gain(min_gain=0.1),
        aggregation=MeanProbability(),
    )
    assert read_manifest(tmp_path) == written
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(BUNDLE_FILES)


def test_writing_twice_gives_the_same_bytes(folder):
    before = (folder / MANIFEST_NAME).read_bytes()
    write_manifest(folder, read_manifest(folder))
    assert (folder / MANIFEST_NAME).read_bytes() == before


def test_the_version_is_stable_and_follows_everything_in_the_bundle(folder):
    manifest = read_manifest(folder)
    version = model_version(manifest)
    assert version.startswith("m-")
    assert len(version) == 14
    assert model_version(read_manifest(folder)) == version
    changed = [
        replace(manifest, calibration=Calibration(video_temperature=1.01)),
        replace(manifest, default_policy=Gain(min_gain=0.5)),
        replace(manifest, labels=(*manifest.labels[:-1], "other")),
        replace(manifest, student=replace(manifest.student, weights_sha256="0")),
    ]
    assert len({version, *map(model_version, changed)}) == 1 + len(changed)


def test_a_bundle_from_before_references_keeps_its_version_and_a_reference_changes_it(folder):
    stored = json.loads((folder / MANIFEST_NAME).read_text())
    assert stored.pop("reference") is None
    (folder / MANIFEST_NAME).write_text(json.dumps(stored))
    manifest = read_manifest(folder)
    text = json.dumps(stored, separators=(",", ":"), ensure_ascii=False)
    assert model_version(manifest) == "m-" + hashlib.sha256(text.encode()).hexdigest()[:12]
    counts = count_confidences([[0.5, 0.9]])
    reference = ConfidenceReference(edges=EDGES, student=counts, teacher=counts)
    write_manifest(folder, replace(manifest, reference=reference))
    assert read_manifest(folder).reference == reference
    assert model_version(read_manifest(folder)) != model_version(manifest)


def test_the_demo_bundle_remembers_the_confidence_of_its_models():
    reference = read_manifest(DEMO_BUNDLE).reference
    assert reference is not None
    assert (reference.edges, reference.student.videos, reference.teacher.videos) == (EDGES, 240, 240)
    assert sum(reference.student.clips_B) == sum(reference.teacher.clips_B)


@pytest.mark.parametrize("name", [STUDENT_WEIGHTS, TEACHER_WEIGHTS])
def test_changed_weights_are_refused(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=rf"{name}.*differ from the hash"):
        read_manifest(folder)


@pytest.mark.parametrize("name", BUNDLE_FILES)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        read_manifest(folder)


def test_a_manifest_is_not_written_beside_other_weights(folder):
    manifest = read_manifest(folder)
    with pytest.raises(BundleError, match="differ"):
        write_manifest(folder, replace(manifest, student=replace(manifest.student, weights_sha256="0")))


@pytest.mark.parametrize("version", [1, 3, "1", None])
def test_another_schema_is_refused(folder, version):
    _edit(folder, schema_version=version)
    with pytest.raises(BundleError, match="schema"):
        read_manifest(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"7", b"null", b"{}", b"\xff\xfe"])
def test_what_is_no_manifest_is_refused(folder, text):
    (folder / MANIFEST_NAME).write_bytes(text)
    with pytest.raises(BundleError, match="damaged"):
        read_manifest(folder)


@pytest.mark.parametrize("where", ["", "sampling", "student", "teacher", "calibration", "default_policy"])
def test_an_unknown_key_is_refused_by_name(folder, where):
    content = json.loads((folder / MANIFEST_NAME).read_text())
    (content[where] if where else content)["surprise"] = 1
    (folder / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="surprise"):
        read_manifest(folder)


@pytest.mark.parametrize("labels", [[], ["one"], ["same", "same"]])
def test_two_distinct_labels_are_the_least(folder, labels):
    _edit(folder, labels=labels)
    with pytest.raises(BundleError, match="two distinct labels"):
        read_manifest(folder)


@pytest.mark.parametrize(
    "builder", ["os:system", "acme_evil:build", "acm:build", "cdmodels:build", "cdmodel_x.y:build"]
)
def test_only_whole_names_of_modules_are_allowed(builder):
    with pytest.raises(BundleError, match="not allowed"):
        check_builder("bundle", builder, ("cdmodel.", "acme"))


@pytest.mark.parametrize("builder", ["cdmodel.student:build_student", "acme:build", "acme.models.big:build"])
def test_an_allowed_module_allows_what_lies_below_it(builder):
    check_builder("bundle", builder, ("cdmodel.", "acme"))


@pytest.mark.parametrize("builder", ["", "cdmodel.student", ":build", "cdmodel.student:"])
def test_a_builder_names_a_module_and_a_function(builder):
    with pytest.raises(BundleError, match="module:function"):
        check_builder("bundle", builder, ("cdmodel.",))


def test_an_empty_prefix_allows_nothing():
    with pytest.raises(BundleError, match="not allowed"):
        check_builder("bundle", "os:system", ("",))


def test_the_module_of_a_refused_builder_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "trap_builder.py").write_text("raise SystemExit('the trap went off')")
    monkeypatch.syspath_prepend(tmp_path)
    write_tiny_bundle(tmp_path / "bundle", teacher_builder="trap_builder:build")
    with pytest.raises(BundleError, match=r"trap_builder:build.*models\.allowed_builders"):
        load_bundle(tmp_path / "bundle")
    assert "trap_builder" not in sys.modules


def test_the_demo_bundle_loads_and_is_small():
    models = load_bundle(DEMO_BUNDLE)
    assert sum((DEMO_BUNDLE / name).stat().st_size for name in BUNDLE_FILES) <= 4 * 2**20
    assert models.teacher.flops_per_clip > 10 * models.student.flops_per_clip
    for spec, name in ((models.manifest.student, STUDENT_WEIGHTS), (models.manifest.teacher, TEACHER_WEIGHTS)):
        assert spec.weights_sha256 == file_sha256(DEMO_BUNDLE / name)
