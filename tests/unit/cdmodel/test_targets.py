from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from cdmodel.targets import (
    OneLookTarget,
    ViewsTarget,
    needs_views,
    shuffle_within_classes,
    targets_from_scores,
    targets_from_views,
)

P = np.array([[0.6, 0.3, 0.1], [0.2, 0.3, 0.5]])
TRUTH = np.array([[True, False, False], [False, True, False]])
SCORES = np.array([[0.9, 0.6, 0.1], [0.2, 0.3, 0.5]])
SEVERAL = np.array([[True, True, False], [False, True, False]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tcp", [0.6, 0.3]),
        ("correct", [1.0, 0.0]),
        ("tcpr", [1.0, 0.6]),
        ("maxprob", [0.6, 0.5]),
        ("margin", [0.3, 0.2]),
        ("entropy", [1 + (p * np.log(p)).sum() / np.log(3) for p in P]),
    ],
)
def test_targets_of_one_label(target, expected):
    np.testing.assert_allclose(targets_from_scores(target, P, TRUTH, "single"), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("tcp", [1.5 / 1.6, 0.3]),
        ("correct", [1.0, 0.0]),
        ("tcpr", [1.0, 0.6]),
        ("maxprob", [0.9, 0.5]),
        ("margin", [0.8, 0.0]),
        ("entropy", [1 + (s * np.log2(s) + (1 - s) * np.log2(1 - s)).mean() for s in SCORES]),
    ],
)
def test_targets_of_several_labels(target, expected):
    np.testing.assert_allclose(targets_from_scores(target, SCORES, SEVERAL, "multi"), expected, rtol=1e-6, atol=1e-7)


def test_views_that_agree_leave_no_doubt_and_views_that_contradict_leave_most():
    truth = np.eye(2, dtype=np.bool_)[[0, 0]]
    sure = np.array([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])
    np.testing.assert_allclose(targets_from_views("tta_mi", sure, truth, "single"), [1.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(targets_from_views("tta_mi", sure, truth, "multi"), [1.0, 0.0], atol=1e-6)


def test_being_unsure_alike_in_every_view_is_no_disagreement():
    even = np.full((4, 1, 3), 1 / 3)
    assert targets_from_views("tta_mi", even, np.eye(3, dtype=np.bool_)[[0]], "single") == pytest.approx([1.0])


def test_votes_count_views_that_are_right_or_that_follow_the_majority():
    views = np.eye(3)[[[1], [1], [1], [0]]]
    truth = np.array([[True, False, False]])
    assert targets_from_views("vote", views, truth, "single") == pytest.approx([0.25])
    assert targets_from_views("vote_mode", views, truth, "single") == pytest.approx([0.75])
    assert targets_from_views("vote", views, np.array([[True, True, False]]), "multi") == pytest.approx([1.0])


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_every_target_lies_between_0_and_1(kind):
    random = np.random.default_rng(0)
    scores = random.dirichlet(np.full(5, 0.1), size=(4, 200))
    truth = np.eye(5, dtype=np.bool_)[random.integers(0, 5, size=200)]
    made = [targets_from_scores(target, scores[0], truth, kind) for target in get_args(OneLookTarget)]
    made += [targets_from_views(target, scores, truth, kind) for target in get_args(ViewsTarget)]
    for target_N in made:
        assert target_N.dtype == np.float32
        assert ((target_N >= 0) & (target_N <= 1)).all()
        assert target_N.std() > 0


def test_only_agreement_needs_views():
    assert [target for target in ("tcp", "diffprob", "vote", "tta_mi") if needs_views(target)] == ["vote", "tta_mi"]


def test_a_placebo_keeps_the_targets_of_each_class_and_deals_them_out_anew():
    random = np.random.default_rng(0)
    target_N = random.random(300).astype(np.float32)
    truth_NK = np.eye(3, dtype=np.bool_)[np.arange(300) % 3]
    shuffled_N = shuffle_within_classes(target_N, truth_NK, seed=1)
    for label in range(3):
        assert sorted(shuffled_N[truth_NK[:, label]]) == sorted(target_N[truth_NK[:, label]])
    assert abs(np.corrcoef(shuffled_N, target_N)[0, 1]) < 0.2
    assert np.array_equal(shuffled_N, shuffle_within_classes(target_N, truth_NK, seed=1))
    assert not np.array_equal(shuffled_N, shuffle_within_classes(target_N, truth_NK, seed=2))
