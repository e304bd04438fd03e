from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from cdmodel.gate import BundleFacts, GateDecision, GateSettings, SetAnswers, SideAnswers, decide
from cdmodel.gate_facts import SetName

LABELS = ("bend", "jump", "run", "sit")
PRODUCTION = BundleFacts(model_version="m-000000000001", labels=LABELS, label_kind="single")
CANDIDATE = replace(PRODUCTION, model_version="m-000000000002")
SETTINGS = GateSettings(draws=400)


def _side(random, right_V, dense_V, *, flops=100.0, sure=None) -> SideAnswers:
    """Return one side that is right where it is told to be, and as sure as it is right."""
    right_V = np.asarray(right_V, dtype=np.bool_)
    videos = len(right_V)
    return SideAnswers(
        right_V=right_V,
        confidence_V=np.full(videos, float(right_V.mean()) if sure is None else sure),
        flops_V=flops * random.uniform(0.8, 1.2, videos),
        student_right_V=right_V & (random.random(videos) < 0.9),
        dense_right_V=dense_V,
        dense_confidence_V=np.full(videos, 0.9),
        dense_flops_V=np.full(videos, 1000.0),
    )


def _set(
    random,
    *,
    name: SetName = "benchmark",
    videos: int = 400,
    before: float = 0.85,
    after: float = 0.85,
    flips: float = 0.05,
    flops: float = 100.0,
    sure: float | None = None,
) -> SetAnswers:
    """Return a set on which the candidate is right in a share ``after``, and disagrees with production now and then."""
    before_V = random.random(videos) < before
    # Flips in both directions, and as many more as the difference takes.
    to_wrong = flips / 2 + max(before - after, 0)
    to_right = flips / 2 + max(after - before, 0)
    draw_V = random.random(videos)
    after_V = np.where(before_V, draw_V >= to_wrong / before, draw_V < to_right / (1 - before))
    # One teacher, whose mistakes are those of both, but for a few.
    dense_V = np.where(before_V | after_V, random.random(videos) < 0.97, random.random(videos) < 0.05)
    return SetAnswers(
        name=name,
        groups=tuple(f"{name}-{video // 2}" for video in range(videos)),
        labels=tuple((LABELS[video % len(LABELS)],) for video in range(videos)),
        candidate=_side(random, after_V, dense_V, flops=flops, sure=sure),
        production=_side(random, before_V, dense_V),
        videos_unreadable=0,
    )


def _decide(sets: Sequence[SetAnswers], settings: GateSettings = SETTINGS, **changes: BundleFacts) -> GateDecision:
    return decide(changes.get("candidate", CANDIDATE), PRODUCTION, sets, settings)


def _failed(decision: GateDecision) -> set[str]:
    return {check.name for check in decision.checks if check.decides and not check.passed}


@pytest.fixture
def random():
    return np.random.default_rng(1)


def test_one_that_is_as_accurate_and_cheaper_is_promoted_for_its_cost(random):
    decision = _decide([_set(random, flops=70, videos=1200), _set(random, name="audits", flops=70, videos=1200)])
    assert (decision.verdict, decision.route) == ("promote", "cheaper"), decision.reason
    assert "saves 3" in decision.reason
    assert [summary.videos for summary in decision.sets] == [1200, 1200]


def test_one_that_is_more_accurate_at_the_same_cost_is_promoted_for_that(random):
    decision = _decide([_set(random, after=0.93), _set(random, name="audits", after=0.92)])
    assert (decision.verdict, decision.route) == ("promote", "better"), decision.reason


def test_one_that_is_more_accurate_and_dearer_is_promoted_if_it_is_worth_its_price(random):
    """Ten points for half of the dense teacher more: five points a quarter."""
    found = [_set(random, after=0.95, flops=600)]
    decision = _decide(found)
    assert (decision.verdict, decision.route) == ("promote", "worth"), decision.reason
    assert "of a dense teacher, worth +2." in decision.reason
    decision = _decide(found, replace(SETTINGS, accuracy_price=0.5))
    assert decision.verdict == "keep"
    assert decision.reason.startswith("more accurate, but dearer")


def test_one_that_is_the_same_is_kept(random):
    decision = _decide([_set(random, videos=1500, flips=0.02)])
    assert (decision.verdict, _failed(decision)) == ("keep", set())
    assert decision.reason.startswith("neither cheaper nor more accurate")


@pytest.mark.parametrize("where", ["benchmark", "audits"])
def test_being_worse_on_one_set_is_enough_to_be_kept(random, where):
    sets = [
        _set(random, name=name, flops=50, after=0.75 if name == where else 0.9, videos=800)
        for name in ("benchmark", "audits")
    ]
    decision = _decide(sets)
    assert decision.verdict == "keep"
    assert "accuracy_not_worse" in _failed(decision)
    assert f"accuracy_not_worse ({where})" in decision.reason


def test_too_few_videos_to_show_that_nothing_is_lost_are_no_proof():
    """Half the cost and the same accuracy, but on a hundred videos a loss of the margin would look alike."""
    promoted = [
        _decide([_set(np.random.default_rng(seed), flops=50, videos=100, flips=0.2)]).promoted for seed in range(20)
    ]
    assert sum(promoted) <= 5


def test_a_class_that_has_gone_is_seen_behind_a_rise_of_all_others(random):
    found = _set(random, before=0.8, after=0.95)
    sat_V = np.array([labels == ("sit",) for labels in found.labels])
    candidate = replace(found.candidate, right_V=np.where(sat_V, random.random(len(sat_V)) < 0.3, True))
    decision = _decide([replace(found, candidate=candidate)])
    assert decision.verdict == "keep"
    assert {name for name in _failed(decision) if name.startswith("class:")} == {"class:sit"}
    assert "recall of sit from" in decision.reason


def test_without_a_change_classes_seem_to_collapse_no_more_often_than_allowed():
    """Twelve classes of few videos each, which are right and wrong at random."""
    settings = replace(SETTINGS, draws=100)
    alarms = 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        found = _set(random, videos=240, flips=0.2)
        labels = tuple((f"class {video % 12}",) for video in range(240))
        decision = _decide([replace(found, labels=labels)], settings, candidate=replace(CANDIDATE, labels=LABELS))
        alarms += decision.verdict != "refuse" and any(name.startswith("class:") for name in _failed(decision))
    assert alarms <= 200 * 0.05 + 3 * np.sqrt(200 * 0.05)


def test_a_broken_teacher_is_seen_though_the_cascade_hides_it(random):
    found = _set(random, flops=70, videos=1000)
    broken = replace(found.candidate, dense_right_V=random.random(1000) < 0.6)
    assert "teacher_not_worse" in _failed(_decide([replace(found, candidate=broken)]))


def test_confidence_that_means_nothing_is_seen_and_that_of_production_is_a_measure(random):
    found = _set(random, flops=60, videos=1000, sure=0.6)
    assert "calibration" in _failed(_decide([found]))
    as_bad = replace(found, production=replace(found.production, confidence_V=np.full(1000, 0.6)))
    assert "calibration" not in _failed(_decide([as_bad]))


def test_the_noise_of_few_videos_is_no_bad_calibration():
    alarms = 0
    for seed in range(100):
        random = np.random.default_rng(seed)
        sure_V = random.uniform(0.5, 1.0, 70)
        right_V = random.random(70) < sure_V
        found = _set(random, videos=70)
        side = replace(found.candidate, right_V=right_V, confidence_V=sure_V)
        decision = _decide([replace(found, candidate=side)], replace(SETTINGS, draws=100))
        alarms += "calibration" in _failed(decision)
    assert alarms <= 12


def test_harm_must_be_shown_to_be_below_the_limit(random):
    found = _set(random, flops=50, videos=600)
    wrong_V = random.random(600) < 0.15
    harmful = replace(found.candidate, right_V=~wrong_V, dense_right_V=np.ones(600, dtype=np.bool_))
    decision = _decide([replace(found, candidate=harmful)])
    assert "harm" in _failed(decision)
    assert "harm" not in _failed(_decide([replace(found, candidate=harmful)], replace(SETTINGS, harm_limit=0.3)))


# What cannot be computed


def _refusal(sets: Sequence[SetAnswers], settings: GateSettings = SETTINGS, **changes: BundleFacts) -> str:
    decision = _decide(sets, settings, **changes)
    assert (decision.verdict, decision.route, decision.promoted) == ("refuse", None, False)
    return decision.reason


def test_without_a_set_nothing_can_be_told():
    assert "neither a benchmark nor an audit" in _refusal([])


def test_too_few_groups_are_refused(random):
    assert "20 groups, and the gate needs 30" in _refusal([_set(random, videos=40)])


def test_few_audits_are_left_out_beside_a_benchmark_unless_they_are_required(random):
    sets = [_set(random, after=0.95), _set(random, name="audits", videos=10)]
    decision = _decide(sets)
    assert decision.promoted
    assert [summary.groups for summary in decision.sets] == [200, 5]
    assert {check.on for check in decision.checks} == {"benchmark", "both"}
    required = replace(SETTINGS, audits="required")
    assert "audits: 5 groups" in _refusal(sets, required)
    assert 'gate.audits = "required"' in _refusal(sets[:1], required)


def test_many_unreadable_videos_are_refused(random):
    assert "100 of 500 videos cannot be read" in _refusal([replace(_set(random), videos_unreadable=100)])
    assert _decide([replace(_set(random), videos_unreadable=20)]).verdict != "refuse"


@pytest.mark.parametrize("where", ["confidence_V", "flops_V", "dense_confidence_V"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_is_refused(random, where, value):
    found = _set(random, flops=50)
    figures = getattr(found.candidate, where).copy()
    figures[7] = value
    reason = _refusal([replace(found, candidate=replace(found.candidate, **{where: figures}))])
    assert "the candidate gave an answer or a cost that is not a number" in reason


def test_other_questions_are_refused(random):
    assert "any number of labels" in _refusal([_set(random)], candidate=replace(CANDIDATE, label_kind="multi"))
    assert "no label in common" in _refusal([_set(random)], candidate=replace(CANDIDATE, labels=("cat", "dog")))
    unknown = replace(_set(random), labels=(("fly",),) * 400)
    assert "knows none of its labels" in _refusal([unknown])


# Labels that change


def test_a_new_class_counts_for_the_candidate(random):
    found = _set(random, before=0.9, after=0.9)
    new_V = np.arange(400) % 4 == 3
    labels = tuple(("fly",) if new else label for new, label in zip(new_V, found.labels, strict=True))
    before = replace(found.production, right_V=found.production.right_V & ~new_V)
    decision = _decide(
        [replace(found, labels=labels, production=before)], candidate=replace(CANDIDATE, labels=(*LABELS, "fly"))
    )
    assert decision.new_labels == ("fly",)
    assert "calibration" not in _failed(decision)
    assert (decision.verdict, decision.route) == ("promote", "better"), decision.reason


def test_a_class_may_be_dropped_only_by_name(random):
    found = _set(random, after=0.95)
    sat_V = np.array([labels == ("sit",) for labels in found.labels])
    dropped = replace(found, candidate=replace(found.candidate, right_V=found.candidate.right_V & ~sat_V))
    without = replace(CANDIDATE, labels=LABELS[:3])
    decision = _decide([dropped], candidate=without)
    assert decision.verdict == "keep"
    assert decision.dropped_labels == ("sit",)
    assert "list sit in gate.dropped_labels if that is meant" in decision.reason
    allowed = _decide([dropped], replace(SETTINGS, dropped_labels=("sit", "long gone")), candidate=without)
    assert allowed.promoted, allowed.reason
    assert [(summary.videos, summary.videos_dropped) for summary in allowed.sets] == [(300, 100)]


def test_leave_to_drop_a_class_that_is_still_there_leaves_nothing_out(random):
    decision = _decide([_set(random)], replace(SETTINGS, dropped_labels=("sit",)))
    assert decision.sets[0].videos == 400


def test_a_class_that_no_training_video_showed_stops_a_candidate_unless_production_lacks_it_too(random):
    better = [_set(random, after=0.95)]
    missed = replace(CANDIDATE, untaught=("sit",))
    decision = _decide(better, candidate=missed)
    assert (decision.verdict, _failed(decision)) == ("keep", {"labels_taught"})
    assert "no training video showed sit" in decision.reason
    assert _decide(better, replace(SETTINGS, untaught_labels=("sit",)), candidate=missed).promoted
    assert decide(missed, replace(PRODUCTION, untaught=("sit", "run")), better, SETTINGS).promoted
    assert "labels_taught" in _failed(decide(missed, None, better, SETTINGS))


# The first bundle


def test_a_first_bundle_is_promoted_if_it_holds_the_floors(random):
    found = replace(_set(random), production=None)
    decision = decide(CANDIDATE, None, [found], SETTINGS)
    assert (decision.verdict, decision.route, decision.production) == ("promote", "first", None), decision.reason
    bad = replace(found, candidate=_side(random, random.random(400) < 0.3, np.ones(400, dtype=np.bool_), flops=2000))
    refused = decide(CANDIDATE, None, [bad], SETTINGS)
    assert refused.verdict == "keep"
    assert _failed(refused) >= {"first_accuracy", "first_saving"}
    assert decide(CANDIDATE, None, [], SETTINGS).verdict == "refuse"


# How often chance promotes


@pytest.mark.parametrize("confidence", [0.975, 0.8])
def test_chance_promotes_one_of_the_same_accuracy_and_cost_no_more_often_than_asked_for(confidence):
    """Same accuracy, same cost, answers that differ on one video in twenty: what is promoted then is promoted by chance."""
    settings = GateSettings(draws=200, better_confidence=confidence)
    draws, promoted = 120, 0
    for seed in range(draws):
        random = np.random.default_rng((seed, 7))
        promoted += _decide([_set(random, videos=300), _set(random, name="audits", videos=300)], settings).promoted
    # By one of two sets, and then nothing may be lost on either.
    by_chance = draws * (1 - confidence**2)
    assert promoted <= by_chance + 2 * np.sqrt(by_chance)


def test_one_that_loses_exactly_the_margin_is_seldom_promoted_for_its_cost():
    settings = GateSettings(draws=200)
    draws, promoted = 120, 0
    for seed in range(draws):
        random = np.random.default_rng((seed, 8))
        promoted += _decide([_set(random, videos=400, after=0.82, flops=60)], settings).promoted
    assert promoted <= draws * 0.05 + 2 * np.sqrt(draws * 0.05)


@pytest.mark.parametrize(("better", "verdict"), [("any_set", "promote"), ("every_set", "keep"), ("pooled", "promote")])
def test_where_it_must_be_better_is_a_setting(random, better, verdict):
    sets = [_set(random, after=0.95, videos=800), _set(random, name="audits", flips=0.02, videos=800)]
    assert _decide(sets, replace(SETTINGS, better=better)).verdict == verdict


def test_a_class_that_the_student_has_lost_is_seen_though_the_teacher_answers_for_it(random):
    found = _set(random, after=0.95)
    sat_V = np.array([labels == ("sit",) for labels in found.labels])
    candidate = replace(found.candidate, student_right_V=found.candidate.student_right_V & ~sat_V)
    assert _failed(_decide([replace(found, candidate=candidate)])) == {"student_class:sit"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("accuracy_margin", -0.1), ("confidence", 0.4), ("min_groups", 1), ("harm_limit", 0.0), ("draws", 5)],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ValueError, match=setting):
        GateSettings(**{setting: value})
