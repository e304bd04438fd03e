from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cdmodel.ablation_arms import ArmLessons, train_arm
from cdmodel.errors import ConfigError
from cdmodel.role_clips import ClipPixels, LabeledClips
from cdmodel.sampling import ClipGeometry
from cdmodel.student_recipes import ABLATIONS, StudentRecipe, needed_trainings
from cdmodel.train_settings import StudentSettings, TrainSettings
from cdmodel.training import score_student

SETTINGS = TrainSettings(
    clips_per_step=8,
    precision="float32",
    student=StudentSettings(
        geometry=ClipGeometry(frames=2, height=16, width=16), arguments={"channels": 4, "hidden": 4}, steps=8
    ),
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Networks this small are slower on several threads, and far slower where other programs compete for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _clips(seed, videos):
    random = np.random.default_rng(seed)
    label_N = np.repeat(np.arange(videos) % 3, 4)
    return LabeledClips(
        pixels=ClipPixels.of(random.integers(0, 255, size=(4 * videos, 2, 3, 16, 16), dtype=np.uint8)),
        truth_NK=np.eye(3, dtype=np.bool_)[label_N],
        video_N=np.repeat(np.arange(videos), 4),
        videos=tuple(f"{seed}-{video}.mp4" for video in range(videos)),
    )


@pytest.fixture(scope="module")
def lessons():
    random = np.random.default_rng(0)
    train, conf = _clips(1, 6), _clips(2, 6)
    return ArmLessons(
        train=train,
        train_teacher_logits_NK=(4 * train.truth_NK + random.normal(size=(24, 3))).astype(np.float32),
        conf=conf,
        conf_teacher_logits_NK=(conf.truth_NK + random.normal(size=(24, 3))).astype(np.float32),
        teacher_temperature=1.5,
    )


def _train(recipe, lessons, seed=0, base=None):
    return train_arm(recipe, lessons, SETTINGS, seed, lambda progress: None, base)


def _score(arm):
    return score_student(arm.network, arm.spec, _clips(3, 2).pixels)


def _trunk(arm):
    return {name: tensor for name, tensor in arm.network.state_dict().items() if "judge" not in name}


def _same(one, other):
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.fixture(scope="module")
def plain(lessons):
    return _train(ABLATIONS["A2"], lessons)


def test_eighteen_arms_are_ten_trainings():
    needed = needed_trainings(ABLATIONS)
    assert len(ABLATIONS) == 18
    assert len(needed) == 10
    assert {"A1", "A2", "A3", "A12"} <= set(needed[ABLATIONS["A2"]])
    assert {"A7", "A8"} <= set(needed[ABLATIONS["A8"]])
    assert [recipe.refinement for recipe in needed][-2:] == ["gatekeeper", "post_hoc"]


def test_a_refinement_alone_brings_the_training_it_starts_from():
    assert list(needed_trainings(["A10"])) == [ABLATIONS["A2"], ABLATIONS["A10"]]


@pytest.mark.parametrize("arm", ["A0", "A4", "A5", "A6", "A8", "A9", "A10", "A11"])
def test_every_arm_answers_like_a_student(arm, lessons):
    trained = _train(ABLATIONS[arm], lessons)
    output = _score(trained)
    assert output.logits_NK.shape == (8, 3)
    assert all(torch.isfinite(part).all() for part in output)
    assert not trained.network.training


def test_arms_of_one_seed_are_alike_and_of_another_differ(plain, lessons):
    assert _same(_trunk(plain), _trunk(_train(ABLATIONS["A2"], lessons)))
    assert not _same(_trunk(plain), _trunk(_train(ABLATIONS["A2"], lessons, seed=1)))


def test_without_shaping_the_target_changes_the_head_and_nothing_else(plain, lessons):
    """Holds while gradients are not clipped: the heads are part of their norm."""
    other = _train(replace(ABLATIONS["A2"], target="maxprob"), lessons)
    assert torch.allclose(_score(plain).logits_NK, _score(other).logits_NK, atol=1e-5)
    assert not torch.allclose(_score(plain).q_teacher_logit_N, _score(other).q_teacher_logit_N, atol=1e-5)


def test_with_shaping_the_target_changes_the_features(lessons):
    one, other = (_train(StudentRecipe(target=target), lessons) for target in ("tcp", "maxprob"))
    assert not torch.allclose(_score(one).logits_NK, _score(other).logits_NK, atol=1e-4)


def test_a_post_hoc_head_leaves_the_student_as_it_was(plain, lessons):
    refined = _train(ABLATIONS["A10"], lessons, base=plain)
    before, after = _score(plain), _score(refined)
    assert torch.equal(before.logits_NK, after.logits_NK)
    assert torch.equal(before.q_student_logit_N, after.q_student_logit_N)
    assert not torch.equal(before.q_teacher_logit_N, after.q_teacher_logit_N)


def test_gatekeeper_starts_from_the_plain_student_and_leaves_that_alone(plain, lessons):
    before = {name: tensor.clone() for name, tensor in plain.network.state_dict().items()}
    given, trained = _train(ABLATIONS["A9"], lessons, base=plain), _train(ABLATIONS["A9"], lessons)
    assert _same(before, plain.network.state_dict())
    assert _same(given.network.state_dict(), trained.network.state_dict())
    assert not _same(before, given.network.state_dict())


def test_a_placebo_learns_from_other_targets_than_the_method(lessons):
    assert not torch.equal(
        _score(_train(ABLATIONS["A4"], lessons)).q_teacher_logit_N,
        _score(_train(ABLATIONS["A8"], lessons)).q_teacher_logit_N,
    )


def test_a_base_of_another_recipe_is_refused(plain, lessons):
    with pytest.raises(ValueError, match="the base was trained by"):
        _train(StudentRecipe(refinement="post_hoc"), lessons, base=plain)


def test_targets_of_several_views_are_refused(lessons):
    with pytest.raises(ValueError, match="several views"):
        _train(StudentRecipe(target="vote"), lessons)


@pytest.mark.parametrize("name", ["distillation_share", "gatekeeper_weight"])
def test_shares_out_of_range_are_refused(name):
    with pytest.raises(ConfigError, match=name):
        StudentRecipe(**{name: 1.5})
