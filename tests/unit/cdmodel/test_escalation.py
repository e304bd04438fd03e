from __future__ import annotations

import zlib

import numpy as np
import pytest
from score_builders import asked, random_scores, student_scores, teacher_scores, unasked

from cdmodel.aggregation import Judge, MeanProbability
from cdmodel.escalation import clip_score, coarse_to_fine, counted_clips, needs_student, next_clips
from cdmodel.policies import (
    Agreement,
    Budgeted,
    CentreClips,
    Certified,
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

MEAN = Judge(aggregation=MeanProbability())
# The video: (0.9 + 0.5 + 0.3) / 3 for the first label, so label 0 with 0.5667. Gains: 0, 0.25, -0.25.
SCORES = student_scores(
    [[0.9, 0.1], [0.5, 0.5], [0.3, 0.7]], q_teacher=[0.75, 0.75, 0.25], q_student=[0.75, 0.5, 0.5], motion=[0, 0, 0.5]
)
START = unasked(SCORES)
ALL, NONE = [True, True, True], [False, False, False]


@pytest.mark.parametrize(
    ("policy", "escalated"),
    [
        (DenseTeacher(), ALL),
        (DenseStudent(), NONE),
        (MaxProbability(threshold=0.6), [False, True, False]),
        (MaxProbability(threshold=0.8), [False, True, True]),
        (MaxProbability(threshold=0.5), NONE),
        (Entropy(threshold=0.99), [False, True, False]),  # entropies in bits: 0.47, 1, 0.88
        (Entropy(threshold=0.5), [False, True, True]),
        (Entropy(threshold=1.0), NONE),
        (Margin(threshold=0.1), [False, True, False]),  # margins: 0.8, 0, 0.4
        (Margin(threshold=0.5), [False, True, True]),
        (SelfConfidence(threshold=0.6), [False, True, True]),
        (SelfConfidence(threshold=0.5), NONE),
        (TeacherConfidence(min_confidence=0.5), [True, True, False]),
        (TeacherConfidence(min_confidence=0.75), NONE),
        (Gain(min_gain=0.0), [False, True, False]),
        (Gain(min_gain=-0.1), [True, True, False]),
        (Gain(min_gain=0.25), NONE),
        (ThreeWay(min_gain=0.0, drop_below=0.3), [False, True, False]),
        (VideoGain(min_value=0.1), [False, True, False]),  # 0.25 * (1 - 0.5667) = 0.108
        (VideoGain(min_value=0.11), NONE),
        (VideoGain(min_value=-0.01), [True, True, False]),
        (
            VideoRank(min_value=0.3),
            [True, False, False],
        ),  # shares 1, 2/3 (a tie goes to the earlier), 1/3, times 0.4333
        (VideoRank(min_value=0.2), [True, True, False]),
        (VideoRank(min_value=0.44), NONE),
        (VideoRank(min_value=0.0), ALL),
        (Disagreement(), [False, False, True]),  # a tie within a clip goes to the first label
        (Gate(threshold=0.56), NONE),
        (Gate(threshold=0.57), ALL),
        (Agreement(threshold=0.6), NONE),  # two of three clips say label 0
        (Agreement(threshold=0.7), ALL),
        (TopGain(clips=1), [False, True, False]),
        (TopGain(clips=2), [True, True, False]),
        (TopSaliency(clips=1), [True, False, False]),  # equal values: the earlier clip
        (TopSaliency(clips=9), ALL),
        (UniformClips(clips=1), [False, True, False]),
        (UniformClips(clips=2), [True, False, True]),
        (UniformClips(clips=7), ALL),
        (CentreClips(clips=1), [False, True, False]),
        (CentreClips(clips=2), [True, True, False]),
        (CentreClips(clips=7), ALL),
        (MotionClips(clips=2), [False, False, True]),  # all motion is in the last clip
        (EarlyExit(threshold=0.5), [False, True, False]),
        (Sequential(min_value=0.0), [False, True, False]),
        (Sequential(min_value=-1.0, clips_per_round=2), [True, True, False]),
    ],
    ids=str,
)
def test_a_policy_begins_with_exactly_these_clips(policy, escalated):
    chosen_N = next_clips(policy, START, MEAN)
    assert chosen_N.dtype == np.bool_
    assert chosen_N.tolist() == escalated


@pytest.mark.parametrize(
    ("clips", "wanted", "chosen"),
    [(10, 1, [5]), (10, 2, [2, 7]), (10, 3, [1, 5, 8]), (10, 5, [1, 3, 5, 7, 9]), (4, 3, [0, 2, 3]), (1, 1, [0])],
)
def test_uniform_clips_are_the_middles_of_equal_parts(clips, wanted, chosen):
    chosen_N = next_clips(UniformClips(clips=wanted), unasked(None, clips), MEAN)
    assert np.flatnonzero(chosen_N).tolist() == chosen


@pytest.mark.parametrize(
    ("clips", "wanted", "chosen"), [(10, 2, [4, 5]), (10, 3, [3, 4, 5]), (5, 1, [2]), (2, 3, [0, 1])]
)
def test_centre_clips_lie_in_the_middle(clips, wanted, chosen):
    chosen_N = next_clips(CentreClips(clips=wanted), unasked(None, clips), MEAN)
    assert np.flatnonzero(chosen_N).tolist() == chosen


@pytest.mark.parametrize(
    ("motion", "wanted", "chosen"),
    [
        ([1, 1, 1, 1], 4, [0, 1, 2, 3]),
        ([0, 0, 0, 0], 3, [0, 1, 3]),  # steps at 1/6, 1/2 and 5/6: a still video: as if it moved evenly
        ([0, 4, 1, 3], 2, [1, 3]),
        ([0, 7, 1, 0], 2, [1]),  # both steps lie in one clip
        ([1, 2, 3, 4], 9, [1, 2, 3]),
    ],
)
def test_motion_clips_hold_equal_steps_of_the_cumulative_motion(motion, wanted, chosen):
    scores = student_scores(np.full((4, 2), 0.5), motion=motion)
    assert np.flatnonzero(next_clips(MotionClips(clips=wanted), unasked(scores), MEAN)).tolist() == chosen


@pytest.mark.parametrize(
    ("clips", "order"),
    [
        (1, [0]),
        (2, [0, 1]),
        (3, [1, 0, 2]),
        (4, [1, 0, 3, 2]),
        (5, [2, 0, 4, 1, 3]),
        (9, [4, 0, 8, 2, 6, 1, 3, 5, 7]),
    ],
)
def test_coarse_to_fine_is_the_middle_the_ends_and_then_the_middles_between(clips, order):
    assert coarse_to_fine(clips).tolist() == order


def test_coarse_to_fine_reaches_every_clip_once():
    for clips in range(1, 40):
        assert sorted(coarse_to_fine(clips).tolist()) == list(range(clips))


def test_random_clips_depend_on_the_seed_and_the_videos_id_and_on_nothing_else():
    policy = RandomClips(clips=3, seed=5)
    with_student = unasked(random_scores(np.random.default_rng(0), 12, 3), video_id="a")
    chosen_N = next_clips(policy, with_student, MEAN)
    assert chosen_N.sum() == 3
    np.testing.assert_array_equal(chosen_N, next_clips(policy, unasked(None, 12, "a"), MEAN))
    drawn = np.random.default_rng((5, zlib.crc32(b"a"))).permutation(12)[:3]
    assert sorted(drawn.tolist()) == np.flatnonzero(chosen_N).tolist()
    others = {tuple(next_clips(policy, unasked(None, 12, name), MEAN)) for name in "abcdefgh"}
    assert len(others) > 4
    seeds = {tuple(next_clips(RandomClips(clips=3, seed=s), unasked(None, 12, "a"), MEAN)) for s in range(8)}
    assert len(seeds) > 4


def test_early_exit_goes_on_coarse_to_fine_until_the_video_is_sure_enough():
    policy, seen = EarlyExit(threshold=0.8), [False] * 5
    answers = {2: [0.6, 0.4], 0: [0.7, 0.3], 4: [1.0, 0.0], 1: [1.0, 0.0]}
    state, order = unasked(None, 5), []
    while (wanted_N := next_clips(policy, state, MEAN)).any():
        order += np.flatnonzero(wanted_N).tolist()
        seen = [clip in order for clip in range(5)]
        state = asked(None, seen, teacher_scores([answers[clip] for clip in sorted(order)]))
    # Means of the first label: 0.6, 0.65, 0.767, and 0.825 at last.
    assert order == [2, 0, 4, 1]


def test_early_exit_stops_where_no_clip_is_left():
    state = asked(None, [True, True], teacher_scores([[0.5, 0.5], [0.5, 0.5]]))
    assert not next_clips(EarlyExit(threshold=1.0), state, MEAN).any()


def test_sequential_stops_once_the_video_is_sure_enough():
    policy = Sequential(min_value=-1.0, stop_confidence=0.7)
    assert next_clips(policy, START, MEAN).tolist() == [False, True, False]
    sure = asked(SCORES, [False, True, False], teacher_scores([[1.0, 0.0]]))  # the mean is 0.733 now
    assert not next_clips(policy, sure, MEAN).any()
    unsure = asked(SCORES, [False, True, False], teacher_scores([[0.5, 0.5]]))
    assert next_clips(policy, unsure, MEAN).tolist() == [True, False, False]


def test_sequential_stops_once_no_clip_is_worth_asking():
    unsure = asked(SCORES, [False, True, False], teacher_scores([[0.5, 0.5]]))
    assert not next_clips(Sequential(min_value=0.0), unsure, MEAN).any()  # what is left gains 0 and -0.25


def test_sequential_asks_several_clips_a_round_where_told_and_worth_it():
    assert next_clips(Sequential(min_value=0.0, clips_per_round=3), START, MEAN).tolist() == [False, True, False]
    assert next_clips(Sequential(min_value=-1.0, clips_per_round=3), START, MEAN).tolist() == ALL


def test_three_way_drops_clips_on_which_neither_model_is_likely_right():
    scores = student_scores(np.full((4, 2), 0.5), q_teacher=[0.1, 0.1, 0.5, 0.15], q_student=[0.1, 0.5, 0.1, 0.0])
    policy = ThreeWay(min_gain=0.1, drop_below=0.2)
    wanted_N = next_clips(policy, unasked(scores), MEAN)
    assert wanted_N.tolist() == [False, False, True, True]
    state = asked(scores, wanted_N.tolist(), teacher_scores(np.full((2, 2), 0.5)))
    assert counted_clips(policy, state).tolist() == [False, True, True, True]


def test_clips_that_only_a_selection_looks_at_do_not_count():
    state = asked(SCORES, [True, False, False], teacher_scores([[0.5, 0.5]]))
    for policy in (TopSaliency(clips=1), MotionClips(clips=1)):
        assert counted_clips(policy, state).tolist() == [True, False, False]
    for policy in (TopGain(clips=1), Gain(min_gain=0.0), Gate(threshold=0.5), Sequential(min_value=0.0)):
        assert counted_clips(policy, state).tolist() == ALL


def test_what_looks_by_itself_needs_no_student_and_the_others_say_so():
    for policy in (DenseTeacher(), UniformClips(clips=1), RandomClips(clips=1), CentreClips(clips=1)):
        assert not needs_student(policy)
        assert next_clips(policy, unasked(None, 3), MEAN).any()
    assert not needs_student(EarlyExit(threshold=0.5))
    for policy in (Gain(min_gain=0.0), MotionClips(clips=1), Sequential(min_value=0.0), Gate(threshold=0.5)):
        assert needs_student(policy)
        with pytest.raises(ValueError, match="student"):
            next_clips(policy, unasked(None, 3), MEAN)


def test_a_score_is_known_for_thresholds_on_clips_alone():
    np.testing.assert_allclose(clip_score(Gain(min_gain=0.9), SCORES, MEAN), [0, 0.25, -0.25])
    np.testing.assert_allclose(clip_score(MaxProbability(threshold=0.1), SCORES, MEAN), [-0.9, -0.5, -0.7], rtol=1e-6)
    assert clip_score(TopGain(clips=1), SCORES, MEAN) is None
    assert clip_score(Gate(threshold=0.5), SCORES, MEAN) is None


def test_with_several_labels_entropy_and_margin_speak_of_the_labels():
    several = Judge(aggregation=MeanProbability(), label_kind="multi")
    scores = unasked(student_scores([[0.5, 0.5, 0.5], [1.0, 1.0, 0.0], [0.5, 1.0, 0.0]]))
    assert next_clips(Entropy(threshold=0.3), scores, several).tolist() == [True, False, True]  # 1, 0 and 1/3
    assert next_clips(Entropy(threshold=0.4), scores, several).tolist() == [True, False, False]
    assert next_clips(Margin(threshold=0.1), scores, several).tolist() == [True, True, False]


THRESHOLDS = [MaxProbability, Entropy, Margin, SelfConfidence, Gate, Agreement, EarlyExit]


@pytest.mark.parametrize("policy", THRESHOLDS)
@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_is_a_probability(policy, threshold):
    with pytest.raises(ValueError, match="threshold"):
        policy(threshold=threshold)


@pytest.mark.parametrize("min_gain", [-1.1, 1.1, float("nan")])
def test_a_gain_is_a_difference_of_probabilities(min_gain):
    with pytest.raises(ValueError, match="min_gain"):
        Gain(min_gain=min_gain)
    with pytest.raises(ValueError, match="min_gain"):
        ThreeWay(min_gain=min_gain, drop_below=0.1)
    with pytest.raises(ValueError, match="min_value"):
        Sequential(min_value=min_gain)


@pytest.mark.parametrize("policy", [TopGain, TopSaliency, UniformClips, RandomClips, CentreClips, MotionClips])
def test_a_number_of_clips_is_at_least_one(policy):
    with pytest.raises(ValueError, match="clips"):
        policy(clips=0)


@pytest.mark.parametrize(
    ("make", "setting"),
    [
        (lambda: RandomClips(clips=1, seed=-1), "seed"),
        (lambda: Sequential(min_value=0.0, clips_per_round=0), "clips"),
        (lambda: Sequential(min_value=0.0, stop_confidence=1.5), "stop_confidence"),
        (lambda: ThreeWay(min_gain=0.0, drop_below=-0.1), "drop_below"),
        (lambda: TeacherConfidence(min_confidence=2.0), "min_confidence"),
        (lambda: VideoGain(min_value=2.0), "min_value"),
        (lambda: VideoRank(min_value=2.0), "min_value"),
        (lambda: Budgeted(teacher_share=1.1), "teacher_share"),
        (lambda: Certified(epsilon=0.0), "epsilon"),
        (lambda: Certified(epsilon=0.1, delta=1.0), "delta"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_by_name(make, setting):
    with pytest.raises(ValueError, match=setting):
        make()


def test_scores_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="3 clips"):
        student_scores(SCORES.probabilities_NK, q_teacher=SCORES.q_teacher_N[:2])
    with pytest.raises(ValueError, match="2 clips"):
        teacher_scores(np.full((2, 2), 0.5), confidence=[0.5])


def test_a_state_holds_one_answer_for_each_asked_clip():
    with pytest.raises(ValueError, match="answered 1"):
        asked(SCORES, [True, True, False], teacher_scores([[0.5, 0.5]]))
