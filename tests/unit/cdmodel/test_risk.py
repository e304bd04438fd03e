from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from scipy.stats import binom, multinomial

from cdmodel.risk import (
    Certificate,
    NotCertifiable,
    RiskCurve,
    RiskPoint,
    betting_p,
    binomial_p,
    certify,
    groups_needed,
    harm_by_group,
    hoeffding_bentkus_p,
    largest_harmful,
)

EPSILON, DELTA = 0.05, 0.1
LEVELS = (0.01, 0.05, 0.1, 0.2, 0.5)
SIMULATIONS = 600
# Three standard errors of a share of DELTA above it: a bound that is only just valid passes, a wrong one does not.
MOST_VIOLATIONS = int(binom.ppf(0.999, SIMULATIONS, DELTA))


def _losses(harm_G):
    return tuple(float(harm) for harm in harm_G if harm > 0)


def _curve(losses_PG, *, videos=None):
    """Return a curve of one point per row of losses, thresholds 0.0, 0.1 ..., shares falling."""
    points = tuple(
        RiskPoint(min_value=round(0.1 * place, 1), escalated_share=1 - place / 10, harm_G=_losses(harm_G))
        for place, harm_G in enumerate(losses_PG)
    )
    groups = len(losses_PG[0])
    return RiskCurve(groups=groups, videos=videos or groups, points=points)


def _p_values(harm_G, groups):
    return {
        "exact_binomial": binomial_p(len(harm_G), groups, EPSILON),
        "betting": betting_p(harm_G, groups, EPSILON, delta=DELTA),
        "hoeffding_bentkus": hoeffding_bentkus_p(harm_G, groups, EPSILON),
    }


@pytest.mark.parametrize(
    ("groups", "half_percent", "one_percent", "two_percent"),
    [(200, None, None, 1), (500, 0, 1, 5), (1000, 1, 5, 13), (2000, 5, 13, 31), (3783, 12, 29, 64)],
)
def test_the_harm_that_a_certificate_stands_is_that_of_the_binomial_table(
    groups, half_percent, one_percent, two_percent
):
    assert largest_harmful(groups, 0.005, 0.1) == half_percent
    assert largest_harmful(groups, 0.01, 0.1) == one_percent
    assert largest_harmful(groups, 0.02, 0.1) == two_percent


@given(st.integers(1, 400), st.floats(0.005, 0.3), st.floats(0.01, 0.3))
def test_one_more_harmed_group_than_the_largest_is_too_many(groups, epsilon, delta):
    most = largest_harmful(groups, epsilon, delta)
    if most is None:
        assert binom.cdf(0, groups, epsilon) > delta
    else:
        assert binom.cdf(most, groups, epsilon) <= delta < binom.cdf(most + 1, groups, epsilon)


@given(st.floats(0.002, 0.3), st.floats(0.01, 0.3))
def test_the_groups_that_are_needed_are_the_fewest(epsilon, delta):
    needed = groups_needed(epsilon, delta)
    assert (1 - epsilon) ** needed <= delta * (1 + 1e-9)
    assert (1 - epsilon) ** (needed - 1) > delta * (1 - 1e-9)
    for bound in ("betting", "hoeffding_bentkus"):
        assert groups_needed(epsilon, delta, bound=bound) >= needed - 1


def test_hoeffding_bentkus_equals_its_formula_by_hand():
    # Mean 0.02 of 100 groups against 0.1: h = 0.02 log 0.2 + 0.98 log(0.98 / 0.9) = 0.051264; Bentkus: e P(Bin <= 2).
    divergence = 0.02 * np.log(0.2) + 0.98 * np.log(0.98 / 0.9)
    expected = min(np.exp(-100 * divergence), np.e * binom.cdf(2, 100, 0.1))
    assert hoeffding_bentkus_p((0.5, 0.75, 0.75), 100, 0.1) == pytest.approx(expected)
    assert hoeffding_bentkus_p((1.0,) * 20, 100, 0.1) == 1.0


@pytest.mark.parametrize("epsilon", [0.005, 0.02, 0.2])
def test_betting_asks_for_few_more_groups_than_the_exact_bound(epsilon):
    assert (
        groups_needed(epsilon, DELTA)
        <= groups_needed(epsilon, DELTA, bound="betting")
        <= 1.05 * groups_needed(epsilon, DELTA)
    )


@pytest.mark.parametrize("half_share", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("groups", [30, 70])
def test_every_outcome_counted_no_bound_rejects_more_often_than_its_level(groups, half_share):
    # Losses 0, 1/2 and 1 with mean EPSILON, of which ``half_share`` comes from halves; no simulation, all outcomes.
    half, whole = 2 * EPSILON * half_share, EPSILON * (1 - half_share)
    rejected = dict.fromkeys([(bound, level) for bound in ("betting", "hoeffding_bentkus") for level in LEVELS], 0.0)
    for halves in range(groups + 1):
        for wholes in range(groups - halves + 1):
            chance = multinomial.pmf(
                [halves, wholes, groups - halves - wholes], groups, [half, whole, 1 - half - whole]
            )
            if chance < 1e-12:
                continue
            p_values = _p_values((0.5,) * halves + (1.0,) * wholes, groups)
            for bound, level in rejected:
                rejected[bound, level] += chance * (p_values[bound] <= level)
    assert all(share <= level + 1e-9 for (_, level), share in rejected.items()), rejected


@given(st.lists(st.floats(0.01, 1.0), max_size=12), st.integers(40, 400), st.randoms(use_true_random=False))
def test_a_p_value_lies_between_0_and_1_and_knows_no_order(harm, groups, random):
    shuffled = list(harm)
    random.shuffle(shuffled)
    for bound, p_value in _p_values(tuple(harm), groups).items():
        assert 0 <= p_value <= 1
        assert p_value == pytest.approx(_p_values(tuple(shuffled), groups)[bound])


@given(st.lists(st.floats(0.01, 0.9), min_size=1, max_size=12), st.integers(40, 400))
def test_more_harm_is_never_better_evidence(harm, groups):
    for less, more in [(harm[1:], harm), (harm, [min(1.0, 1.1 * value) for value in harm])]:
        before, after = _p_values(tuple(less), groups), _p_values(tuple(more), groups)
        assert all(before[bound] <= after[bound] * (1 + 1e-9) for bound in before)


@pytest.mark.parametrize("groups", [1, 100, 5000])
def test_harm_everywhere_is_no_evidence(groups):
    assert list(_p_values((1.0,) * groups, groups).values()) == pytest.approx([1.0, 1.0, 1.0])


def test_without_groups_nothing_is_evidence():
    assert set(_p_values((), 0).values()) == {1.0}


def _whole(random, groups, mean):
    return (random.random(groups) < mean).astype(float)


def _fractional(random, groups, mean):
    """Groups of four videos: a group is hard or not, and its videos share that."""
    return random.binomial(4, np.where(random.random(groups) < 0.5, 0.2 * mean, 1.8 * mean)) / 4


@pytest.mark.parametrize("groups", [60, 250])
@pytest.mark.parametrize(
    ("draw", "bounds"),
    [
        (_whole, ("exact_binomial", "betting", "hoeffding_bentkus")),
        (_fractional, ("betting", "hoeffding_bentkus")),
    ],
)
def test_a_threshold_that_harms_too_much_is_certified_no_more_often_than_promised(draw, bounds, groups):
    random = np.random.default_rng(groups)
    rejected = dict.fromkeys(bounds, 0)
    for _ in range(SIMULATIONS):
        p_values = _p_values(_losses(draw(random, groups, EPSILON)), groups)
        for bound in bounds:
            rejected[bound] += p_values[bound] <= DELTA
    assert max(rejected.values()) <= MOST_VIOLATIONS, rejected


@pytest.mark.parametrize(("draw", "videos_in_group"), [(_whole, 1), (_fractional, 4)])
@pytest.mark.parametrize("bound", [None, "betting", "hoeffding_bentkus"])
def test_a_whole_sequence_of_thresholds_shares_one_delta(draw, videos_in_group, bound):
    # The first three thresholds are safe, the next five just not: certifying any of those is a violation.
    random = np.random.default_rng(1)
    means, groups = [0.01, 0.02, 0.03] + 5 * [EPSILON + 1e-9], 200
    violations = certified = 0
    for _ in range(300):
        losses_PG = [draw(random, groups, mean) for mean in means]
        outcome = certify(_curve(losses_PG, videos=videos_in_group * groups), EPSILON, DELTA, bound=bound)
        certified += isinstance(outcome, Certificate)
        violations += isinstance(outcome, Certificate) and outcome.min_value > 0.25
    assert violations <= binom.ppf(0.999, 300, DELTA)
    assert certified > 200


def test_taking_the_boldest_threshold_that_passes_alone_would_break_the_promise():
    # Shows that the simulation can fail: the same data, tested in no order.
    random, violations = np.random.default_rng(1), 0
    for _ in range(300):
        p_values = [binomial_p(int(_whole(random, 200, EPSILON).sum()), 200, EPSILON) for _ in range(5)]
        violations += min(p_values) <= DELTA
    assert violations > binom.ppf(0.999, 300, DELTA)


@pytest.mark.parametrize(("draw", "videos_in_group"), [(_whole, 1), (_fractional, 4)])
def test_harm_far_below_epsilon_is_certified(draw, videos_in_group):
    random = np.random.default_rng(2)
    curves = [_curve([draw(random, 300, 0.01)], videos=videos_in_group * 300) for _ in range(100)]
    assert sum(isinstance(certify(curve, EPSILON, DELTA), Certificate) for curve in curves) >= 95


def test_betting_sees_that_small_losses_vary_little():
    harm_G = (0.2,) * 60
    assert betting_p(harm_G, 400, EPSILON, delta=DELTA) < 0.1 * hoeffding_bentkus_p(harm_G, 400, EPSILON)


def _flags(harmed, groups=100):
    return [1.0] * harmed + [0.0] * (groups - harmed)


def test_the_boldest_threshold_before_the_first_failure_is_certified():
    curve = _curve([_flags(0), _flags(1), _flags(9), _flags(0)])
    assert certify(curve, EPSILON, DELTA) == Certificate(
        epsilon=EPSILON,
        delta=DELTA,
        min_value=0.1,
        escalated_share=0.9,
        groups=100,
        observed_harm=0.01,
        p_value=binomial_p(1, 100, EPSILON),
        bound="exact_binomial",
    )


def test_the_bound_follows_from_the_size_of_the_groups_and_not_from_their_losses():
    unharmed = [_flags(0)]
    assert certify(_curve(unharmed), EPSILON, DELTA).bound == "exact_binomial"
    assert certify(_curve(unharmed, videos=250), EPSILON, DELTA).bound == "betting"
    assert certify(_curve(unharmed), EPSILON, DELTA, bound="hoeffding_bentkus").bound == "hoeffding_bentkus"
    with pytest.raises(ValueError, match="groups of one video"):
        certify(_curve(unharmed, videos=250), EPSILON, DELTA, bound="exact_binomial")


def test_too_few_groups_are_told_how_many_it_takes():
    outcome = certify(_curve([_flags(0, groups=44)]), EPSILON, DELTA)
    assert isinstance(outcome, NotCertifiable)
    assert (outcome.groups, outcome.groups_needed) == (44, 45)
    assert "not certifiable with 44 groups" in outcome.reason
    assert "takes 45" in outcome.reason
    assert isinstance(certify(_curve([_flags(0, groups=45)]), EPSILON, DELTA), Certificate)


def test_too_much_harm_is_told_so():
    outcome = certify(_curve([_flags(9)]), EPSILON, DELTA)
    assert isinstance(outcome, NotCertifiable)
    assert "harmed 0.0900" in outcome.reason


def test_a_curve_without_points_certifies_nothing():
    outcome = certify(RiskCurve(groups=100, videos=100, points=()), EPSILON, DELTA)
    assert isinstance(outcome, NotCertifiable)
    assert "no threshold" in outcome.reason


@pytest.mark.parametrize(("epsilon", "delta"), [(0, 0.1), (1, 0.1), (0.05, 0), (0.05, 1)])
def test_a_promise_of_nothing_or_of_everything_is_refused(epsilon, delta):
    with pytest.raises(ValueError, match="strictly between"):
        certify(_curve([_flags(0)]), epsilon, delta)


def test_harm_is_averaged_within_a_group_and_zeros_are_left_out():
    harmed_V = [True, False, False, False, True, True]
    assert harm_by_group(harmed_V, ["a", "a", "b", "b", "c", "c"]) == (0.5, 1.0)


def test_a_curve_and_its_outcomes_survive_json():
    curve = RiskCurve(
        groups=3, videos=7, points=(RiskPoint(min_value=-0.02, escalated_share=0.5, harm_G=(1 / 3, 0.1)),)
    )
    for value in (curve, certify(curve, EPSILON, DELTA), certify(_curve([_flags(0)]), EPSILON, DELTA)):
        adapter = TypeAdapter(type(value))
        assert adapter.validate_json(adapter.dump_json(value)) == value


def test_a_curve_with_a_stranger_in_it_is_refused():
    with pytest.raises(ValidationError, match="surprise"):
        TypeAdapter(RiskCurve).validate_python({"groups": 1, "videos": 1, "points": (), "surprise": 1})


@pytest.mark.parametrize(
    ("points", "groups", "videos", "complaint"),
    [
        ([(0.1, 0.5, ()), (0.1, 0.4, ())], 9, 9, "rise in min_value"),
        ([(0.1, 0.5, ()), (0.2, 0.6, ())], 9, 9, "not rise in escalated_share"),
        ([(0.1, 0.5, (1.0, 1.0))], 1, 5, "more groups harmed"),
        ([(0.1, 0.5, (0.5,))], 9, 9, "0 or 1"),
        ([(0.1, 0.5, (0.0,))], 9, 20, "above 0"),
        ([(0.1, 0.5, (float("nan"),))], 9, 20, "above 0"),
        ([(0.1, 1.5, ())], 9, 9, "escalated_share"),
        ([], 9, 8, "cannot lie in"),
    ],
)
def test_a_curve_that_cannot_be_is_refused(points, groups, videos, complaint):
    with pytest.raises(ValueError, match=complaint):
        RiskCurve(
            groups=groups,
            videos=videos,
            points=tuple(
                RiskPoint(min_value=gain, escalated_share=share, harm_G=harm_G) for gain, share, harm_G in points
            ),
        )
