from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cdmodel.bundle import (
    BUILTIN_BUILDERS,
    STUDENT_WEIGHTS,
    TEACHER_WEIGHTS,
    file_sha256,
    read_manifest,
    write_manifest,
)
from cdmodel.calibration import CLIP_FEATURES, Calibration, ConfidenceMap, calibrate_student, calibrate_teacher
from cdmodel.errors import BundleError
from cdmodel.models import (
    CascadeModels,
    build_network,
    load_bundle,
    measure_motion,
    name_device,
    normalise,
)
from cdmodel.sampling import ClipGeometry
from cdmodel.testing import write_tiny_bundle

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bundles") / "tiny"
    write_tiny_bundle(folder)
    return folder


@pytest.fixture(scope="module")
def models(folder) -> CascadeModels:
    return load_bundle(folder)


def _pixels(clips: int, geometry: ClipGeometry) -> np.ndarray:
    size = (clips, geometry.frames, 3, geometry.height, geometry.width)
    return np.random.default_rng(1).integers(0, 256, size=size, dtype=np.uint8)


def test_both_models_answer_in_raw_float32_that_calibration_turns_into_probabilities(models):
    raw = models.student.score(_pixels(5, models.student.geometry))
    logits_NK = models.teacher.score(_pixels(5, models.teacher.geometry))
    assert raw.logits_NK.dtype == logits_NK.dtype == np.float32
    assert raw.logits_NK.shape == logits_NK.shape == (5, 3)
    student = calibrate_student(raw, Calibration(), "single")
    teacher = calibrate_teacher(logits_NK, np.ones(5, dtype=np.bool_), student, Calibration(), "single")
    for probabilities_NK in (student.probabilities_NK, teacher.probabilities_NK):
        assert probabilities_NK.dtype == np.float32
        np.testing.assert_allclose(probabilities_NK.sum(axis=1), 1.0, rtol=1e-5)
    for q_N in (student.q_teacher_N, student.q_student_N, teacher.confidence_N):
        assert q_N.shape == (5,)
        assert ((q_N > 0) & (q_N < 1)).all()


def test_an_answer_does_not_depend_on_the_clips_beside_it(models):
    pixels_NTCHW = _pixels(4, models.student.geometry)
    together = models.student.score(pixels_NTCHW)
    alone = models.student.score(pixels_NTCHW[2:3])
    np.testing.assert_allclose(alone.logits_NK[0], together.logits_NK[2], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(alone.motion_N[0], together.motion_N[2])


def test_scoring_twice_gives_the_same_bits(folder, models):
    one, other = models, load_bundle(folder)
    pixels_NTCHW = _pixels(3, one.teacher.geometry)
    np.testing.assert_array_equal(one.teacher.score(pixels_NTCHW), other.teacher.score(pixels_NTCHW))


def test_calibration_moves_confidence_and_not_the_best_class(tmp_path, models):
    sceptical = ConfidenceMap(weights=(0.0,) * len(CLIP_FEATURES), bias=-20.0)
    write_tiny_bundle(tmp_path, calibration=Calibration(student_temperature=4.0, q_teacher=sceptical))
    raw = models.student.score(_pixels(3, models.student.geometry))
    before = calibrate_student(raw, models.manifest.calibration, "single")
    after = calibrate_student(raw, read_manifest(tmp_path).calibration, "single")
    np.testing.assert_array_equal(before.probabilities_NK.argmax(axis=1), after.probabilities_NK.argmax(axis=1))
    assert (after.probabilities_NK.max(axis=1) < before.probabilities_NK.max(axis=1)).all()
    assert (after.q_teacher_N < 0.001).all()
    np.testing.assert_array_equal(after.q_student_N, before.q_student_N)


def test_motion_is_the_mean_grey_step_between_frames():
    pixels_NTCHW = np.zeros((2, 3, 3, 2, 2), dtype=np.uint8)
    pixels_NTCHW[0, 1] = 51  # a fifth of the range up, and down again
    pixels_NTCHW[1, 1:, :, 0] = 255  # half of the picture turns white and stays so
    np.testing.assert_allclose(measure_motion(pixels_NTCHW), [0.2, 0.25], rtol=1e-6)
    assert measure_motion(pixels_NTCHW[:, :1]).tolist() == [0.0, 0.0]


def test_networks_are_ready_for_inference_and_named_for_their_device(models):
    assert not models.student.network.training
    assert not models.teacher.network.training
    assert models.device_name == name_device(CPU) == "cpu"
    assert models.teacher.flops_per_clip > models.student.flops_per_clip > 0


def test_weights_in_half_precision_are_read_as_float32(tmp_path):
    from safetensors.torch import load_file, save_file

    manifest = write_tiny_bundle(tmp_path)
    path = tmp_path / STUDENT_WEIGHTS
    halved = {name: t.half() if t.is_floating_point() else t for name, t in load_file(path).items()}
    save_file(halved, path)
    write_manifest(tmp_path, replace(manifest, student=replace(manifest.student, weights_sha256=file_sha256(path))))
    assert {parameter.dtype for parameter in load_bundle(tmp_path).student.network.parameters()} == {torch.float32}


@pytest.mark.parametrize("kept", [0, 4, 1000])
def test_weights_that_break_off_are_refused(tmp_path, kept):
    manifest = write_tiny_bundle(tmp_path)
    path = tmp_path / TEACHER_WEIGHTS
    path.write_bytes(path.read_bytes()[:kept])
    write_manifest(tmp_path, replace(manifest, teacher=replace(manifest.teacher, weights_sha256=file_sha256(path))))
    with pytest.raises(BundleError, match=TEACHER_WEIGHTS):
        load_bundle(tmp_path)


def test_weights_of_another_network_are_refused(tmp_path):
    manifest = write_tiny_bundle(tmp_path)
    wider = replace(manifest.student, arguments={"channels": 8, "hidden": 4})
    write_manifest(tmp_path, replace(manifest, student=wider))
    with pytest.raises(BundleError, match="do not fit"):
        load_bundle(tmp_path)


@pytest.mark.parametrize(
    ("builder", "arguments"),
    [
        ("cdmodel.nowhere:build", {}),
        ("cdmodel.student:nothing", {}),
        ("cdmodel.student:TOP_PROBABILITIES", {}),
        ("cdmodel.student:build_student", {"flavour": 1}),
    ],
)
def test_a_builder_that_does_not_work_is_named(folder, builder, arguments):
    spec = replace(read_manifest(folder).student, builder=builder, arguments=arguments)
    with pytest.raises(BundleError, match=builder):
        build_network(spec, 3, BUILTIN_BUILDERS)


def test_a_builder_of_ones_own_works_where_it_is_allowed(tmp_path, monkeypatch):
    (tmp_path / "own_builder.py").write_text("from cdmodel.teacher import build_teacher as build\n")
    monkeypatch.syspath_prepend(tmp_path)
    write_tiny_bundle(tmp_path / "bundle", teacher_builder="own_builder:build")
    assert load_bundle(tmp_path / "bundle", allowed_builders=("own_builder",)).teacher.flops_per_clip > 0


def test_pixels_are_scaled_by_channel(folder):
    spec = replace(read_manifest(folder).student, mean=(0.0, 0.5, 1.0), std=(1.0, 0.5, 0.25))
    white = np.full((1, 1, 3, 1, 1), 255, dtype=np.uint8)
    assert normalise(white, spec, CPU).flatten().tolist() == [1.0, 1.0, 0.0]
