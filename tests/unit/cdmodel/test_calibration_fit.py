from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from score_builders import cached_video, specialist_videos

from cdmodel.calibration import ALONE_FEATURES, CLIP_FEATURES, describe_clips, temper
from cdmodel.calibration_fit import fit_calibration, fit_confidence, fit_platt, fit_temperature, video_logits
from cdmodel.errors import TrainingError
from cdmodel.labels import log_loss, probabilities_of, to_truth
from cdmodel.replay import calibrate

CLASSES = 4
KINDS = pytest.mark.parametrize("kind", ["single", "multi"])
OWN = CLIP_FEATURES.index("q_teacher_logit")


@pytest.fixture
def random():
    return np.random.default_rng(0)


def _sample_truth(random, probabilities_NK, kind):
    if kind == "multi":
        return random.random(probabilities_NK.shape) < probabilities_NK
    label_N = (probabilities_NK.cumsum(axis=1) > random.random((len(probabilities_NK), 1))).argmax(axis=1)
    return to_truth([[int(label)] for label in label_N], probabilities_NK.shape[1])


def _groups(count: int, size: int = 5) -> np.ndarray:
    return np.array([f"g{number // size}" for number in range(count)])


@KINDS
def test_a_known_temperature_is_recovered(random, kind):
    logits_NK = random.normal(size=(20_000, CLASSES)) * 2
    truth_NK = _sample_truth(random, probabilities_of(logits_NK, kind, 2.5), kind)
    assert fit_temperature(logits_NK, truth_NK, kind) == pytest.approx(2.5, rel=0.05)


@KINDS
def test_a_temperature_lowers_the_loss_and_never_changes_the_answer(random, kind):
    logits_NK = random.normal(size=(500, CLASSES)) * 8
    truth_NK = _sample_truth(random, probabilities_of(logits_NK, kind, 5.0), kind)
    temperature = fit_temperature(logits_NK, truth_NK, kind)
    assert log_loss(logits_NK / temperature, truth_NK, kind) < log_loss(logits_NK, truth_NK, kind)
    best_N = probabilities_of(logits_NK, kind, temperature).argmax(axis=1)
    assert np.array_equal(best_N, logits_NK.argmax(axis=1))


@KINDS
def test_no_other_temperature_is_better(random, kind):
    logits_NK = random.normal(size=(300, CLASSES)) * 3
    truth_NK = _sample_truth(random, probabilities_of(logits_NK, kind, 1.7), kind)
    best = log_loss(logits_NK / fit_temperature(logits_NK, truth_NK, kind), truth_NK, kind)
    assert all(best <= log_loss(logits_NK / other, truth_NK, kind) + 1e-9 for other in np.linspace(0.1, 10, 100))


@KINDS
def test_the_video_temperature_calibrates_what_was_averaged(random, kind):
    sharp_VK = probabilities_of(random.normal(size=(4000, CLASSES)) * 2, kind)
    truth_VK = _sample_truth(random, sharp_VK, kind)
    blurred_VK = temper(sharp_VK, 3.0, kind)
    assert fit_temperature(video_logits(blurred_VK, kind), truth_VK, kind) == pytest.approx(1 / 3, rel=0.1)


@KINDS
def test_a_temperature_is_finite_on_extreme_logits(kind):
    logits_NK = np.array([[1e4, -1e4], [-1e4, 1e4]])
    for truth_NK in (np.eye(2, dtype=bool), ~np.eye(2, dtype=bool)):
        assert 0.05 <= fit_temperature(logits_NK, truth_NK, kind) <= 20


def test_a_known_logistic_map_is_recovered_whole_or_by_its_own_feature_alone(random):
    features_NF = random.normal(size=(20_000, 3)) * 2 + 1
    chance_N = 1 / (1 + np.exp(-(features_NF @ [0.7, -0.5, 0.0] - 0.4)))
    right_N = random.random(20_000) < chance_N
    both = fit_confidence(features_NF, right_N, _groups(20_000), 0)
    np.testing.assert_allclose(both.weights, [0.7, -0.5, 0.0], atol=0.05)
    assert both.bias == pytest.approx(-0.4, abs=0.1)
    alone_N = random.random(20_000) < 1 / (1 + np.exp(-(0.7 * features_NF[:, 0] - 0.4)))
    platt = fit_platt(features_NF, alone_N, _groups(20_000), 0)
    np.testing.assert_allclose(platt.weights, [0.7, 0.0, 0.0], atol=0.05)
    assert platt.bias == pytest.approx(-0.4, abs=0.1)


@pytest.mark.parametrize("rights", [0, 6, 12])
def test_a_map_stays_finite_when_a_threshold_or_nothing_separates(rights):
    features_NF = np.linspace(-3, 3, 12)[:, None]
    for fit in (fit_platt, fit_confidence):
        fitted = fit(features_NF, np.arange(12) >= 12 - rights, _groups(12, 3), 0)
        assert np.isfinite([*fitted.weights, fitted.bias]).all()
        assert fitted.weights[0] >= 0


@pytest.mark.parametrize(("right", "share"), [(True, 9 / 10), (False, 1 / 10)])
def test_one_outcome_alone_gives_a_constant_by_the_rule_of_succession(random, right, share):
    features_NF = random.normal(size=(8, 3))
    for fit in (fit_platt, fit_confidence):
        fitted = fit(features_NF, np.full(8, right), _groups(8, 2), 0)
        assert fitted.weights == (0.0, 0.0, 0.0)
        np.testing.assert_allclose(fitted(features_NF), share, rtol=1e-6)


def test_a_head_that_is_upside_down_is_turned_around(random):
    logits_N1 = random.normal(size=(2000, 1))
    right_N = random.random(2000) < 1 / (1 + np.exp(2 * logits_N1[:, 0]))
    assert fit_platt(logits_N1, right_N, _groups(2000), 0).weights[0] == pytest.approx(-2.0, abs=0.2)


def test_the_rest_of_the_video_is_used_where_it_tells_something(random):
    own_N, view_N = random.normal(size=(2, 400))
    right_N = random.random(400) < 1 / (1 + np.exp(-(own_N + 2 * view_N)))
    fitted = fit_confidence(np.column_stack([own_N, view_N]), right_N, _groups(400), 0)
    assert fitted.weights[1] > fitted.weights[0] > 0


def _noisy_context(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features of which the first alone tells anything, and whether each answer was right."""
    random = np.random.default_rng(seed)
    features_NF = random.normal(size=(count, 10))
    return features_NF, random.random(count) < 1 / (1 + np.exp(-features_NF[:, 0]))


def test_where_the_rest_of_the_video_is_noise_the_map_is_platts():
    features_NF, right_N = _noisy_context(1, 60)
    fitted, platt = (fit(features_NF, right_N, _groups(60), 0) for fit in (fit_confidence, fit_platt))
    assert fitted == platt


def test_noise_in_the_rest_of_the_video_costs_next_to_nothing():
    """Folds may be fooled now and then; on other videos that costs less than a fiftieth of a nat on average."""
    lost = []
    for seed in range(4):
        features_NF, right_N = _noisy_context(seed, 150)
        unseen_NF, truth_N = _noisy_context(100 + seed, 2000)
        fitted, platt = (fit(features_NF, right_N, _groups(150), 0) for fit in (fit_confidence, fit_platt))
        lost.append(_loss(fitted(unseen_NF), truth_N) - _loss(platt(unseen_NF), truth_N))
    assert np.mean(lost) < 0.02


def _loss(chance_N: np.ndarray, right_N: np.ndarray) -> float:
    return float(-np.log(np.where(right_N, chance_N, 1 - chance_N)).mean())


def test_two_videos_that_look_alike_in_one_group_cannot_vouch_for_the_context(random):
    """One group cannot be split into folds, so that nothing speaks for the context."""
    features_NF = random.normal(size=(60, 3))
    right_N = features_NF[:, 1] > 0
    one_group = np.full(60, "g")
    assert fit_confidence(features_NF, right_N, one_group, 0) == fit_platt(features_NF, right_N, one_group, 0)


@KINDS
def test_confidences_mean_what_they_say_on_other_videos(kind):
    calibration = fit_calibration(specialist_videos(0, 80, kind=kind), kind)
    scored = [calibrate(video, calibration, kind) for video in specialist_videos(1, kind=kind)]
    truth = [video.truth_K for video in scored]
    for confidence, answers in (
        ([v.student.q_student_N for v in scored], [v.student.probabilities_NK for v in scored]),
        ([v.student.q_teacher_N for v in scored], [v.teacher.probabilities_NK for v in scored]),
        ([v.teacher.confidence_N for v in scored], [v.teacher.probabilities_NK for v in scored]),
        ([v.teacher_alone.confidence_N for v in scored], [v.teacher.probabilities_NK for v in scored]),
    ):
        q_N = np.concatenate(confidence)
        right_N = np.concatenate([t[p.argmax(axis=1)] for t, p in zip(truth, answers, strict=True)])
        assert q_N.mean() == pytest.approx(right_N.mean(), abs=0.06)
        sure_N = q_N > q_N.mean()
        assert right_N[sure_N].mean() > right_N[~sure_N].mean() + 0.1


def test_without_context_a_confidence_is_a_function_of_its_own_head_alone():
    calibration = fit_calibration(specialist_videos(0), "single", in_context=False)
    for name in ("q_teacher", "q_student"):
        weights = dict(zip(CLIP_FEATURES, getattr(calibration, name).weights, strict=True))
        assert weights.pop(f"{name}_logit") > 0
        assert set(weights.values()) == {0.0}


def test_in_context_a_clip_alone_in_its_opinion_is_trusted_less():
    """Here the heads know nothing, and only the video's view tells whether a clip's answer is right."""
    random = np.random.default_rng(3)
    videos = []
    for number in range(60):
        label = int(random.integers(3))
        says_N = np.where(random.random(8) < 0.6, label, random.integers(3, size=8))
        videos.append(cached_video(np.eye(3)[says_N] * 4, np.eye(3)[says_N] * 4, [label], group=f"g{number}"))
    calibration = fit_calibration(videos, "single")
    alone = cached_video(np.eye(3)[[0, 0, 0, 1]] * 4, np.zeros((4, 3)), [0])
    q_student_N = calibrate(alone, calibration, "single").student.q_student_N
    assert q_student_N[3] < q_student_N[0] - 0.3


@KINDS
@pytest.mark.parametrize("videos", [1, 2])
def test_one_video_of_one_clip_or_two_groups_of_extreme_logits_give_numbers(kind, videos):
    made = [
        cached_video([[1e4, -1e4]], [[-1e4, 1e4]], [number], q_teacher=[1e4], q_student=[-1e4], group=f"g{number}")
        for number in range(videos)
    ]
    calibration = fit_calibration(made, kind)
    for video in made:
        assert np.isfinite(describe_clips(video.student, calibration.student_temperature, kind)).all()
        scored = calibrate(video, calibration, kind)
        for scores_N in (scored.student.q_teacher_N, scored.teacher.confidence_N, scored.teacher_alone.confidence_N):
            assert ((scores_N > 0) & (scores_N < 1)).all()
        assert np.isfinite(scored.student.probabilities_NK).all()


def test_a_teacher_that_is_always_right_is_believed_and_one_never_right_is_not():
    always = fit_calibration([replace(v, teacher_logits_NK=_told(v, 9.0)) for v in specialist_videos(0, 20)], "single")
    never = fit_calibration([replace(v, teacher_logits_NK=_told(v, -9.0)) for v in specialist_videos(0, 20)], "single")
    assert set(always.q_teacher.weights) == set(never.q_teacher.weights) == {0.0}
    assert always.q_teacher.bias == pytest.approx(np.log(101))  # 100 clips
    assert never.teacher_alone == replace(never.q_teacher, weights=(0.0,) * len(ALONE_FEATURES))


def _told(video, towards: float) -> np.ndarray:
    return np.where(video.truth_K, towards, 0.0)[None].repeat(5, axis=0).astype(np.float32)


def test_nothing_to_fit_on_is_an_error_in_one_line():
    with pytest.raises(TrainingError, match="role cal"):
        fit_temperature(np.empty((0, 3)), np.empty((0, 3), dtype=np.bool_), "single")
    with pytest.raises(TrainingError, match="role cal"):
        fit_calibration([], "single")
