from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from cdmodel.bundle import BUILTIN_BUILDERS, ModelSpec
from cdmodel.errors import BundleError
from cdmodel.flop_count import count_flops
from cdmodel.hf_teacher import HuggingFaceTeacher, build_hf_teacher, open_with_new_head, read_facts
from cdmodel.models import build_network
from cdmodel.sampling import ClipGeometry

transformers = pytest.importorskip("transformers", reason="transformers is not installed; it comes with the extra hf")

GEOMETRY = ClipGeometry(frames=4, height=16, width=16)
SIZES = {"image_size": 16, "num_frames": 4, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
LABELS = {"id2label": {0: "left", 1: "right", 2: "still"}, "label2id": {"left": 0, "right": 1, "still": 2}}


def _config(kind: str) -> object:
    """Return the smallest model of each family that still has one of everything."""
    match kind:
        case "videomae":
            return transformers.VideoMAEConfig(**SIZES, **LABELS, patch_size=8, tubelet_size=2, num_hidden_layers=1)
        case "timesformer":
            return transformers.TimesformerConfig(**SIZES, **LABELS, patch_size=8, num_hidden_layers=1)
        case "vivit":
            return transformers.VivitConfig(**SIZES, **LABELS, tubelet_size=[2, 8, 8], num_hidden_layers=1)
        case "videoprism":
            layers = {"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1}
            return transformers.VideoPrismVisionConfig(**SIZES, **LABELS, **layers, tubelet_size=[1, 8, 8])
        case "vjepa2":
            predictor = {"pred_hidden_size": 12, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
            return transformers.VJEPA2Config(
                **LABELS,
                **predictor,
                crop_size=16,
                frames_per_clip=4,
                patch_size=8,
                hidden_size=16,
                num_attention_heads=2,
                num_hidden_layers=1,
                num_pooler_layers=1,
            )
    raise ValueError(kind)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """A model folder of each family, as save_pretrained leaves it."""
    root = tmp_path_factory.mktemp("models")
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)
    for kind in ("videomae", "timesformer", "vivit", "videoprism", "vjepa2"):
        transformers.AutoModelForVideoClassification.from_config(_config(kind)).save_pretrained(root / kind)
    return root


@pytest.fixture
def folder(folders, tmp_path) -> Path:
    """A copy of one of them to spoil."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in (folders / "videomae").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def _edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | changes))


def _build(folder: Path, num_classes: int = 3, geometry: ClipGeometry = GEOMETRY) -> torch.nn.Module:
    spec = ModelSpec(
        builder="cdmodel.hf_teacher:build_hf_teacher",
        arguments={},
        geometry=geometry,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        weights_sha256="",
    )
    return build_network(spec, num_classes, BUILTIN_BUILDERS, folder)


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit", "videoprism", "vjepa2"])
def test_every_family_answers_as_transformers_itself_does(folders, kind):
    teacher = _build(folders / kind)
    original = transformers.AutoModelForVideoClassification.from_pretrained(folders / kind, local_files_only=True)
    clips_NTCHW = torch.randn(2, 4, 3, 16, 16)
    with torch.inference_mode():
        logits_NK = teacher(clips_NTCHW)
        expected = original.eval()(**{original.main_input_name: clips_NTCHW}).logits
    assert logits_NK.shape == (2, 3)
    torch.testing.assert_close(logits_NK, expected.reshape(2, 3))
    assert not torch.allclose(logits_NK[0], logits_NK[1])


@pytest.mark.parametrize("kind", ["videomae", "timesformer", "vivit", "videoprism", "vjepa2"])
def test_every_family_tells_its_geometry_and_its_labels(folders, kind):
    facts = read_facts(folders / kind)
    assert facts.geometry == GEOMETRY
    assert facts.labels == ("left", "right", "still")


@pytest.mark.parametrize("kind", ["timesformer", "vjepa2"])
def test_some_families_take_other_clips(folders, kind):
    teacher = _build(folders / kind, geometry=ClipGeometry(frames=8, height=32, width=32))
    with torch.inference_mode():
        assert teacher(torch.randn(1, 8, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("kind", ["videomae", "vivit", "videoprism"])
def test_clips_that_a_family_cannot_take_are_refused(folders, kind):
    with pytest.raises(BundleError, match="takes 4 frames of 16 x 16, got 4 of 32 x 32"):
        _build(folders / kind, geometry=ClipGeometry(frames=4, height=32, width=32))


def test_attention_is_counted_on_the_cpu_too(folders):
    """Four linear maps and a two-layer perceptron per token, two products of the attention, the tubelets, the head."""
    tokens, width, hidden, tubelet = 8, 16, 32, 3 * 2 * 8 * 8
    per_token = 4 * width * width + 2 * width * hidden + tubelet * width
    flops = count_flops(_build(folders / "videomae"), GEOMETRY, torch.device("cpu"))
    assert flops == 2 * (tokens * per_token + 2 * tokens * tokens * width + width * 3)


def test_other_classes_get_a_new_head_and_keep_the_rest(folders):
    teacher = open_with_new_head(folders / "videomae", GEOMETRY, 5)
    stored = load_file(folders / "videomae" / "model.safetensors")
    state = teacher.model.state_dict()
    assert state["classifier.weight"].shape == (5, 16)
    torch.testing.assert_close(
        state["videomae.embeddings.patch_embeddings.projection.weight"],
        stored["videomae.embeddings.patch_embeddings.projection.weight"],
    )


def test_the_same_number_of_classes_gets_a_new_head_all_the_same(folders):
    teacher = open_with_new_head(folders / "videomae", GEOMETRY, 3)
    stored = load_file(folders / "videomae" / "model.safetensors")["classifier.weight"]
    assert not torch.allclose(teacher.model.state_dict()["classifier.weight"], stored)


def test_a_pretrained_model_without_a_classifier_gets_one(folder):
    path = folder / "model.safetensors"
    save_file({name: t for name, t in load_file(path).items() if "classifier" not in name}, path, {"format": "pt"})
    with pytest.raises(BundleError, match=r"classifier\.bias is missing"):
        _build(folder)
    assert isinstance(open_with_new_head(folder, GEOMETRY, 2), HuggingFaceTeacher)


def test_what_was_written_is_read(folders, tmp_path):
    teacher = open_with_new_head(folders / "vjepa2", GEOMETRY, 5)
    teacher.write(tmp_path / "teacher")
    assert sorted(file.name for file in (tmp_path / "teacher").iterdir()) == ["config.json", "model.safetensors"]
    clips_NTCHW = torch.randn(1, 4, 3, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(_build(tmp_path / "teacher", 5)(clips_NTCHW), teacher(clips_NTCHW))


def test_a_bundle_of_other_classes_is_refused(folders):
    with pytest.raises(BundleError, match="answers with 3 classes, not 4"):
        _build(folders / "videomae", 4)


@pytest.mark.parametrize("key", ["auto_map", "quantization_config", "_attn_implementation"])
def test_a_configuration_that_can_name_code_is_refused(folder, key):
    _edit(folder / "config.json", **{key: {"AutoModelForVideoClassification": "trap.Model"}})
    (folder / "trap.py").write_text("raise SystemExit('the trap went off')")
    with pytest.raises(BundleError, match=key):
        _build(folder)


def test_an_adapter_is_refused(folder):
    _edit(folder / "adapter_config.json", base_model_name_or_path="somebody/else")
    with pytest.raises(BundleError, match="names another model"):
        _build(folder)


@pytest.mark.parametrize("shard", ["../other.safetensors", "/tmp/other.safetensors", "pytorch_model.bin", ""])
def test_shards_from_elsewhere_are_refused(folder, shard):
    _edit(folder / "model.safetensors.index.json", weight_map={"classifier.weight": shard})
    with pytest.raises(BundleError, match="no safetensors file beside it"):
        _build(folder)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"model_type": "bert"}', '{"model_type": "nonsense"}'])
def test_a_configuration_of_something_else_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(BundleError, match=r"cannot be|holds no JSON"):
        _build(folder)


def test_a_folder_without_safetensors_is_refused(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BundleError, match="cannot be loaded"):
        _build(folder)


def test_a_name_of_the_hub_is_not_looked_up(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BundleError, match="cannot be read"):
        read_facts(Path("MCG-NJU/videomae-base"))


@pytest.mark.parametrize(
    ("preprocessor", "byte_0", "byte_255"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, -2.0, 2.0),
        ({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 1 / 127.5, "offset": True}, -3.0, 1.0),
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": False, "image_mean": [100.0] * 3, "image_std": [1.0] * 3}, -100.0, 155.0),
    ],
)
def test_normalisation_does_what_the_preprocessor_does(folder, preprocessor, byte_0, byte_255):
    _edit(folder / "preprocessor_config.json", **preprocessor)
    facts = read_facts(folder)
    assert facts.mean is not None
    assert facts.std is not None
    assert (0.0 - facts.mean[0]) / facts.std[0] == pytest.approx(byte_0, abs=1e-4)
    assert (1.0 - facts.mean[2]) / facts.std[2] == pytest.approx(byte_255, abs=1e-4)


def test_a_folder_that_says_nothing_of_normalisation_or_labels_admits_it(folder):
    config = json.loads((folder / "config.json").read_text())
    del config["id2label"], config["label2id"]
    (folder / "config.json").write_text(json.dumps(config | {"num_labels": 3}))
    facts = read_facts(folder)
    assert (facts.mean, facts.std, facts.labels) == (None, None, None)


def test_without_transformers_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(BundleError, match=r"cdlabel\[hf\]"):
        build_hf_teacher(num_classes=3, frames=4, height=16, width=16, folder=str(folder))
