from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from score_builders import FLOPS, SECONDS, random_scores, random_teacher, unasked

from cdmodel.aggregation import (
    ClipAnswers,
    Judge,
    LogPool,
    MeanProbability,
    TopMean,
    VideoScore,
    WeightedMean,
    aggregate,
    merge_answers,
)
from cdmodel.calibration import Calibration, calibrate_student, calibrate_teacher, temper
from cdmodel.cost import ComputeCost
from cdmodel.escalation import clip_score, counted_clips, needs_student, next_clips
from cdmodel.policies import (
    Agreement,
    CentreClips,
    DenseStudent,
    DenseTeacher,
    Disagreement,
    EarlyExit,
    Entropy,
    Gain,
    Gate,
    Margin,
    MaxProbability,
    MotionClips,
    RandomClips,
    SelfConfidence,
    Sequential,
    TeacherConfidence,
    ThreeWay,
    TopGain,
    TopSaliency,
    UniformClips,
    VideoGain,
    VideoRank,
)
from cdmodel.replay import RememberingJudge, ReplayBench, ScoredVideo, replay, replay_video
from cdmodel.sampling import ClipSampling, count_clips, frame_times, has_clip, nominal_span
from cdmodel.scores import StudentLogits, StudentScores, TeacherScores, VideoState
from cdmodel.types import ClipSpan

quick = settings(deadline=None, max_examples=25)
shares = st.floats(0, 1)
gains = st.floats(-1, 1)
counts_of_clips = st.integers(1, 6)
powers = st.floats(0, 8)
seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(["single", "multi"])
aggregations = st.one_of(
    st.just(MeanProbability()),
    st.builds(WeightedMean, confidence_power=powers),
    st.builds(TopMean, clips=counts_of_clips),
    st.builds(LogPool, confidence_power=powers, independence=shares, teacher_factor=st.floats(0.01, 100)),
)
judges = st.builds(
    Judge, aggregation=aggregations, label_kind=kinds, video_temperature=st.floats(0.2, 5, allow_subnormal=False)
)
# An average of unsure clips is never sure to the last bit, where the order of a sum would decide.
unsaturated_judges = st.builds(
    Judge,
    aggregation=st.one_of(st.just(MeanProbability()), st.builds(WeightedMean, confidence_power=powers)),
    label_kind=kinds,
)
clip_thresholds = st.one_of(
    *(st.builds(kind, threshold=shares) for kind in (MaxProbability, Entropy, Margin, SelfConfidence)),
    st.builds(TeacherConfidence, min_confidence=shares),
    st.builds(Gain, min_gain=gains),
    st.builds(VideoGain, min_value=gains),
    st.builds(VideoRank, min_value=gains),
    st.builds(ThreeWay, min_gain=gains, drop_below=shares),
)
order_free = st.one_of(
    clip_thresholds,
    st.sampled_from([DenseTeacher(), DenseStudent(), Disagreement()]),
    st.builds(Gate, threshold=shares),
    st.builds(Agreement, threshold=shares),
    st.builds(TopGain, clips=counts_of_clips),
    st.builds(TopSaliency, clips=counts_of_clips),
    st.builds(Sequential, min_value=gains, stop_confidence=shares, clips_per_round=st.integers(1, 3)),
)
policies = st.one_of(
    order_free,
    *(st.builds(kind, clips=counts_of_clips) for kind in (UniformClips, CentreClips, MotionClips)),
    st.builds(RandomClips, clips=counts_of_clips, seed=st.integers(0, 9)),
    st.builds(EarlyExit, threshold=shares),
)


@st.composite
def scored_videos(draw, kind: str = "single", least: int = 1) -> ScoredVideo:
    random = np.random.default_rng(draw(seeds))
    clips, labels = draw(st.integers(least, 9)), draw(st.integers(2, 5))
    truth_K = np.zeros(labels, dtype=np.bool_)
    truth_K[random.integers(labels)] = True
    return ScoredVideo(
        video_id=f"video {draw(st.integers(0, 99))}",
        group="g",
        truth_K=truth_K,
        student=random_scores(random, clips, labels, kind),
        teacher=random_teacher(random, clips, labels, kind),
        teacher_alone=random_teacher(random, clips, labels, kind),
        seconds=SECONDS,
    )


def _run(policy, judge: Judge, video: ScoredVideo) -> tuple[VideoState, VideoScore]:
    state = replay_video(policy, judge, video).state
    return state, judge.score(merge_answers(state, counted_clips(policy, state)))


def _chosen(policy, judge: Judge, student: StudentScores) -> np.ndarray:
    return next_clips(policy, unasked(student), judge)


@quick
@given(policies, judges, scored_videos())
def test_no_policy_asks_about_a_clip_twice_and_every_one_comes_to_an_end(policy, judge, video):
    clips = len(video.student.q_student_N)
    student = video.student if needs_student(policy) else None
    answers = video.teacher if student is not None else video.teacher_alone
    state, rounds = VideoState.before_the_teacher(video.video_id, clips, student), 0
    while (wanted_N := next_clips(policy, state, judge)).any():
        assert not (wanted_N & state.asked_N).any()
        rounds += 1
        state = state.after(state.asked_N | wanted_N, answers.rows(state.asked_N | wanted_N))
    assert rounds <= clips
    counted_N = counted_clips(policy, state)
    assert merge_answers(state, counted_N).counted_N.any()


@quick
@given(policies, judges, scored_videos(least=2), seeds)
def test_what_the_teacher_was_not_asked_changes_no_decision_and_no_answer(policy, judge, video, seed):
    state, score = _run(policy, judge, video)
    hidden_N = ~state.asked_N
    random = np.random.default_rng(seed)

    def rewrite(truth: TeacherScores) -> TeacherScores:
        clips, labels = truth.probabilities_NK.shape
        lies = random_teacher(random, clips, labels)
        return TeacherScores(
            probabilities_NK=np.where(hidden_N[:, None], lies.probabilities_NK, truth.probabilities_NK),
            confidence_N=np.where(hidden_N, lies.confidence_N, truth.confidence_N),
        )

    lied_about = replace(video, teacher=rewrite(video.teacher), teacher_alone=rewrite(video.teacher_alone))
    other_state, other_score = _run(policy, judge, lied_about)
    np.testing.assert_array_equal(other_state.asked_N, state.asked_N)
    np.testing.assert_array_equal(other_score.probabilities_K, score.probabilities_K)


@quick
@given(clip_thresholds, judges, scored_videos(), shares, shares)
def test_a_dearer_teacher_is_never_asked_about_more_clips(policy, judge, video, one, other):
    """For every policy that is a threshold on a score: the price is what the score has to exceed."""
    name = next(field for field in ("threshold", "min_confidence", "min_gain", "min_value") if hasattr(policy, field))
    cheap, dear = sorted((one, other))
    if isinstance(policy, MaxProbability | Margin | SelfConfidence):
        cheap, dear = dear, cheap  # these ask below their threshold
    few_N = _chosen(replace(policy, **{name: dear}), judge, video.student)
    many_N = _chosen(replace(policy, **{name: cheap}), judge, video.student)
    assert not (few_N & ~many_N).any()


@quick
@given(st.sampled_from([Gate, Agreement]), judges, scored_videos(), shares, shares)
def test_a_video_that_fails_a_low_bar_fails_a_high_one(gate, judge, video, one, other):
    low, high = (gate(threshold=threshold) for threshold in sorted((one, other)))
    assert not (_chosen(low, judge, video.student) & ~_chosen(high, judge, video.student)).any()


@quick
@given(judges, scored_videos(), gains, gains, shares, shares)
def test_looking_one_by_one_never_asks_more_for_a_higher_price_or_a_lower_bar(judge, video, one, other, bar, height):
    """One clip a round: which comes next depends on no threshold, so that a stricter one only stops sooner."""

    def asked(policy):
        return _run(policy, judge, video)[0].asked_N

    cheap, dear = (Sequential(min_value=value, stop_confidence=bar) for value in sorted((one, other)))
    assert not (asked(dear) & ~asked(cheap)).any()
    low, high = (EarlyExit(threshold=threshold) for threshold in sorted((bar, height)))
    assert not (asked(low) & ~asked(high)).any()


@quick
@given(judges, scored_videos())
def test_the_ends_of_the_price_are_the_dense_policies(judge, video):
    never, student = _run(Gain(min_gain=1.0), judge, video), _run(DenseStudent(), judge, video)
    assert not never[0].asked_N.any()
    np.testing.assert_array_equal(never[1].probabilities_K, student[1].probabilities_K)
    always, teacher = _run(Gain(min_gain=-1.0), judge, video), _run(DenseTeacher(), judge, video)
    assert always[0].asked_N.all()
    np.testing.assert_array_equal(always[0].asked_N, teacher[0].asked_N)
    same = replace(video, teacher_alone=video.teacher)
    np.testing.assert_array_equal(_run(DenseTeacher(), judge, same)[1].probabilities_K, always[1].probabilities_K)


@quick
@given(seeds, kinds)
def test_asking_everywhere_asks_everywhere_even_where_every_confidence_is_saturated(seed, kind):
    random = np.random.default_rng(seed)
    raw = StudentLogits(
        logits_NK=random.choice([-1e4, 0, 1e4], size=(5, 3)).astype(np.float32),
        q_teacher_logit_N=np.full(5, -1e4, dtype=np.float32),
        q_student_logit_N=np.full(5, 1e4, dtype=np.float32),
        motion_N=np.zeros(5, dtype=np.float32),
    )
    judge = Judge(aggregation=MeanProbability(), label_kind=kind)
    student = calibrate_student(raw, Calibration(), kind)
    assert _chosen(Gain(min_gain=-1.0), judge, student).all()
    assert not _chosen(Gain(min_gain=1.0), judge, student).any()


@quick
@given(order_free, unsaturated_judges, scored_videos())
def test_a_video_shown_backwards_is_asked_about_the_same_clips_backwards(policy, judge, video):
    backwards = replace(
        video,
        student=StudentScores(
            probabilities_NK=video.student.probabilities_NK[::-1],
            q_teacher_N=video.student.q_teacher_N[::-1],
            q_student_N=video.student.q_student_N[::-1],
            motion_N=video.student.motion_N[::-1],
        ),
        teacher=TeacherScores(
            probabilities_NK=video.teacher.probabilities_NK[::-1], confidence_N=video.teacher.confidence_N[::-1]
        ),
        teacher_alone=TeacherScores(
            probabilities_NK=video.teacher_alone.probabilities_NK[::-1],
            confidence_N=video.teacher_alone.confidence_N[::-1],
        ),
    )
    one, other = _run(policy, judge, video), _run(policy, judge, backwards)
    np.testing.assert_array_equal(other[0].asked_N, one[0].asked_N[::-1])
    np.testing.assert_allclose(other[1].probabilities_K, one[1].probabilities_K, rtol=1e-6, atol=1e-12)


@quick
@given(judges, scored_videos(), counts_of_clips)
def test_a_policy_that_counts_asks_about_that_many_clips_where_there_are_as_many(judge, video, clips):
    expected = min(clips, len(video.student.q_student_N))
    for kind in (TopGain, TopSaliency, UniformClips, CentreClips, RandomClips):
        assert _run(kind(clips=clips), judge, video)[0].asked_N.sum() == expected
    assert 1 <= _run(MotionClips(clips=clips), judge, video)[0].asked_N.sum() <= expected


@quick
@given(judges, scored_videos(), counts_of_clips)
def test_the_top_clips_are_worth_at_least_as_much_as_the_rest(judge, video, clips):
    for policy, value_N in (
        (TopGain(clips=clips), clip_score(Gain(min_gain=0.0), video.student, judge)),
        (TopSaliency(clips=clips), video.student.q_teacher_N),
    ):
        chosen_N = _chosen(policy, judge, video.student)
        assert value_N[chosen_N].min() >= max(value_N[~chosen_N], default=-np.inf)


@quick
@given(judges, scored_videos(), gains, shares)
def test_three_ways_never_drop_a_whole_video_nor_a_clip_the_teacher_saw(judge, video, min_gain, drop_below):
    policy = ThreeWay(min_gain=min_gain, drop_below=drop_below)
    state, score = _run(policy, judge, video)
    assert counted_clips(policy, state)[state.asked_N].all()
    np.testing.assert_allclose(score.weights_N.sum(), 1.0)
    assert np.isfinite(score.probabilities_K).all()


@quick
@given(policies, judges, scored_videos(), scored_videos())
def test_costs_of_videos_add_up_and_do_not_depend_on_their_neighbours(policy, judge, one, other):
    labels = len(one.truth_K)
    if len(other.truth_K) != labels:
        other = one
    both = replay(policy, judge, [one, other], FLOPS)
    for place, video in enumerate((one, other)):
        alone = replay(policy, judge, [video], FLOPS)
        assert both.flops_V[place] == alone.flops_V[0]
        assert both.seconds_V[place] == alone.seconds_V[0]
        np.testing.assert_array_equal(both.probabilities_VK[place], alone.probabilities_VK[0])


@quick
@given(st.lists(policies, min_size=1, max_size=4), judges, scored_videos(), scored_videos())
def test_a_bench_that_remembers_answers_as_the_video_by_itself(several, judge, one, other):
    """Decided and scored among others, after other policies, twice: the bits of a live run's steps."""
    videos = [one, other if len(other.truth_K) == len(one.truth_K) else one, one]
    bench = ReplayBench(videos, judge, FLOPS)
    for policy in (*several, *several):
        run = bench.replay(policy)
        for place, video in enumerate(videos):
            state, score = _run(policy, judge, video)
            assert run.asked_V[place] == state.asked_N.sum()
            np.testing.assert_array_equal(run.probabilities_VK[place], score.probabilities_K)


@quick
@given(judges, scored_videos(), st.lists(seeds, min_size=2, max_size=5), st.booleans())
def test_a_remembered_view_is_the_one_that_was_worked_out(judge, video, masks, with_student):
    remembering = RememberingJudge.of(judge)
    clips = len(video.student.q_student_N)
    for seed in (*masks, *masks):
        asked_N = np.random.default_rng(seed).random(clips) < 0.5
        asked_N[0] = True
        state = VideoState.before_the_teacher("v", clips, video.student if with_student else None)
        state = state.after(asked_N, (video.teacher if with_student else video.teacher_alone).rows(asked_N))
        np.testing.assert_array_equal(remembering.view(state), judge.view(state))


@st.composite
def partly_asked(draw) -> tuple[ClipAnswers, str]:
    kind = draw(kinds)
    video = draw(scored_videos(kind))
    clips = len(video.student.q_student_N)
    random = np.random.default_rng(draw(seeds))
    asked_N = random.random(clips) < draw(shares)
    state = VideoState.before_the_teacher("v", clips, video.student)
    if asked_N.any():
        state = state.after(asked_N, video.teacher.rows(asked_N))
    return merge_answers(state, random.random(clips) < draw(shares)), kind


@quick
@given(partly_asked(), aggregations)
def test_shares_and_probabilities_sum_to_one_and_what_is_dropped_has_none(case, aggregation):
    answers, kind = case
    score = aggregate(aggregation, answers, kind)
    assert (score.weights_N >= 0).all()
    assert (score.weights_N[~answers.counted_N] == 0).all()
    np.testing.assert_allclose(score.weights_N.sum(), 1.0, rtol=1e-9)
    assert ((score.probabilities_K >= 0) & (score.probabilities_K <= 1 + 1e-6)).all()
    if kind == "single":
        np.testing.assert_allclose(score.probabilities_K.sum(), 1.0, rtol=1e-6)


@quick
@given(partly_asked(), aggregations, st.randoms(use_true_random=False))
def test_the_order_of_the_clips_does_not_matter(case, aggregation, random):
    answers, kind = case
    order = list(range(len(answers.confidence_N)))
    random.shuffle(order)
    shuffled = ClipAnswers(
        probabilities_NK=answers.probabilities_NK[order],
        confidence_N=answers.confidence_N[order],
        by_teacher_N=answers.by_teacher_N[order],
        counted_N=answers.counted_N[order],
    )
    one, other = aggregate(aggregation, answers, kind), aggregate(aggregation, shuffled, kind)
    np.testing.assert_allclose(other.probabilities_K, one.probabilities_K, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(other.weights_N, one.weights_N[order], rtol=1e-9)


@quick
@given(scored_videos(), kinds, st.floats(0.05, 20))
def test_a_temperature_never_changes_which_label_is_best(video, kind, temperature):
    before_NK = video.student.probabilities_NK.astype(np.float64)
    after_NK = temper(before_NK, temperature, kind)
    best_N = before_NK.argmax(axis=1)
    np.testing.assert_array_equal(after_NK[np.arange(len(best_N)), best_N], after_NK.max(axis=1))


@quick
@given(seeds, st.integers(1, 40), st.integers(2, 12), shares, kinds, st.booleans())
def test_an_answer_of_the_teacher_is_worth_the_same_whichever_answers_stand_beside_it(
    seed, clips, labels, share, kind, with_student
):
    """A live run calibrates what it asked for, a replay everything: to the last bit the same."""
    random = np.random.default_rng(seed)
    calibration = Calibration(
        teacher_temperature=float(random.uniform(0.5, 2)),
        teacher_answer=replace(Calibration().teacher_answer, weights=tuple(random.normal(size=6).tolist())),
        teacher_alone=replace(Calibration().teacher_alone, weights=tuple(random.normal(size=3).tolist())),
    )
    student = random_scores(random, clips, labels, kind) if with_student else None
    logits_NK = random.normal(scale=4, size=(clips, labels)).astype(np.float32)
    asked_N = random.random(clips) < share
    all_of_it = calibrate_teacher(logits_NK, np.ones(clips, dtype=np.bool_), student, calibration, kind)
    part = calibrate_teacher(logits_NK[asked_N], asked_N, student, calibration, kind)
    np.testing.assert_array_equal(part.probabilities_NK, all_of_it.rows(asked_N).probabilities_NK)
    np.testing.assert_array_equal(part.confidence_N, all_of_it.rows(asked_N).confidence_N)


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
