from __future__ import annotations

import numpy as np
import pytest

from cdmodel.aggregation import LogPool, MeanProbability
from cdmodel.calibration import sigmoid, softmax, temper
from cdmodel.calibration_fit import (
    VideoScores,
    choose_defaults,
    fit_platt,
    fit_temperature,
    fit_video_temperature,
    max_probability_at_share,
    negative_log_likelihood,
    replay,
)
from cdmodel.errors import TrainingError
from cdmodel.escalation import DenseStudent, DenseTeacher, Gain
from cdmodel.scores import StudentScores, TeacherScores

CLASSES = 4


@pytest.fixture
def random():
    return np.random.default_rng(0)


def _sample_labels(random, probabilities_NK):
    return (probabilities_NK.cumsum(axis=1) > random.random((len(probabilities_NK), 1))).argmax(axis=1)


def _scores(random, labels_N, skill, shown_N):
    """Return calibrated probabilities that know the label where it is shown, with this much skill."""
    logits = random.normal(size=(len(labels_N), CLASSES))
    logits[np.arange(len(labels_N)), labels_N] += skill * shown_N
    return softmax(logits, 1.0)


def _cascade_videos(random, videos=120, clips=8):
    """Return videos of which half of the clips show the label; the teacher sees it, the student only sometimes."""
    made = []
    for _ in range(videos):
        label = int(random.integers(CLASSES))
        labels_N = np.full(clips, label)
        shown_N = random.random(clips) < 0.5
        easy_N = shown_N & (random.random(clips) < 0.3)
        made.append(
            VideoScores(
                student=StudentScores(
                    probabilities_NK=_scores(random, labels_N, 6.0, easy_N),
                    q_teacher_N=np.where(shown_N, 0.9, 0.25).astype(np.float32),
                    q_student_N=np.where(easy_N, 0.9, 0.25).astype(np.float32),
                ),
                teacher=TeacherScores(probabilities_NK=_scores(random, labels_N, 6.0, shown_N)),
                label_id=label,
            )
        )
    return made


def test_a_known_temperature_is_recovered(random):
    logits = random.normal(size=(20_000, CLASSES)) * 2
    labels = _sample_labels(random, softmax(logits, 2.5))
    assert fit_temperature(logits, labels) == pytest.approx(2.5, rel=0.05)


def test_a_temperature_lowers_the_loss_and_never_changes_the_answer(random):
    logits = random.normal(size=(500, CLASSES)) * 8
    labels = _sample_labels(random, softmax(logits, 5.0))
    temperature = fit_temperature(logits, labels)
    assert negative_log_likelihood(logits / temperature, labels) < negative_log_likelihood(logits, labels)
    assert np.array_equal(softmax(logits, temperature).argmax(axis=1), logits.argmax(axis=1))


def test_no_other_temperature_is_better(random):
    logits = random.normal(size=(300, CLASSES)) * 3
    labels = _sample_labels(random, softmax(logits, 1.7))
    best = negative_log_likelihood(logits / fit_temperature(logits, labels), labels)
    assert all(best <= negative_log_likelihood(logits / other, labels) + 1e-9 for other in np.linspace(0.1, 10, 200))


def test_the_video_temperature_calibrates_what_was_averaged(random):
    sharp = softmax(random.normal(size=(4000, CLASSES)) * 2, 1.0).astype(np.float64)
    labels = _sample_labels(random, sharp)
    blurred = temper(sharp, 3.0)
    assert fit_video_temperature(blurred, labels) == pytest.approx(1 / 3, rel=0.1)


def test_a_known_platt_map_is_recovered(random):
    logits = random.normal(size=20_000) * 2
    right = random.random(20_000) < 1 / (1 + np.exp(-(0.7 * logits - 0.4)))
    fitted = fit_platt(logits, right)
    assert (fitted.slope, fitted.bias) == (pytest.approx(0.7, abs=0.05), pytest.approx(-0.4, abs=0.05))


@pytest.mark.parametrize("rights", [0, 6, 12])
def test_platt_stays_finite_when_a_threshold_or_nothing_separates(rights):
    logits = np.linspace(-3, 3, 12)
    fitted = fit_platt(logits, np.arange(12) >= 12 - rights)
    assert np.isfinite([fitted.slope, fitted.bias]).all()
    assert fitted.slope >= 0


def test_a_head_that_is_upside_down_becomes_the_mean_rate(random):
    logits = random.normal(size=2000)
    right = random.random(2000) < 1 / (1 + np.exp(2 * logits))
    fitted = fit_platt(logits, right)
    assert fitted.slope == 0
    assert sigmoid(logits, fitted)[0] == pytest.approx(right.mean(), abs=0.01)


def test_replay_at_the_ends_of_the_gain_policy_is_the_student_alone_and_the_teacher_everywhere(random):
    videos = _cascade_videos(random)
    never, always = (replay(Gain(min_gain=gain), MeanProbability(), videos) for gain in (1.0, -1.0))
    student, teacher = (replay(policy, MeanProbability(), videos) for policy in (DenseStudent(), DenseTeacher()))
    assert (never.escalated_share, always.escalated_share) == (0.0, 1.0)
    assert np.array_equal(never.probabilities_VK, student.probabilities_VK)
    assert np.array_equal(always.probabilities_VK, teacher.probabilities_VK)


def test_the_chosen_policy_comes_near_the_dense_teacher_for_less(random):
    videos = _cascade_videos(random)
    defaults = choose_defaults(videos)
    chosen = replay(defaults.policy, defaults.aggregation, videos)
    assert chosen.video_accuracy >= replay(DenseTeacher(), MeanProbability(), videos).video_accuracy - 0.02
    assert 0 < chosen.escalated_share < 0.6
    assert isinstance(defaults.aggregation, LogPool)


def test_a_student_that_is_always_right_asks_nobody(random):
    perfect = [
        VideoScores(
            student=StudentScores(
                probabilities_NK=np.eye(CLASSES, dtype=np.float32)[[1, 1]],
                q_teacher_N=np.full(2, 0.5, dtype=np.float32),
                q_student_N=np.full(2, 0.99, dtype=np.float32),
            ),
            teacher=TeacherScores(probabilities_NK=np.full((2, CLASSES), 0.25, dtype=np.float32)),
            label_id=1,
        )
    ]
    assert replay(choose_defaults(perfect).policy, MeanProbability(), perfect).escalated_share == 0


def test_the_rival_rule_is_given_the_same_share(random):
    videos = _cascade_videos(random)
    rival = replay(max_probability_at_share(videos, 0.3), MeanProbability(), videos)
    assert rival.escalated_share == pytest.approx(0.3, abs=0.01)


def test_nothing_to_fit_on_is_an_error_in_one_line():
    with pytest.raises(TrainingError, match="role cal"):
        fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64))
