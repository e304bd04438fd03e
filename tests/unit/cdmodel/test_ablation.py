from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from score_builders import FLOPS, specialist_videos

from cdmodel.ablation import ESCALATED_SHARES, ROUTES, ArmAnswers, difference, run_ablations
from cdmodel.aggregation import Judge, MeanProbability
from cdmodel.calibration_fit import fit_calibration
from cdmodel.policies import DenseStudent
from cdmodel.replay import calibrate, dense_teacher, replay

KINDS = pytest.mark.parametrize("kind", ["single", "multi"])
VIDEOS = 60


def _arm(kind, head: str, seeds: int = 1) -> list[ArmAnswers]:
    return [
        ArmAnswers(
            cal=specialist_videos(100 + seed, 25, kind=kind, head=head),
            test=specialist_videos(7, VIDEOS, kind=kind, head=head),
        )
        for seed in range(seeds)
    ]


@pytest.fixture(scope="module", params=["single", "multi"])
def world(request):
    """The specialist teacher: where it helps, only its own confidence tells; the placebo's head is noise."""
    knows = _arm(request.param, "knows")
    arms = {"A2": knows, "A3": knows, "A8": knows, "A4": _arm(request.param, "noise")}
    return request.param, arms, run_ablations(arms, request.param)


def test_only_what_was_trained_is_compared(world):
    kind, _, done = world
    assert set(done) == {"A2", "A3", "A8", "A4"} < set(ROUTES)
    assert run_ablations({}, kind) == {}


def test_with_a_specialist_teacher_the_gain_beats_the_largest_probability(world):
    _, arms, done = world
    group_V = [video.group for video in arms["A8"][0].test]
    lead = difference(done["A8"], done["A2"], group_V)
    assert lead.low > 0
    assert difference(done["A8"], done["A3"], group_V).low > 0
    assert lead.estimate == pytest.approx(done["A8"].area.estimate - done["A2"].area.estimate)
    nothing = difference(done["A8"], done["A8"], group_V)
    assert (nothing.low, nothing.estimate, nothing.high) == (0, 0, 0)


@KINDS
def test_a_placebo_cannot_be_told_from_escalating_at_random(kind):
    """Errors of the teacher that nothing predicts: independent of the clip, and both heads noise."""
    random = np.random.default_rng(0)

    def blind(videos):
        made = []
        for video in videos:
            lost_N = random.random(len(video.teacher_logits_NK)) < 0.3
            teacher_NK = np.where(lost_N[:, None], 0.0, np.where(video.truth_K, 4.0, -1.0)).astype(np.float32)
            teacher_NK += random.normal(scale=0.1, size=teacher_NK.shape).astype(np.float32)
            own_N = random.normal(size=len(lost_N)).astype(np.float32)
            student = replace(video.student, q_student_logit_N=own_N)
            made.append(replace(video, teacher_logits_NK=teacher_NK, student=student))
        return made

    def arm(seed):
        return ArmAnswers(
            cal=blind(specialist_videos(seed, 40, kind=kind, head="noise")),
            test=blind(specialist_videos(50 + seed, VIDEOS, kind=kind, head="noise")),
        )

    answers = arm(0)
    placebo = run_ablations({"A4": [answers]}, kind)["A4"]
    judge = Judge(aggregation=MeanProbability(), label_kind=kind)
    calibration = fit_calibration(answers.cal, kind, in_context=False)
    scored = [calibrate(video, calibration, kind) for video in answers.test]
    areas = [_random_area(np.random.default_rng(seed), scored, judge) for seed in range(8)]
    assert min(areas) - 0.02 < placebo.area.estimate < max(areas) + 0.02


def _random_area(random: np.random.Generator, videos, judge: Judge) -> float:
    """Return the area of escalation in a random order, from the definition: the mean of the student and the teacher."""
    order = [random.random(len(video.student.q_student_N)) for video in videos]
    all_N = np.sort(np.concatenate(order))
    accuracies = []
    for share in ESCALATED_SHARES:
        count = round(share * len(all_N))
        bar = all_N[count - 1] if count else -1.0
        right = [
            video.truth_K[
                np.where(place_N[:, None] <= bar, video.teacher.probabilities_NK, video.student.probabilities_NK)
                .mean(axis=0)
                .argmax()
            ]
            for video, place_N in zip(videos, order, strict=True)
        ]
        accuracies.append(np.mean(right))
    return float(np.trapezoid(accuracies, ESCALATED_SHARES))


def test_every_route_starts_at_the_student_alone_and_ends_at_the_dense_teacher(world):
    kind, arms, done = world
    judge = Judge(aggregation=MeanProbability(), label_kind=kind)
    for name in ("A2", "A4", "A8"):
        result = done[name]
        for seed, answers in enumerate(arms[name]):
            calibration = fit_calibration(answers.cal, kind, in_context=False)
            scored = [calibrate(video, calibration, kind) for video in answers.test]
            student, teacher = replay(DenseStudent(), judge, scored, FLOPS), dense_teacher(judge, scored, FLOPS)
            np.testing.assert_array_equal(result.accuracy_SVR[seed, :, 0], student.right_V)
            np.testing.assert_array_equal(result.student_right_SV[seed], student.right_V)
            np.testing.assert_array_equal(result.accuracy_SVR[seed, :, -1], teacher.right_V)


def test_an_area_is_the_mean_accuracy_over_the_shares_by_trapezoids(world):
    _, _, done = world
    for result in done.values():
        accuracy_R = result.accuracy_SVR.mean(axis=(0, 1))
        assert result.area.estimate == pytest.approx(np.trapezoid(accuracy_R, ESCALATED_SHARES))
        assert result.area.low <= result.area.estimate <= result.area.high


def test_every_other_route_can_be_run_as_well():
    arm = _arm("single", "knows")
    small = [ArmAnswers(cal=arm[0].cal[:12], test=arm[0].test[:8])]
    done = run_ablations(dict.fromkeys(ROUTES, small), "single")
    assert list(done) == list(ROUTES)
    assert all(0 <= result.area.estimate <= 1 for result in done.values())
    # Rank within the video: every video gives its best clip before any gives its second.
    assert done["A11"].accuracy_SVR.shape == (1, 8, len(ESCALATED_SHARES))


def test_a_head_taught_a_difference_is_not_turned_around_by_calibration():
    """A10 is ranked by what the head says, also where that speaks against the teacher on cal."""
    arm = _arm("single", "knows")[0]

    def turned(videos):
        return [replace(v, student=replace(v.student, q_teacher_logit_N=-v.student.q_teacher_logit_N)) for v in videos]

    plain = run_ablations({"A10": [arm]}, "single")["A10"]
    odd_cal = run_ablations({"A10": [ArmAnswers(cal=turned(arm.cal), test=arm.test)]}, "single")["A10"]
    np.testing.assert_array_equal(plain.accuracy_SVR, odd_cal.accuracy_SVR)
