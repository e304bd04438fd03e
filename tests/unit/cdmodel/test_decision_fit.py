"""Defaults, ladders, risk and the choice of a policy from what a bundle remembers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from score_builders import FLOPS, cached_video, specialist_videos

from cdmodel.aggregation import Judge, MeanProbability
from cdmodel.bundle import BundleManifest
from cdmodel.calibration import Calibration
from cdmodel.decision_fit import REFERENCE_SHARES, fit_decisions, measure_confidence, measure_risk
from cdmodel.defaults_fit import fit_defaults, values_at_shares
from cdmodel.errors import ConfigError, TrainingError
from cdmodel.policies import (
    Budgeted,
    Certified,
    DenseStudent,
    DenseTeacher,
    Entropy,
    Gain,
    Margin,
    MaxProbability,
    VideoRank,
)
from cdmodel.policy_choice import resolve_policy
from cdmodel.replay import calibrate, dense_teacher, replay
from cdmodel.risk import RiskCurve, RiskPoint
from cdmodel.sweeps import build_ladders, score_at_shares
from cdmodel.testing import write_tiny_bundle

MEAN = Judge(aggregation=MeanProbability())
KINDS = pytest.mark.parametrize("kind", ["single", "multi"])
PLAIN = Calibration()


def _videos(seed: int = 0, count: int = 60, kind="single", head: str = "knows"):
    return [calibrate(video, PLAIN, kind) for video in specialist_videos(seed, count, kind=kind, head=head)]


def _of_gain(gain: float, *, student_right: bool, group: str):
    """Return a video of one clip with about this gain, whose teacher is right."""
    logits_NK = [[3, 0]] if student_right else [[0, 3]]
    video = cached_video(logits_NK, [[5, 0]], [0], q_teacher=[np.log((0.5 + gain) / (0.5 - gain))], group=group)
    return calibrate(video, PLAIN, "single")


@KINDS
def test_the_threshold_of_a_share_escalates_that_share_of_the_clips_it_was_taken_from(kind):
    judge = Judge(aggregation=MeanProbability(), label_kind=kind)
    videos = _videos(kind=kind, head="noise")
    for policy, name, sign in (
        (Gain(min_gain=0), "min_gain", 1),
        (MaxProbability(threshold=0), "threshold", -1),
        (Margin(threshold=0), "threshold", -1),
        (Entropy(threshold=0), "threshold", 1),
    ):
        for share in (0.0, 0.1, 0.25, 0.5, 0.9):
            [score] = score_at_shares(policy, videos, judge, [share])
            run = replay(replace(policy, **{name: sign * score}), judge, videos, FLOPS)
            assert run.asked_V.sum() == round(share * run.clips_V.sum())


def test_the_default_threshold_stays_below_the_share_that_it_may_escalate():
    videos = specialist_videos(0, 60, kind="single", head="noise")

    def spent(most: float) -> float:
        decisions = fit_decisions(videos, (), "single", FLOPS, max_escalated_share=most)
        scored = [calibrate(video, decisions.calibration, "single") for video in videos]
        return replay(decisions.policy, decisions.judge("single"), scored, FLOPS).escalated_share

    free = spent(1.0)
    assert free > 0.1
    assert spent(free + 0.05) == pytest.approx(free)
    for most in (0.0, 0.03, 0.07):
        assert most - 0.02 <= spent(most) <= most


def test_a_share_of_everything_is_everything_even_where_all_gains_are_equal():
    alike = [_of_gain(0.2, student_right=True, group="g") for _ in range(5)]
    nothing, everything = values_at_shares(alike, MEAN, (0.0, 1.0))
    assert replay(VideoRank(min_value=nothing), MEAN, alike, FLOPS).escalated_share == 0
    assert replay(VideoRank(min_value=everything), MEAN, alike, FLOPS).escalated_share == 1


def test_every_ladder_can_be_replayed_and_its_settings_are_those_of_its_policies():
    videos = _videos(count=4)
    ladders = build_ladders(videos, MEAN)
    assert len({ladder.name for ladder in ladders}) == len(ladders) == 22
    for ladder in ladders:
        assert {policy.kind for _, policy in ladder.rungs} == {ladder.name}
        for setting, policy in (ladder.rungs[0], ladder.rungs[-1]):
            replay(policy, MEAN, videos, FLOPS)
            names = ("threshold", "min_confidence", "min_gain", "min_value", "clips")
            values = [getattr(policy, name) for name in names if hasattr(policy, name)]
            assert values[:1] == ([] if setting is None else [setting])


def test_ladders_of_clip_thresholds_climb_from_cheap_to_dear():
    videos = _videos(head="noise", count=30)
    for ladder in build_ladders(videos, MEAN):
        if ladder.name in ("gain", "max_prob", "margin", "entropy", "self_confidence", "teacher_confidence"):
            spent = [replay(policy, MEAN, videos, FLOPS).escalated_share for _, policy in ladder.rungs]
            assert spent == sorted(spent)
            assert spent[0] < 0.1 < 0.8 < spent[-1]


@KINDS
def test_the_chosen_defaults_come_near_the_dense_teacher_or_above_for_less(kind):
    videos, unseen = _videos(0, kind=kind), _videos(1, kind=kind)
    defaults = fit_defaults(videos, kind, FLOPS)
    judge = Judge(aggregation=defaults.aggregation, label_kind=kind, video_temperature=defaults.video_temperature)
    chosen = replay(defaults.policy, judge, unseen, FLOPS)
    dense = dense_teacher(Judge(aggregation=MeanProbability(), label_kind=kind), unseen, FLOPS)
    assert chosen.accuracy >= dense.accuracy - 0.05
    assert chosen.escalated_share < 0.5


def test_a_student_that_is_always_right_asks_nobody():
    perfect = [_of_gain(gain, student_right=True, group="g") for gain in (0.1, 0.2, 0.3)]
    defaults = fit_defaults(perfect, "single", FLOPS)
    assert replay(defaults.policy, defaults.judge("single"), perfect, FLOPS).escalated_share == 0


def _of_doubt(doubt: float, *, student_right: bool, group: str):
    """Return a video of one clip whose student is as unsure as this, and whose teacher is right."""
    sure = np.log((1 - doubt) / doubt)
    return calibrate(
        cached_video([[sure, 0]] if student_right else [[0, sure]], [[5, 0]], [0], group=group), PLAIN, "single"
    )


def test_harm_is_the_share_of_a_groups_videos_that_the_cascade_spoils():
    videos = [
        _of_doubt(0.4, student_right=False, group="a"),  # harmed above a threshold of 0.4
        _of_doubt(0.2, student_right=False, group="a"),  # harmed above 0.2
        _of_doubt(0.2, student_right=False, group="b"),
        _of_doubt(0.1, student_right=True, group="c"),  # never harmed
    ]
    curve = measure_risk(videos, [0.3, 0.0, 0.45, 0.3], MEAN, FLOPS)
    assert (curve.groups, curve.videos) == (3, 4)
    assert [point.min_value for point in curve.points] == [0.0, 0.3, 0.45]
    assert [point.escalated_share for point in curve.points] == [1.0, 0.25, 0.0]
    assert [point.harm_G for point in curve.points] == [(), (0.5, 1.0), (1.0, 1.0)]


@KINDS
def test_decisions_remember_what_budgets_and_certificates_need(kind):
    decisions = fit_decisions(specialist_videos(0, 40, kind=kind), specialist_videos(1, 40, kind=kind), kind, FLOPS)
    assert len(decisions.value_at_share) == len(REFERENCE_SHARES) == 21
    assert list(decisions.value_at_share) == sorted(decisions.value_at_share, reverse=True)
    assert decisions.risk is not None
    assert (decisions.risk.videos, decisions.risk.groups) == (40, 20)
    assert decisions.judge(kind).video_temperature == decisions.calibration.video_temperature
    scored = [calibrate(video, decisions.calibration, kind) for video in specialist_videos(0, 40, kind=kind)]
    half = replay(VideoRank(min_value=decisions.value_at_share[10]), decisions.judge(kind), scored, FLOPS)
    assert half.escalated_share == pytest.approx(0.5, abs=0.02)
    # Every clip of cal has a confidence of each model, calibrated: what runs are compared with.
    assert decisions.reference == measure_confidence(scored)
    assert decisions.reference.student.videos == decisions.reference.teacher.videos == 40
    # The most cautious threshold harms fewer than the boldest.
    harm = [sum(point.harm_G) for point in decisions.risk.points]
    assert harm[0] < harm[-1]


def test_without_a_role_risk_there_is_no_risk_and_without_cal_nothing():
    assert fit_decisions(specialist_videos(0, 10), [], "single", FLOPS).risk is None
    with pytest.raises(TrainingError, match="role cal"):
        fit_decisions([], [], "single", FLOPS)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> BundleManifest:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle"))


def _curve(groups: int, harmed_when_bold: int) -> RiskCurve:
    points = (
        RiskPoint(min_value=-0.5, escalated_share=0.9, harm_G=()),
        RiskPoint(min_value=0.0, escalated_share=0.4, harm_G=(1.0,)),
        RiskPoint(min_value=0.5, escalated_share=0.1, harm_G=(1.0,) * harmed_when_bold),
    )
    return RiskCurve(groups=groups, videos=groups, points=points)


def test_a_policy_that_decides_by_itself_stays_as_it_is(manifest):
    for policy in (Gain(min_gain=0.1), DenseTeacher(), DenseStudent()):
        resolved = resolve_policy(policy, manifest)
        assert (resolved.policy, resolved.remark) == (policy, "")


@pytest.mark.parametrize(
    ("share", "value"), [(0.25, 0.6), (0.125, 0.7), (0.5, 0.4), (0.6, 0.36), (0.75, 0.3), (0.0, 1.0), (1.0, -1.0)]
)
def test_a_budget_lies_between_the_values_of_its_neighbouring_shares(manifest, share, value):
    remembering = replace(manifest, value_at_share=(0.8, 0.6, 0.4, 0.3, -0.2))
    resolved = resolve_policy(Budgeted(teacher_share=share), remembering)
    assert isinstance(resolved.policy, VideoRank)
    assert resolved.policy.min_value == pytest.approx(value)


def test_a_budget_without_remembered_values_is_a_config_error(manifest):
    with pytest.raises(ConfigError, match="teacher_share"):
        resolve_policy(Budgeted(teacher_share=0.5), manifest)


def test_the_boldest_threshold_that_is_certified_is_taken_and_named(manifest):
    resolved = resolve_policy(Certified(epsilon=0.05), replace(manifest, risk=_curve(200, harmed_when_bold=40)))
    assert resolved.policy == VideoRank(min_value=0.0)
    assert "certified on 200 groups" in resolved.remark
    harmless = replace(manifest, risk=_curve(200, harmed_when_bold=1))
    assert resolve_policy(Certified(epsilon=0.05), harmless).policy == VideoRank(min_value=0.5)


def test_where_nothing_can_be_certified_the_dense_teacher_labels_and_says_so(manifest):
    resolved = resolve_policy(Certified(epsilon=0.01), replace(manifest, risk=_curve(20, harmed_when_bold=2)))
    assert resolved.policy == DenseTeacher()
    assert "not certifiable with 20 groups" in resolved.remark
    assert resolved.remark.endswith("the teacher labels every clip")


def test_without_a_role_risk_a_certificate_is_a_config_error(manifest):
    with pytest.raises(ConfigError, match="role risk"):
        resolve_policy(Certified(epsilon=0.1), manifest)
