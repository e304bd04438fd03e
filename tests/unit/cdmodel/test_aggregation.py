from __future__ import annotations

import numpy as np
import pytest
from score_builders import asked, floats, student_scores, teacher_scores, unasked

from cdmodel.aggregation import (
    ClipAnswers,
    Judge,
    LogPool,
    MeanProbability,
    TopMean,
    WeightedMean,
    aggregate,
    merge_answers,
)
from cdmodel.calibration import temper

STUDENT = student_scores(
    [[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], q_teacher=[0.9, 0.8, 0.7], q_student=[0.6, 0.5, 0.4]
)
TEACHER = teacher_scores([[0.0, 1.0, 0.0]], confidence=[0.8])
ALL = np.ones(3, dtype=np.bool_)
STATE = asked(STUDENT, [False, True, False], TEACHER)
MERGED = merge_answers(STATE, ALL)
ALONE = merge_answers(unasked(STUDENT), ALL)


def _answers(probabilities_NK, confidence=None, by_teacher=None, counted=None) -> ClipAnswers:
    clips = len(probabilities_NK)
    return ClipAnswers(
        probabilities_NK=floats(probabilities_NK),
        confidence_N=floats(np.full(clips, 0.5) if confidence is None else confidence),
        by_teacher_N=np.zeros(clips, dtype=np.bool_) if by_teacher is None else np.array(by_teacher),
        counted_N=np.ones(clips, dtype=np.bool_) if counted is None else np.array(counted),
    )


def test_every_clip_has_one_voice_the_teachers_where_it_was_asked():
    np.testing.assert_array_equal(MERGED.probabilities_NK[1], TEACHER.probabilities_NK[0])
    np.testing.assert_array_equal(MERGED.probabilities_NK[[0, 2]], STUDENT.probabilities_NK[[0, 2]])
    np.testing.assert_array_equal(MERGED.confidence_N, floats([0.6, 0.8, 0.4]))
    assert STUDENT.probabilities_NK[1, 1] == np.float32(0.5), "the student's own scores stay as they were"


def test_without_a_student_the_clips_nobody_looked_at_do_not_count():
    answers = merge_answers(asked(None, [False, True, False], TEACHER), ALL)
    assert answers.counted_N.tolist() == [False, True, False]
    assert answers.confidence_N[1] == np.float32(0.8)
    for aggregation in (MeanProbability(), WeightedMean(), TopMean(clips=2), LogPool()):
        score = aggregate(aggregation, answers, "single")
        assert score.weights_N.tolist() == [0.0, 1.0, 0.0]
        assert score.probabilities_K.argmax() == 1


def test_without_a_student_the_teacher_has_to_answer_something():
    with pytest.raises(ValueError, match="at least one clip"):
        merge_answers(unasked(None, 3), ALL)


def test_where_everything_was_dropped_everything_that_was_seen_counts_after_all():
    nothing = np.zeros(3, dtype=np.bool_)
    assert merge_answers(STATE, nothing).counted_N.all()
    only_teacher = merge_answers(asked(None, [False, True, False], TEACHER), ~np.array([False, True, False]))
    assert only_teacher.counted_N.tolist() == [False, True, False]


def test_the_mean_is_numpys_mean_of_the_clips_that_count():
    score = aggregate(MeanProbability(), MERGED, "single")
    np.testing.assert_allclose(score.probabilities_K, MERGED.probabilities_NK.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(score.weights_N, [1 / 3] * 3)
    some = aggregate(MeanProbability(), merge_answers(STATE, np.array([True, True, False])), "single")
    np.testing.assert_allclose(some.probabilities_K, [0.3, 0.65, 0.05], rtol=1e-6)
    assert some.weights_N.tolist() == [0.5, 0.5, 0.0]


def test_a_weighted_mean_trusts_clips_by_a_power_of_their_confidence():
    score = aggregate(WeightedMean(confidence_power=2.0), _answers([[1, 0], [0, 1]], confidence=[0.6, 0.2]), "single")
    np.testing.assert_allclose(score.weights_N, [0.9, 0.1], rtol=1e-6)  # 0.36 and 0.04
    np.testing.assert_allclose(score.probabilities_K, [0.9, 0.1], rtol=1e-6)
    level = aggregate(WeightedMean(confidence_power=0.0), MERGED, "single")
    np.testing.assert_allclose(level.probabilities_K, aggregate(MeanProbability(), MERGED, "single").probabilities_K)


def test_the_top_mean_of_one_clip_is_the_largest_probability_of_each_label():
    answers = _answers([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]])
    single, multi = (aggregate(TopMean(clips=1), answers, kind) for kind in ("single", "multi"))
    np.testing.assert_allclose(multi.probabilities_K, [0.6, 0.5, 0.8], rtol=1e-6)
    np.testing.assert_allclose(single.probabilities_K, np.array([0.6, 0.5, 0.8]) / 1.9, rtol=1e-6)
    assert single.weights_N.tolist() == multi.weights_N.tolist() == [0.0, 0.0, 1.0]


def test_the_top_mean_of_two_clips_takes_two_of_those_that_count():
    answers = _answers([[0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.1, 0.1, 0.8]], counted=[True, True, False])
    score = aggregate(TopMean(clips=2), answers, "multi")
    np.testing.assert_allclose(score.probabilities_K, [0.4, 0.4, 0.2], rtol=1e-6)
    assert score.weights_N.tolist() == [0.5, 0.5, 0.0]
    more = aggregate(TopMean(clips=9), answers, "multi")
    np.testing.assert_allclose(more.probabilities_K, score.probabilities_K)
    best = aggregate(TopMean(clips=2), _answers([[0.9], [0.1], [0.6]]), "multi")
    np.testing.assert_allclose(best.probabilities_K, [0.75], rtol=1e-6)


def test_the_plain_log_pool_is_the_normalised_geometric_mean():
    score = aggregate(LogPool(confidence_power=0.0, independence=0.0), ALONE, "single")
    mean_K = np.prod(ALONE.probabilities_NK.astype(np.float64), axis=0) ** (1 / 3)
    np.testing.assert_allclose(score.probabilities_K, mean_K / mean_K.sum(), rtol=1e-12)


def test_the_plain_log_pool_is_the_softmax_or_the_sigmoid_of_the_mean_logit():
    logits_NK = np.array([[1.0, -0.5, 0.25], [-1.0, 2.0, 0.75]])
    mean_K = logits_NK.mean(axis=0)
    softmax_NK = np.exp(logits_NK) / np.exp(logits_NK).sum(axis=1, keepdims=True)
    single = aggregate(LogPool(confidence_power=0.0), _answers(softmax_NK), "single")
    np.testing.assert_allclose(single.probabilities_K, np.exp(mean_K) / np.exp(mean_K).sum(), rtol=1e-6)
    multi = aggregate(LogPool(confidence_power=0.0), _answers(1 / (1 + np.exp(-logits_NK))), "multi")
    np.testing.assert_allclose(multi.probabilities_K, 1 / (1 + np.exp(-mean_K)), rtol=1e-6)


def test_independent_evidence_multiplies():
    score = aggregate(LogPool(confidence_power=0.0, independence=1.0), ALONE, "single")
    product_K = np.prod(ALONE.probabilities_NK.astype(np.float64), axis=0)
    np.testing.assert_allclose(score.probabilities_K, product_K / product_K.sum(), rtol=1e-12)
    several = aggregate(LogPool(confidence_power=0.0, independence=1.0), _answers([[0.75, 0.5], [0.75, 0.2]]), "multi")
    np.testing.assert_allclose(several.probabilities_K, [0.9, 0.2], rtol=1e-6)  # odds 3 * 3 and 1 * 1/4


def test_confidence_and_the_teachers_factor_set_the_shares():
    weights_N = np.array([0.6**2, 3 * 0.8**2, 0.4**2])
    for kind in ("single", "multi"):
        score = aggregate(LogPool(confidence_power=2.0, teacher_factor=3.0), MERGED, kind)
        np.testing.assert_allclose(score.weights_N, weights_N / weights_N.sum(), rtol=1e-6)


def test_one_clip_does_not_veto_a_class_for_ever():
    many = _answers([[0.0, 1.0]] + [[0.99, 0.01]] * 9, confidence=np.full(10, 0.9))
    assert aggregate(LogPool(), many, "single").probabilities_K.argmax() == 0
    assert aggregate(LogPool(), many, "multi").probabilities_K.argmax() == 0


@pytest.mark.parametrize("kind", ["single", "multi"])
@pytest.mark.parametrize(
    "aggregation", [LogPool(independence=1.0), WeightedMean(), TopMean(), MeanProbability()], ids=str
)
def test_certain_clips_that_contradict_each_other_are_still_an_answer(aggregation, kind):
    score = aggregate(aggregation, _answers([[0.0, 1.0], [1.0, 0.0]] * 50, confidence=[0.0, 1.0] * 50), kind)
    assert np.isfinite(score.probabilities_K).all()
    assert np.isfinite(score.weights_N).all()


def test_no_confidence_at_all_is_still_an_answer():
    answers = _answers(STUDENT.probabilities_NK, confidence=np.zeros(3))
    for power in (2.0, 20.0):
        for aggregation in (LogPool(confidence_power=power), WeightedMean(confidence_power=power)):
            np.testing.assert_allclose(aggregate(aggregation, answers, "single").weights_N, [1 / 3] * 3)


@pytest.mark.parametrize("kind", ["single", "multi"])
def test_a_judge_applies_the_video_temperature_after_aggregation(kind):
    raw = aggregate(LogPool(), MERGED, kind)
    score = Judge(aggregation=LogPool(), label_kind=kind, video_temperature=2.0).score(MERGED)
    np.testing.assert_array_equal(score.probabilities_K, temper(raw.probabilities_K, 2.0, kind))
    np.testing.assert_array_equal(score.weights_N, raw.weights_N)
    assert score.probabilities_K.argmax() == raw.probabilities_K.argmax()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("confidence_power", -0.1),
        ("confidence_power", 1000.0),
        ("confidence_power", float("nan")),
        ("independence", 1.1),
        ("independence", float("nan")),
        ("teacher_factor", 0.0),
        ("teacher_factor", float("nan")),
        ("teacher_factor", float("inf")),
    ],
)
def test_a_setting_that_leads_to_no_number_is_refused_by_name(setting, value):
    with pytest.raises(ValueError, match=setting):
        LogPool(**{setting: value})


def test_a_mean_of_no_clips_or_of_a_negative_power_is_refused():
    with pytest.raises(ValueError, match="clips"):
        TopMean(clips=0)
    with pytest.raises(ValueError, match="confidence_power"):
        WeightedMean(confidence_power=-1.0)
