from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file
from torch import nn

from cdmodel.bundle import (
    BUILTIN_BUILDERS,
    TEACHER_FOLDER,
    TEACHER_WEIGHTS,
    find_teacher,
    read_manifest,
    weights_sha256,
    write_manifest,
)
from cdmodel.errors import BundleError, ConfigError, SourceError
from cdmodel.models import load_bundle
from cdmodel.sampling import ClipGeometry
from cdmodel.teacher_source import (
    TeacherSettings,
    check_known,
    choose_parameters,
    describe_teacher,
    enter_training,
    known_labels,
    open_teacher,
    write_teacher,
)
from cdmodel.testing import write_tiny_bundle
from cdmodel.weights import write_weights

SMALL = ClipGeometry(frames=8, height=32, width=32)
RESNET = {"builder": "cdmodel.resnet3d:build_resnet3d", "arguments": {"depth": 10, "shortcut": "A"}, "geometry": SMALL}


@pytest.fixture
def bundle(tmp_path) -> Path:
    write_tiny_bundle(tmp_path / "bundle", labels=("jump", "run", "walk"))
    return tmp_path / "bundle"


@pytest.fixture(scope="module")
def four_classes(tmp_path_factory) -> Path:
    """A file of weights of a small residual network of four classes."""
    file = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    torch.manual_seed(3)
    network, _ = open_teacher(TeacherSettings(**RESNET), 4, BUILTIN_BUILDERS)
    write_weights(network, file)
    return file


@pytest.fixture
def checkpoint(four_classes, tmp_path) -> Path:
    """The file of weights, in a folder of the test's own."""
    return Path(shutil.copy(four_classes, tmp_path))


@pytest.fixture
def four_labels(tmp_path) -> Path:
    (tmp_path / "labels.txt").write_text("archery\nbowling\n\n curling \ndiving\n")
    return tmp_path / "labels.txt"


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory) -> Path:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed; see the extra hf")
    folder = tmp_path_factory.mktemp("hf") / "videomae"
    transformers.utils.logging.disable_progress_bar()
    config = transformers.VideoMAEConfig(
        image_size=16,
        patch_size=8,
        num_frames=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        id2label={0: "jump", 1: "run", 2: "walk"},
        label2id={"jump": 0, "run": 1, "walk": 2},
    )
    transformers.VideoMAEForVideoClassification(config).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.2]}')
    return folder


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"learn": "nothing"}, "teacher.learn"),
        ({"labels": "labels.txt"}, "teacher.labels"),
        ({"weights": "s3://bucket/teacher"}, "teacher.weights"),
        ({"steps": 1}, "teacher.steps"),
        ({"learning_rate": 1.0}, "teacher.learning_rate"),
        ({"learning_rate": float("nan")}, "teacher.learning_rate"),
        ({"std": (0.5, 0.0, 0.5)}, "teacher.std"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(changes, setting):
    with pytest.raises(ConfigError) as caught:
        TeacherSettings(**changes)
    assert caught.value.subject == setting


def test_settings_are_read_from_a_table_and_know_no_other_key():
    adapter = TypeAdapter(TeacherSettings)
    read = adapter.validate_python({"geometry": {"frames": 8, "height": 32, "width": 32}, "arguments": {"channels": 6}})
    assert read == TeacherSettings(geometry=SMALL, arguments={"channels": 6})
    with pytest.raises(ValidationError, match="colour"):
        adapter.validate_python({"colour": 1})


def test_from_scratch_the_built_in_teacher_answers_for_any_classes():
    settings = TeacherSettings(geometry=SMALL, arguments={"channels": 3})
    network, spec = open_teacher(settings, 5, BUILTIN_BUILDERS)
    assert known_labels(settings) is None
    assert (spec.builder, spec.geometry, spec.weights_sha256) == ("cdmodel.teacher:build_teacher", SMALL, "")
    with torch.inference_mode():
        assert network.eval()(torch.zeros(1, 8, 3, 32, 32)).shape == (1, 5)


def test_a_file_of_weights_gives_everything_but_the_head_of_other_classes(checkpoint):
    settings = TeacherSettings(**RESNET, weights=str(checkpoint))
    network, _ = open_teacher(settings, 2, BUILTIN_BUILDERS)
    stored = load_file(checkpoint)
    assert known_labels(settings) is None
    assert torch.equal(network.state_dict()["conv1.weight"], stored["conv1.weight"])
    assert network.state_dict()["fc.weight"].shape == (2, 512)


def test_without_names_the_head_is_new_even_for_as_many_classes(checkpoint):
    """Its outputs are other classes, in all likelihood."""
    network, _ = open_teacher(TeacherSettings(**RESNET, weights=str(checkpoint)), 4, BUILTIN_BUILDERS)
    assert not torch.equal(network.state_dict()["fc.weight"], load_file(checkpoint)["fc.weight"])


@pytest.mark.parametrize("learn", ["all", "head", "nothing"])
def test_with_names_the_head_is_kept(checkpoint, four_labels, learn):
    settings = TeacherSettings(**RESNET, weights=str(checkpoint), labels=str(four_labels), learn=learn)
    assert known_labels(settings) == ("archery", "bowling", "curling", "diving")
    network, _ = open_teacher(settings, 4, BUILTIN_BUILDERS)
    assert torch.equal(network.state_dict()["fc.weight"], load_file(checkpoint)["fc.weight"])


def test_names_that_are_not_as_many_as_the_outputs_are_refused(checkpoint, four_labels):
    settings = TeacherSettings(**RESNET, weights=str(checkpoint), labels=str(four_labels))
    with pytest.raises(BundleError, match=r"no head of 3 classes: fc\.weight"):
        open_teacher(settings, 3, BUILTIN_BUILDERS)


def test_a_file_of_weights_alone_does_not_name_its_classes(checkpoint):
    with pytest.raises(ConfigError, match=r"teacher\.labels.*does not name its classes"):
        known_labels(TeacherSettings(**RESNET, weights=str(checkpoint), learn="nothing"))


@pytest.mark.parametrize(
    ("content", "said"),
    [("run\nwalk\nrun\n", "'run' twice"), ("run\n", "at least two"), (b"\xff\xfe", "cannot be read")],
)
def test_a_file_of_labels_that_cannot_be_used_is_refused(tmp_path, checkpoint, content, said):
    path = tmp_path / "bad.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SourceError, match=said):
        known_labels(TeacherSettings(weights=str(checkpoint), labels=str(path)))


def test_the_teacher_of_another_bundle_is_taken_as_it_is_there(bundle):
    settings = TeacherSettings(weights=str(bundle))
    network, spec = open_teacher(settings, 3, BUILTIN_BUILDERS)
    manifest = read_manifest(bundle)
    assert known_labels(settings) == ("jump", "run", "walk")
    assert spec == describe_teacher(settings) == replace(manifest.teacher, weights_sha256="")
    stored = load_file(bundle / TEACHER_WEIGHTS)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in network.state_dict().items())


def test_the_file_within_a_bundle_serves_for_other_classes(bundle):
    settings = TeacherSettings(weights=str(bundle / TEACHER_WEIGHTS), geometry=SMALL, arguments={"channels": 3})
    network, _ = open_teacher(settings, 5, BUILTIN_BUILDERS)
    assert known_labels(settings) is None
    assert network.state_dict()["classify.weight"].shape[0] == 5


def test_a_hugging_face_folder_needs_no_other_setting(hugging_face):
    settings = TeacherSettings(weights=str(hugging_face), learn="nothing")
    network, spec = open_teacher(settings, 3, BUILTIN_BUILDERS)
    assert known_labels(settings) == ("jump", "run", "walk")
    assert spec.builder == "cdmodel.hf_teacher:build_hf_teacher"
    assert spec.geometry == ClipGeometry(frames=4, height=16, width=16)
    assert (spec.mean, spec.std) == ((0.4, 0.5, 0.6), (0.2, 0.2, 0.2))
    stored = load_file(hugging_face / "model.safetensors")
    assert torch.equal(network.state_dict()["model.classifier.weight"], stored["classifier.weight"])


def test_a_hugging_face_teacher_that_learns_gets_a_new_head(hugging_face):
    settings = TeacherSettings(weights=str(hugging_face), learn="head")
    network, _ = open_teacher(settings, 7, BUILTIN_BUILDERS)
    assert known_labels(settings) is None
    assert network.state_dict()["model.classifier.weight"].shape == (7, 16)


def test_clips_of_a_size_it_cannot_take_are_refused_before_the_weights_are_read(hugging_face):
    settings = TeacherSettings(weights=str(hugging_face), geometry=SMALL)
    with pytest.raises(BundleError, match="takes 4 frames of 16 x 16"):
        open_teacher(settings, 3, BUILTIN_BUILDERS)


def test_a_folder_without_normalisation_asks_for_it(hugging_face, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((hugging_face / name).read_bytes())
    with pytest.raises(BundleError, match=r"set teacher\.mean and teacher\.std"):
        describe_teacher(TeacherSettings(weights=str(tmp_path)))
    assert describe_teacher(TeacherSettings(weights=str(tmp_path), std=(0.5, 0.5, 0.5))).std == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_weights_that_are_not_there_are_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=r"no such file|neither a bundle"):
        open_teacher(TeacherSettings(weights=str(tmp_path / name)), 3, BUILTIN_BUILDERS)


def test_a_builder_that_is_not_allowed_is_refused(checkpoint):
    settings = TeacherSettings(builder="os:system", weights=str(checkpoint))
    with pytest.raises(BundleError, match="not allowed"):
        open_teacher(settings, 3, BUILTIN_BUILDERS)


def test_the_head_is_the_last_linear_layer_of_that_many_outputs():
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 5))
    chosen = choose_parameters(network, "head", 3)
    assert [id(parameter) for parameter in chosen] == [id(network[1].weight), id(network[1].bias)]
    assert [parameter.requires_grad for parameter in network.parameters()] == [False, False, True, True, False, False]
    with pytest.raises(BundleError, match="answers with 7 classes"):
        choose_parameters(network, "head", 7)


def test_all_leaves_alone_what_the_builder_froze():
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    network[0].requires_grad_(requires_grad=False)
    assert len(choose_parameters(network, "all", 3)) == 2
    assert choose_parameters(network, "nothing", 3) == []
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_frozen_batch_norms_stay_as_they_are_in_training():
    network, _ = open_teacher(TeacherSettings(**RESNET), 3, BUILTIN_BUILDERS)
    choose_parameters(network, "head", 3)
    before = network.bn1.running_mean.clone()
    enter_training(network)
    network(torch.randn(2, 8, 3, 32, 32)).sum().backward()
    assert torch.equal(network.bn1.running_mean, before)
    assert network.training
    assert network.fc.weight.grad is not None
    assert network.conv1.weight.grad is None


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_was_written_is_the_teacher_of_a_bundle(kind, bundle, request):
    if kind == "folder":
        settings = TeacherSettings(weights=str(request.getfixturevalue("hugging_face")))
    else:
        settings = TeacherSettings(**RESNET)
    network, spec = open_teacher(settings, 3, BUILTIN_BUILDERS)
    manifest = read_manifest(bundle)
    (bundle / TEACHER_WEIGHTS).unlink()
    manifest = replace(manifest, teacher=write_teacher(network, spec, bundle))
    write_manifest(bundle, manifest)
    models = load_bundle(bundle)
    assert find_teacher(bundle).name == (TEACHER_FOLDER if kind == "folder" else TEACHER_WEIGHTS)
    assert manifest.teacher.weights_sha256 == weights_sha256(find_teacher(bundle))
    clips_NTCHW = torch.randn(1, spec.geometry.frames, 3, spec.geometry.height, spec.geometry.width)
    with torch.inference_mode():
        torch.testing.assert_close(models.teacher.network(clips_NTCHW), network.eval()(clips_NTCHW))


def test_labels_that_the_teacher_does_not_know_are_named_with_what_they_may_mean():
    check_known("videos.csv", ["run", "walk"], ["walk", "run", "jump"])
    with pytest.raises(SourceError, match=r"videos\.csv.*'juggling', 'runing' \(close: 'running'\)"):
        check_known("videos.csv", ["runing", "walk", "juggling"], ["walk", "running", "sit"])
    with pytest.raises(SourceError, match="and 3 more"):
        check_known("videos.csv", [f"class {index}" for index in range(8)], ["walk", "run"])
