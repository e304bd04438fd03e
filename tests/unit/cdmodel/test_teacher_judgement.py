from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdmodel.calibration_fit import fit_temperature
from cdmodel.errors import TrainingError
from cdmodel.labels import to_truth
from cdmodel.network_training import train_networks
from cdmodel.role_clips import RoleClips
from cdmodel.sampling import ClipGeometry
from cdmodel.teacher_judgement import (
    TargetCheck,
    check_folds,
    divide_groups,
    judge_teacher,
    origin_of,
)
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import ConfidenceSettings, StudentSettings, TrainSettings

SETTINGS = TrainSettings(
    clips_per_step=4,
    precision="float32",
    teacher=TeacherSettings(geometry=ClipGeometry(frames=8, height=32, width=32), arguments={"channels": 3}, steps=2),
    student=StudentSettings(
        geometry=ClipGeometry(frames=2, height=16, width=16), arguments={"channels": 4, "hidden": 4}, steps=2
    ),
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small are slower on several threads, and far slower where other programs compete for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _role(seed, videos, label_ids=((0,), (1,))):
    random = np.random.default_rng(seed)
    clips_V = np.full(videos, 2)
    return RoleClips(
        student_NTCHW=random.integers(0, 255, size=(2 * videos, 2, 3, 16, 16), dtype=np.uint8),
        teacher_NTCHW=random.integers(0, 255, size=(2 * videos, 8, 3, 32, 32), dtype=np.uint8),
        truth_VK=to_truth([list(label_ids[video % len(label_ids)]) for video in range(videos)], 2),
        clips_V=clips_V,
        groups=tuple(f"g{seed}-{video // 2}" for video in range(videos)),
        videos=tuple(f"{seed}-{video}.mp4" for video in range(videos)),
    )


def _roles(label_ids=((0,), (1,))):
    names = ("train", "conf", "cal", "risk", "test")
    return {
        role: _role(seed, videos, label_ids)
        for seed, (role, videos) in enumerate(zip(names, (6, 4, 4, 2, 2), strict=True))
    }


def _confident(**chosen):
    return replace(SETTINGS, confidence=ConfidenceSettings(**chosen))


def _ignore(progress):
    pass


class _Memory(dict):
    """Checkpoints in memory."""

    def read(self, name):
        return self.get(name)

    def write(self, name, content):
        self[name] = content


@pytest.mark.parametrize(
    ("origin", "roles", "clips"),
    [("heldout", ("conf",), 8), ("insample", ("conf",), 8), ("crossfit", ("train", "conf"), 20)],
)
def test_every_clip_that_confidence_is_learned_on_has_a_target(origin, roles, clips):
    judged = judge_teacher(_roles(), _confident(origin=origin, folds=2), _ignore)
    assert judged.origin == origin
    assert judged.lesson_roles == roles
    assert judged.target_N.shape == (clips,)
    assert {role: len(logits) for role, logits in judged.logits.items()} == {
        "train": 12,
        "conf": 8,
        "cal": 8,
        "risk": 4,
        "test": 4,
    }


def _halves(seed, group, *, bright_label):
    """Eight clips of one group whose upper or lower half is bright; the upper one means ``bright_label``."""
    role = _role(seed, 8)
    bright_N = np.arange(16) // 2 % 2
    teacher = np.random.default_rng(seed).integers(20, 60, size=role.teacher_NTCHW.shape, dtype=np.uint8)
    for clip, lower in enumerate(bright_N):
        teacher[clip, :, :, 16 * lower : 16 * lower + 16] += 150
    label_V = (np.arange(8) % 2) ^ bright_label
    return replace(role, teacher_NTCHW=teacher, truth_VK=np.eye(2, dtype=np.bool_)[label_V], groups=(group,) * 8)


def test_no_target_comes_from_a_teacher_that_saw_the_group():
    """Two groups with opposite meanings: who learned from the other one alone is always wrong."""
    roles = {**_roles(), "train": _halves(1, "a", bright_label=0), "conf": _halves(2, "b", bright_label=1)}
    settings = replace(
        _confident(target="correct", origin="crossfit", folds=2),
        clips_per_step=8,
        teacher=replace(SETTINGS.teacher, steps=25),
    )
    assert judge_teacher(roles, settings, _ignore).target_N.mean() < 0.1


def test_a_teacher_that_learns_nothing_is_judged_on_everything_at_no_cost(tmp_path):
    from cdmodel.teacher_source import open_teacher
    from cdmodel.weights import write_weights

    torch.manual_seed(0)
    network, _ = open_teacher(SETTINGS.teacher, 2, ("cdmodel.",))
    write_weights(network, tmp_path / "teacher.safetensors")
    (tmp_path / "labels.txt").write_text("a\nb\n")
    given = replace(
        SETTINGS.teacher,
        learn="nothing",
        weights=str(tmp_path / "teacher.safetensors"),
        labels=str(tmp_path / "labels.txt"),
    )
    settings = replace(SETTINGS, teacher=given)
    assert origin_of(settings) == "given"
    reports = []
    judged = judge_teacher(_roles(), settings, reports.append)
    assert {report.stage for report in reports} == {"score"}
    assert judged.lesson_roles == ("train", "conf")
    state = judged.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())


@pytest.mark.parametrize("target", ["tta_mi", "vote", "vote_mode", "diffprob", "entropy"])
def test_every_kind_of_target_trains_both_networks(target):
    trained = train_networks(_roles(), ("a", "b"), _confident(target=target, views=2), _ignore)
    assert set(trained.logits) == {"cal", "risk", "test"}
    assert trained.target_origin == "heldout"
    for role, clips in (("cal", 8), ("risk", 4), ("test", 4)):
        answers = trained.logits[role]
        assert answers.student_NK.shape == answers.teacher_NK.shape == (clips, 2)
        assert np.isfinite(answers.q_teacher_N).all()


@pytest.mark.parametrize("origin", ["heldout", "crossfit"])
def test_several_labels_train_both_networks(origin):
    settings = replace(_confident(origin=origin, folds=2), label_kind="multi")
    trained = train_networks(_roles(label_ids=((0,), (0, 1), (1,))), ("a", "b"), settings, _ignore)
    assert np.isfinite(trained.logits["test"].student_NK).all()


def test_what_was_kept_is_not_done_again():
    memory, reports = _Memory(), []
    from cdmodel.descent import Keeper

    settings = _confident(origin="crossfit", folds=2, target="vote", views=2)
    first = train_networks(_roles(), ("a", "b"), settings, _ignore, Keeper(checkpoints=memory))
    again = train_networks(_roles(), ("a", "b"), settings, reports.append, Keeper(checkpoints=memory))
    assert {report.stage for report in reports} == {"score"}
    assert np.array_equal(first.logits["test"].student_NK, again.logits["test"].student_NK)


def test_groups_are_dealt_out_whole_and_by_the_seed():
    group_N = np.array([f"g{number // 3}" for number in range(30)])
    fold_N = divide_groups(group_N, 5, seed=1)
    assert set(fold_N) == set(range(5))
    assert all(len(set(fold_N[group_N == group])) == 1 for group in set(group_N))
    assert np.array_equal(fold_N, divide_groups(group_N, 5, seed=1))
    assert not np.array_equal(fold_N, divide_groups(group_N, 5, seed=2))


def test_more_folds_than_groups_are_refused_naming_the_setting():
    with pytest.raises(TrainingError, match=r"confidence\.folds: 5 folds need as many source groups.*3 are there"):
        check_folds(["a", "a", "b", "c"], _confident(origin="crossfit"))
    check_folds(["a"], _confident(origin="heldout"))


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_the_temperature_undoes_a_stretch_of_the_logits(kind):
    random = np.random.default_rng(0)
    logits_NK = random.normal(size=(4000, 3)) * 2
    odds = np.exp(logits_NK)
    if kind == "single":
        drawn = [random.choice(3, p=row / row.sum()) for row in odds]
        truth_NK = np.eye(3, dtype=np.bool_)[drawn]
    else:
        truth_NK = random.random(logits_NK.shape) < odds / (1 + odds)
    assert fit_temperature(3 * logits_NK, truth_NK, kind) == pytest.approx(3, rel=0.1)


def test_a_teacher_that_errs_alike_on_both_kinds_of_clips_raises_no_warning():
    alike = TargetCheck(spread_lesson=0.3, spread_cal=0.25, error_share_lesson=0.2, error_share_cal=0.28)
    by_heart = replace(alike, spread_lesson=0.01, error_share_lesson=0.0)
    assert alike.warnings("heldout") == ()
    assert "errs on 0.0% of them and on 28.0% of cal" in by_heart.warnings("heldout")[0]
