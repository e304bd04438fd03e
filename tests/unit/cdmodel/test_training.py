from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdmodel.bundle import ModelSpec
from cdmodel.errors import ConfigError, TrainingError
from cdmodel.sampling import ClipGeometry
from cdmodel.student import build_student
from cdmodel.teacher import build_teacher
from cdmodel.training import (
    LabeledClips,
    StudentLessons,
    TrainSettings,
    recolour_clips,
    save_weights,
    score_student,
    score_teacher,
    seed_networks,
    shift_clips,
    train_student,
    train_teacher,
)

GEOMETRY = ClipGeometry(frames=8, height=32, width=32)
SPEC = ModelSpec(
    builder="cdmodel.teacher:build_teacher",
    arguments={},
    geometry=GEOMETRY,
    mean=(0.5, 0.5, 0.5),
    std=(0.25, 0.25, 0.25),
    weights_sha256="",
)
SETTINGS = TrainSettings(
    teacher_steps=40, student_steps=60, clips_per_step=8, precision="float32", background_weight=1.0
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small are slower on several threads, and far slower where other programs compete for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _sliding_bars(clips: int, seed: int) -> LabeledClips:
    """Return clips of a bright bar that slides down (0) or up (1)."""
    random = np.random.default_rng(seed)
    label_N = np.arange(clips) % 2
    pixels = random.integers(60, 120, size=(clips, 8, 3, 32, 32)).astype(np.uint8)
    for clip, label in enumerate(label_N):
        start = random.integers(4, 12)
        for step in range(8):
            top = start + 2 * (step if label == 0 else 7 - step)
            pixels[clip, step, :, top : top + 3] = 220
    return LabeledClips(pixels_NTCHW=pixels, label_N=label_N.astype(np.int64))


def _ignore(progress):
    pass


def _trained_teacher(settings=SETTINGS, on_progress=_ignore):
    seed_networks(settings.seed)
    network = build_teacher(num_classes=2, frames=8, height=32, width=32, channels=6)
    train_teacher(network, SPEC, _sliding_bars(32, seed=1), settings, on_progress)
    return network


def test_the_teacher_learns_which_way_a_bar_slides():
    held_out = _sliding_bars(24, seed=2)
    logits = score_teacher(_trained_teacher(), SPEC, held_out.pixels_NTCHW)
    assert (logits.argmax(axis=1) == held_out.label_N).mean() > 0.9


def test_the_seed_decides_everything():
    clips = _sliding_bars(4, seed=3).pixels_NTCHW
    short = replace(SETTINGS, teacher_steps=5)
    first, again, other = (
        score_teacher(_trained_teacher(replace(short, seed=seed)), SPEC, clips) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_student_learns_classes_from_one_role_and_confidence_from_the_other():
    train, conf, held_out = _sliding_bars(32, seed=1), _sliding_bars(32, seed=4), _sliding_bars(24, seed=5)
    lessons = StudentLessons(
        train=train,
        teacher_logits_NK=(6 * np.eye(2)[train.label_N]).astype(np.float32),
        conf=conf,
        teacher_target_N=np.where(conf.label_N == 0, 0.95, 0.05).astype(np.float32),
    )
    seed_networks(0)
    network = build_student(num_classes=2, frames=8, height=32, width=32, channels=8)
    train_student(network, SPEC, lessons, SETTINGS, _ignore)
    output = score_student(network, SPEC, held_out.pixels_NTCHW)
    assert (output.logits_NK.argmax(dim=1).numpy() == held_out.label_N).mean() > 0.9
    believed = output.q_teacher_logit_N.sigmoid().numpy()
    assert believed[held_out.label_N == 0].mean() > 0.7 > 0.3 > believed[held_out.label_N == 1].mean()


def test_a_loss_that_is_not_a_number_stops_the_training_and_names_the_step():
    seed_networks(0)
    network = build_teacher(num_classes=2, frames=8, height=32, width=32, channels=6)
    with torch.no_grad():
        network.classify.bias.fill_(torch.nan)
    with pytest.raises(TrainingError, match="teacher step 1: the loss is not a number"):
        train_teacher(network, SPEC, _sliding_bars(8, seed=1), SETTINGS, _ignore)


def test_no_clips_is_an_error_not_an_endless_loop():
    nothing = LabeledClips(
        pixels_NTCHW=np.empty((0, 8, 3, 32, 32), dtype=np.uint8), label_N=np.empty(0, dtype=np.int64)
    )
    with pytest.raises(TrainingError, match="no clip"):
        train_teacher(build_teacher(num_classes=2, frames=8, height=32, width=32), SPEC, nothing, SETTINGS, _ignore)


def test_progress_ends_with_the_last_step():
    reports = []
    _trained_teacher(replace(SETTINGS, teacher_steps=7), reports.append)
    assert (reports[-1].stage, reports[-1].step, reports[-1].steps) == ("teacher", 7, 7)
    assert all(report.loss is not None and 0 <= report.accuracy <= 1 for report in reports)


def test_a_shift_moves_all_frames_of_a_clip_alike():
    pixels = np.tile(np.random.default_rng(0).integers(0, 255, (1, 1, 3, 36, 36), dtype=np.uint8), (5, 4, 1, 1, 1))
    moved = shift_clips(pixels, np.random.default_rng(1))
    assert all(np.array_equal(clip[0], clip[3]) for clip in moved)
    assert len({clip.tobytes() for clip in moved}) > 1


def test_new_colours_leave_a_still_clip_still():
    still = torch.randn(3, 1, 3, 8, 8).repeat(1, 4, 1, 1, 1)
    varied = recolour_clips(still, np.random.default_rng(0))
    assert torch.equal(varied[:, 0], varied[:, 3])
    assert not torch.allclose(varied, still)


def test_saved_weights_do_not_depend_on_memory_layout(tmp_path):
    seed_networks(0)
    network = build_teacher(num_classes=2, frames=8, height=32, width=32, channels=6)
    save_weights(network, tmp_path / "last.safetensors")
    save_weights(network.to(memory_format=torch.contiguous_format), tmp_path / "first.safetensors")
    assert (tmp_path / "last.safetensors").read_bytes() == (tmp_path / "first.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", -1),
        ("teacher_steps", 1),
        ("clips_per_step", 0),
        ("student_learning_rate", 0.0),
        ("background_weight", 2),
    ],
)
def test_settings_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=name):
        TrainSettings(**{name: value})
