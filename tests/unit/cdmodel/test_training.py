from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdmodel.bundle import ModelSpec
from cdmodel.errors import ConfigError, TrainingError
from cdmodel.role_clips import ClipPixels, LabeledClips
from cdmodel.sampling import ClipGeometry
from cdmodel.student import build_student
from cdmodel.student_recipes import StudentRecipe
from cdmodel.teacher import build_teacher
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import ConfidenceSettings, StudentSettings, TrainSettings
from cdmodel.training import (
    StudentLessons,
    TeacherLesson,
    score_student,
    score_teacher,
    seed_networks,
    train_student,
    train_teacher,
)
from cdmodel.weights import write_weights

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
    clips_per_step=8,
    precision="float32",
    background_weight=1.0,
    teacher=TeacherSettings(steps=40),
    student=StudentSettings(steps=60),
)


def _settings(*, seed=0, steps=40, learn="all", label_kind="single"):
    return replace(
        SETTINGS, seed=seed, label_kind=label_kind, teacher=replace(SETTINGS.teacher, steps=steps, learn=learn)
    )


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small are slower on several threads, and far slower where other programs compete for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _sliding_bars(clips: int, seed: int, clips_per_video: int = 1) -> LabeledClips:
    """Return clips of a bright bar that slides down (0) or up (1)."""
    random = np.random.default_rng(seed)
    label_N = np.arange(clips) // clips_per_video % 2
    pixels = random.integers(60, 120, size=(clips, 8, 3, 32, 32)).astype(np.uint8)
    for clip, label in enumerate(label_N):
        start = random.integers(4, 12)
        for step in range(8):
            top = start + 2 * (step if label == 0 else 7 - step)
            pixels[clip, step, :, top : top + 3] = 220
    video_N = np.arange(clips) // clips_per_video
    return LabeledClips(
        pixels=ClipPixels.of(pixels),
        truth_NK=np.eye(2, dtype=np.bool_)[label_N],
        video_N=video_N,
        videos=tuple(f"{seed}-{video}.mp4" for video in range(int(video_N.max(initial=-1)) + 1)),
    )


def _label_of(clips: LabeledClips) -> np.ndarray:
    return clips.truth_NK.argmax(axis=1)


def _ignore(progress):
    pass


def _teacher():
    seed_networks(0)
    return build_teacher(num_classes=2, frames=8, height=32, width=32, channels=6)


def _trained_teacher(settings=SETTINGS, on_progress=_ignore, validation=None):
    seed_networks(settings.seed)
    network = build_teacher(num_classes=2, frames=8, height=32, width=32, channels=6)
    lesson = TeacherLesson(clips=_sliding_bars(32, seed=1), validation=validation)
    train_teacher(network, SPEC, lesson, settings, on_progress)
    return network


def _trained_student(recipe, *, target_of, unseen=True, settings=SETTINGS, clips_per_video=1):
    train, conf = _sliding_bars(32, seed=1), _sliding_bars(32, seed=4, clips_per_video=clips_per_video)
    lessons = StudentLessons(
        train=train,
        teacher_logits_NK=(6 * np.eye(2)[_label_of(train)]).astype(np.float32),
        conf=conf,
        teacher_target_N=target_of(conf),
        unseen_N=np.full(32, unseen),
    )
    seed_networks(0)
    network = build_student(num_classes=2, frames=8, height=32, width=32, channels=8)
    train_student(network, SPEC, lessons, settings, recipe, _ignore)
    held_out = _sliding_bars(24, seed=5)
    return held_out, score_student(network, SPEC, held_out.pixels)


def _better_on_down(clips):
    return np.where(_label_of(clips) == 0, 0.95, 0.05).astype(np.float32)


def test_the_teacher_learns_which_way_a_bar_slides():
    held_out = _sliding_bars(24, seed=2)
    logits = score_teacher(_trained_teacher(), SPEC, held_out.pixels)
    assert (logits.argmax(axis=1) == _label_of(held_out)).mean() > 0.9


def test_the_seed_decides_everything():
    clips = _sliding_bars(4, seed=3).pixels
    first, again, other = (
        score_teacher(_trained_teacher(_settings(seed=seed, steps=5)), SPEC, clips) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_teacher_with_labels_that_are_not_exclusive_learns_them():
    held_out = _sliding_bars(24, seed=2)
    logits = score_teacher(_trained_teacher(_settings(label_kind="multi")), SPEC, held_out.pixels)
    assert ((logits > 0) == held_out.truth_NK).mean() > 0.9


def test_a_teacher_of_which_the_head_learns_keeps_its_trunk():
    settings = _settings(steps=5, learn="head")
    before, trained = _teacher(), _trained_teacher(settings)
    changed = {
        name for name, tensor in trained.state_dict().items() if not torch.equal(tensor, before.state_dict()[name])
    }
    assert changed == {"classify.weight", "classify.bias"}


def test_the_student_learns_classes_from_one_role_and_confidence_from_the_other():
    held_out, output = _trained_student(StudentRecipe(), target_of=_better_on_down)
    assert (output.logits_NK.argmax(dim=1).numpy() == _label_of(held_out)).mean() > 0.9
    believed = output.q_teacher_logit_N.sigmoid().numpy()
    assert believed[_label_of(held_out) == 0].mean() > 0.7 > 0.3 > believed[_label_of(held_out) == 1].mean()


def test_a_student_can_learn_the_order_of_clips_alone():
    def rising(clips):
        return np.where(np.arange(len(clips)) % 2 == 0, 0.8, 0.2).astype(np.float32)

    settings = replace(SETTINGS, student=replace(SETTINGS.student, steps=10))
    _, ranked = _trained_student(
        StudentRecipe(confidence_loss="rank"), target_of=rising, settings=settings, clips_per_video=8
    )
    assert torch.isfinite(ranked.q_teacher_logit_N).all()


def test_the_difference_to_the_student_is_low_where_both_know_the_answer():
    """The target is (teacher - student + 1) / 2: a half where both are sure."""
    _, output = _trained_student(
        StudentRecipe(target="diffprob"), target_of=lambda clips: np.full(len(clips), 1.0, dtype=np.float32)
    )
    assert 0.45 < output.q_teacher_logit_N.sigmoid().mean() < 0.7


def test_a_student_does_not_judge_itself_on_what_it_was_taught():
    settings = replace(SETTINGS, student=replace(SETTINGS.student, steps=3))
    outputs = []
    for unseen in (True, False):
        seed_networks(0)
        untrained = build_student(num_classes=2, frames=8, height=32, width=32, channels=8)
        head = {name: tensor.clone() for name, tensor in untrained.judge_student.state_dict().items()}
        train = _sliding_bars(8, seed=1)
        lessons = StudentLessons(
            train=train,
            teacher_logits_NK=np.zeros((8, 2), dtype=np.float32),
            conf=train,
            teacher_target_N=np.full(8, 0.5, dtype=np.float32),
            unseen_N=np.full(8, unseen),
        )
        train_student(untrained, SPEC, lessons, settings, StudentRecipe(), _ignore)
        outputs.append(
            any(not torch.equal(head[name], tensor) for name, tensor in untrained.judge_student.state_dict().items())
        )
    assert outputs == [True, False]


def test_a_loss_that_is_not_a_number_stops_the_training_and_names_step_and_videos():
    network = _teacher()
    with torch.no_grad():
        network.classify.bias.fill_(torch.nan)
    lesson = TeacherLesson(clips=_sliding_bars(8, seed=1), validation=None)
    with pytest.raises(TrainingError, match=r"teacher step 1: the loss is not a number.*1-\d\.mp4, 1-\d\.mp4"):
        train_teacher(network, SPEC, lesson, SETTINGS, _ignore)


def test_no_clips_is_an_error_not_an_endless_loop():
    lesson = TeacherLesson(clips=_sliding_bars(0, seed=1), validation=None)
    with pytest.raises(TrainingError, match="no clip"):
        train_teacher(_teacher(), SPEC, lesson, SETTINGS, _ignore)


def test_progress_ends_with_the_last_step_and_shows_new_clips():
    reports = []
    _trained_teacher(_settings(steps=12), reports.append, validation=_sliding_bars(6, seed=9))
    assert (reports[-1].stage, reports[-1].step, reports[-1].steps) == ("teacher", 12, 12)
    assert all(report.loss is not None and 0 <= report.accuracy <= 1 for report in reports)
    assert all(0 <= report.validation_accuracy <= 1 for report in reports)


def test_looking_at_new_clips_changes_nothing():
    settings, clips = _settings(steps=12), _sliding_bars(4, seed=3).pixels
    seeing, blind = (
        score_teacher(_trained_teacher(settings, validation=validation), SPEC, clips)
        for validation in (_sliding_bars(6, seed=9), None)
    )
    assert np.array_equal(seeing, blind)


def test_saved_weights_do_not_depend_on_memory_layout(tmp_path):
    network = _teacher()
    write_weights(network, tmp_path / "last.safetensors")
    write_weights(network.to(memory_format=torch.contiguous_format), tmp_path / "first.safetensors")
    assert (tmp_path / "last.safetensors").read_bytes() == (tmp_path / "first.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        (TrainSettings, "seed", -1),
        (TrainSettings, "clips_per_step", 0),
        (TrainSettings, "background_weight", 2),
        (TeacherSettings, "steps", 1),
        (StudentSettings, "steps", 1),
        (StudentSettings, "learning_rate", 0.0),
        (ConfidenceSettings, "folds", 1),
        (ConfidenceSettings, "views", 1),
    ],
)
def test_settings_out_of_range_are_refused_by_name(group, name, value):
    with pytest.raises(ConfigError, match=name):
        group(**{name: value})
