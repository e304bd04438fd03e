from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from cdmodel.intervals import bootstrap_mean, mcnemar_p, score_interval, wilson


@pytest.fixture
def random():
    return np.random.default_rng(0)


def test_a_bootstrap_of_independent_values_is_as_wide_as_their_standard_error(random):
    values = random.normal(size=2000)
    interval = bootstrap_mean(values, np.arange(2000), draws=4000)
    half_width = norm.ppf(0.975) * values.std() / math.sqrt(2000)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.high - interval.low == pytest.approx(2 * half_width, rel=0.06)


def test_videos_of_one_group_count_as_one(random):
    per_group = random.normal(size=200)
    repeated = bootstrap_mean(np.repeat(per_group, 9), np.repeat(np.arange(200), 9), draws=4000)
    single = bootstrap_mean(per_group, np.arange(200), draws=4000)
    assert repeated.high - repeated.low == pytest.approx(single.high - single.low, rel=1e-9)


def test_large_groups_weigh_as_many_videos_as_they_have():
    interval = bootstrap_mean([1, 1, 1, 0], ["a", "a", "a", "b"])
    # Draws of two groups: (a, a), (a, b), (b, b) have the means 1, 3/4, 0.
    assert (interval.low, interval.estimate, interval.high) == (0, 0.75, 1)


def test_seeds_are_averaged(random):
    values_SV = random.random((3, 100))
    groups = random.integers(30, size=100)
    together = bootstrap_mean(values_SV, groups)
    averaged = bootstrap_mean(values_SV.mean(axis=0), groups)
    assert (together.low, together.estimate, together.high) == pytest.approx(
        (averaged.low, averaged.estimate, averaged.high)
    )


def test_the_seed_and_the_level_decide_the_interval(random):
    values, groups = random.random(50), np.arange(50)
    narrow, wide = (bootstrap_mean(values, groups, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.estimate < narrow.high < wide.high
    assert bootstrap_mean(values, groups) == bootstrap_mean(values, groups)
    assert bootstrap_mean(values, groups, seed=1) != bootstrap_mean(values, groups)


def test_the_interval_covers_the_truth_about_as_often_as_it_says(random):
    covered = 0
    for _ in range(300):
        effect_G = random.normal(size=60)
        groups = random.integers(60, size=240)
        interval = bootstrap_mean(effect_G[groups] + random.normal(size=240), groups, draws=400)
        covered += interval.low <= 0 <= interval.high
    assert 0.88 <= covered / 300 <= 0.99


@pytest.mark.parametrize(
    ("values", "groups", "complaint"),
    [
        ([1, 0], [1, 1], "at least two"),
        ([], [], "at least two"),
        ([1, 0, 1], [1, 2], "must be"),
        ([1, math.nan], [1, 2], "finite"),
    ],
)
def test_a_bootstrap_that_would_say_nothing_is_refused(values, groups, complaint):
    with pytest.raises(ValueError, match=complaint):
        bootstrap_mean(values, groups)


@given(st.integers(1, 300), st.data(), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_its_formula(trials, data, level):
    successes = data.draw(st.integers(0, trials))
    z, share = norm.ppf((1 + level) / 2), successes / trials
    middle = (share + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(share * (1 - share) / trials + z**2 / (4 * trials**2))
    interval = wilson(successes, trials, level=level)
    assert (interval.low, interval.high) == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert interval.estimate == share


def test_no_trials_have_no_interval():
    with pytest.raises(ValueError, match="no trials"):
        wilson(0, 0)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_doubles_the_binomial_tail(helpful, harmful):
    few, flips = min(helpful, harmful), helpful + harmful
    expected = min(1.0, 2 * binom.cdf(few, flips, 0.5)) if flips else 1.0
    assert mcnemar_p(helpful, harmful) == pytest.approx(expected)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (0, 40), (40, 40), (13, 40), (9800, 10_000)])
def test_the_score_interval_of_whole_numbers_is_wilsons(successes, trials):
    ours, wilsons = score_interval(successes / trials, trials), wilson(successes, trials)
    assert (ours.low, ours.estimate, ours.high) == pytest.approx((wilsons.low, wilsons.estimate, wilsons.high))


def test_fewer_trials_of_the_same_share_hold_the_interval_of_more():
    wide, narrow = score_interval(0.98, 12.5), score_interval(0.98, 100.0)
    assert wide.low < narrow.low < 0.98 < narrow.high < wide.high
