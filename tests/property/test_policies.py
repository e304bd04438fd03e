from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmodel.aggregation import LogPool, MeanProbability, aggregate, merge_answers
from cdmodel.calibration import softmax, temper
from cdmodel.cost import ComputeCost
from cdmodel.escalation import DenseStudent, DenseTeacher, Gain, MaxProbability, select_for_escalation
from cdmodel.sampling import ClipSampling, count_clips, frame_times, has_clip, nominal_span
from cdmodel.scores import StudentScores, TeacherScores
from cdmodel.types import ClipSpan

quick = settings(deadline=None, max_examples=60)
shares = st.floats(0, 1)
gains = st.floats(-1, 1)
aggregations = st.one_of(
    st.just(MeanProbability()),
    st.builds(LogPool, confidence_power=st.floats(0, 8), independence=shares, teacher_factor=st.floats(0.01, 100)),
)


@st.composite
def student_scores(draw) -> StudentScores:
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    clips, classes = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    return StudentScores(
        probabilities_NK=softmax(random.normal(scale=3, size=(clips, classes)), 1.0),
        q_teacher_N=random.random(clips, dtype=np.float32),
        q_student_N=random.random(clips, dtype=np.float32),
    )


@st.composite
def half_escalated(draw) -> tuple[StudentScores, TeacherScores | None, np.ndarray]:
    student = draw(student_scores())
    clips, classes = student.probabilities_NK.shape
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    escalated_N = random.random(clips) < draw(shares)
    teacher = TeacherScores(probabilities_NK=softmax(random.normal(scale=3, size=(escalated_N.sum(), classes)), 1.0))
    return student, teacher if escalated_N.any() else None, escalated_N


@quick
@given(student_scores(), shares, shares)
def test_raising_the_threshold_never_escalates_fewer_clips(scores, one, other):
    low, high = (select_for_escalation(MaxProbability(threshold=value), scores) for value in sorted((one, other)))
    assert not (low & ~high).any()


@quick
@given(student_scores(), gains, gains)
def test_raising_the_asked_gain_never_escalates_more_clips(scores, one, other):
    low, high = (select_for_escalation(Gain(min_gain=value), scores) for value in sorted((one, other)))
    assert not (high & ~low).any()


@quick
@given(student_scores())
def test_the_ends_of_the_scales_are_the_dense_policies(scores):
    everybody = select_for_escalation(DenseTeacher(), scores)
    nobody = select_for_escalation(DenseStudent(), scores)
    assert everybody.all()
    assert not nobody.any()
    assert (select_for_escalation(MaxProbability(threshold=0.0), scores) == nobody).all()
    assert (select_for_escalation(Gain(min_gain=1.0), scores) == nobody).all()
    assert (select_for_escalation(Gain(min_gain=-1.0), scores) == everybody).all()
    unsure = scores.probabilities_NK.max(axis=1) < 1
    assert (select_for_escalation(MaxProbability(threshold=1.0), scores) == (everybody & unsure)).all()


@quick
@given(half_escalated(), aggregations)
def test_shares_and_probabilities_sum_to_one(case, aggregation):
    score = aggregate(aggregation, merge_answers(*case))
    assert len(score.weights_N) == len(case[2])
    assert (score.weights_N >= 0).all()
    np.testing.assert_allclose(score.weights_N.sum(), 1.0, rtol=1e-9)
    np.testing.assert_allclose(score.probabilities_K.sum(), 1.0, rtol=1e-6)


@quick
@given(half_escalated(), aggregations, st.randoms(use_true_random=False))
def test_the_order_of_the_clips_does_not_matter(case, aggregation, random):
    student, teacher, escalated_N = case
    order = list(range(len(escalated_N)))
    random.shuffle(order)
    answers = merge_answers(student, teacher, escalated_N)
    rows = np.cumsum(escalated_N) - 1
    shuffled = merge_answers(
        StudentScores(
            probabilities_NK=student.probabilities_NK[order],
            q_teacher_N=student.q_teacher_N[order],
            q_student_N=student.q_student_N[order],
        ),
        None
        if teacher is None
        else TeacherScores(
            probabilities_NK=teacher.probabilities_NK[[rows[clip] for clip in order if escalated_N[clip]]]
        ),
        escalated_N[order],
    )
    np.testing.assert_array_equal(shuffled.probabilities_NK, answers.probabilities_NK[order])
    one, other = aggregate(aggregation, answers), aggregate(aggregation, shuffled)
    np.testing.assert_allclose(other.probabilities_K, one.probabilities_K, rtol=1e-9, atol=1e-300)
    np.testing.assert_allclose(other.weights_N, one.weights_N[order], rtol=1e-12)


@quick
@given(student_scores(), st.floats(0.05, 20))
def test_a_temperature_never_changes_which_class_is_best(scores, temperature):
    before_NK = scores.probabilities_NK.astype(np.float64)
    after_NK = temper(before_NK, temperature)
    best_N = before_NK.argmax(axis=1)
    np.testing.assert_array_equal(after_NK[np.arange(len(best_N)), best_N], after_NK.max(axis=1))


samplings = st.builds(ClipSampling, clip_seconds=st.floats(0.05, 30), stride_seconds=st.floats(0.05, 30))


@quick
@given(st.floats(0, 600), samplings)
def test_the_count_of_clips_agrees_with_asking_for_each(duration_seconds, sampling):
    clips = count_clips(duration_seconds, sampling)
    assert all(has_clip(index, duration_seconds, sampling) for index in range(min(clips, 50)))
    assert has_clip(clips - 1, duration_seconds, sampling)
    assert not has_clip(clips, duration_seconds, sampling)


@quick
@given(st.integers(0, 1000), samplings, st.integers(1, 64))
def test_the_moments_of_a_clip_lie_inside_it_in_order(index, sampling, frames):
    span = nominal_span(index, sampling)
    times = frame_times(span, frames)
    assert len(times) == frames
    assert span.start_seconds <= times[0]
    assert times[-1] < span.end_seconds
    assert list(times) == sorted(times)
    assert frame_times(ClipSpan(start_seconds=0, end_seconds=1), frames)[0] == 0.5 / frames


counts = st.integers(0, 2**60)
costs = st.builds(
    ComputeCost, frames_decoded=counts, bytes_read=counts, teacher_flops=counts, wall_seconds=st.integers(0, 2**30)
)


@quick
@given(costs, costs, costs)
def test_costs_add_up_in_any_grouping_and_nothing_costs_nothing(a, b, c):
    assert (a + b) + c == a + (b + c)
    assert a + b == b + a
    assert a + ComputeCost() == a
    assert sum([a, b, c], ComputeCost()) == a + b + c
