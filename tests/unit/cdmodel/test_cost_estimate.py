"""The estimator on archives whose whole cost is known: invented ones, skewed as real ones are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmodel.cost_estimate import (
    Estimate,
    SampleDesign,
    design_sample,
    estimate_total,
    makespan,
)
from cdmodel.expected_cost import Floats, expected_shares


@dataclass(frozen=True)
class Archive:
    """Sizes and costs of all videos."""

    bytes_N: Floats
    cost_N: Floats


def invent(seed: int, *, spread: float = 1.0, fixed_share: float = 0.2, videos: int = 300) -> Archive:
    """Lengths are lognormal, bit rates and costs per second differ, 3 % of the videos fail early."""
    random = np.random.default_rng(seed)
    seconds_N = random.lognormal(0.0, spread, videos)
    cost_N = fixed_share * seconds_N.mean() + seconds_N * random.lognormal(0.0, 0.4, videos)
    cost_N[random.random(videos) < 0.03] *= 0.05
    return Archive(bytes_N=1e6 * seconds_N * random.lognormal(0.0, 0.4, videos), cost_N=cost_N)


def estimate(archive: Archive, sample: int, seed: int) -> Estimate:
    design = design_sample(expected_shares(archive.bytes_N), sample, seed)
    return estimate_total(design, archive.cost_N[list(design.chosen_n)])


@pytest.mark.parametrize("spread", [0.3, 1.0, 1.5])
@pytest.mark.parametrize("fixed_share", [0.0, 1.0])
def test_estimates_are_right_on_average_and_their_intervals_hold_as_often_as_the_page_says(spread, fixed_share):
    errors, held = [], 0
    for seed in range(250):
        archive = invent(seed, spread=spread, fixed_share=fixed_share)
        found, truth = estimate(archive, 16, seed), archive.cost_N.sum()
        errors.append(found.value / truth - 1.0)
        held += found.low <= truth <= found.high
    assert abs(np.mean(errors)) < 3 * np.std(errors) / len(errors) ** 0.5 + 0.01
    assert held / 250 > 0.85


def test_a_stratified_sample_of_a_skewed_archive_errs_less_than_a_plain_one():
    plain, ours = [], []
    for seed in range(200):
        archive = invent(seed, spread=1.5)
        truth = archive.cost_N.sum()
        drawn = np.random.default_rng(seed).choice(archive.cost_N, 16, replace=False)
        plain.append(drawn.mean() * len(archive.cost_N) / truth - 1.0)
        ours.append(estimate(archive, 16, seed).value / truth - 1.0)
    assert np.std(ours) < 0.5 * np.std(plain)


def test_four_times_the_sample_halves_the_error():
    archives = [(seed, invent(seed)) for seed in range(150)]
    errors = {
        sample: np.std([estimate(archive, sample, seed).value / archive.cost_N.sum() for seed, archive in archives])
        for sample in (10, 40)
    }
    assert errors[40] < 0.65 * errors[10]


@given(st.lists(st.floats(0, 1e12), min_size=2, max_size=40), st.integers(2, 60), st.integers(0, 99))
def test_a_sample_holds_different_videos_and_every_stratum_gives_two_or_all(sizes, sample, seed):
    design = design_sample(expected_shares(sizes), sample, seed)
    assert len(set(design.chosen_n)) == len(design.chosen_n) == min(sample, len(sizes))
    assert sum(design.stratum_videos_H) == len(sizes)
    taken = np.bincount(design.stratum_n, minlength=len(design.stratum_videos_H))
    for videos, count in zip(design.stratum_videos_H, taken, strict=True):
        assert count >= min(2, videos)


@given(st.lists(st.floats(1, 1e9), min_size=2, max_size=30), st.integers(0, 99))
def test_a_sample_of_everything_is_the_truth_without_a_doubt(costs, seed):
    design = design_sample(expected_shares([1e6] * len(costs)), len(costs), seed)
    found = estimate_total(design, [costs[position] for position in design.chosen_n])
    assert [found.low, found.value, found.high] == pytest.approx([sum(costs)] * 3)


@given(st.lists(st.floats(1, 1e9), min_size=4, max_size=30), st.integers(2, 8), st.floats(0, 1e3))
def test_cost_that_follows_the_expected_shares_is_estimated_without_error(sizes, sample, rate):
    shares = expected_shares(sizes)
    design = design_sample(shares, sample, 0)
    found = estimate_total(design, rate * shares[list(design.chosen_n)])
    assert [found.low, found.value, found.high] == pytest.approx([rate] * 3)


def test_the_same_seed_draws_the_same_videos_and_another_one_others():
    shares = expected_shares(invent(0).bytes_N)
    assert design_sample(shares, 10, 1) == design_sample(shares, 10, 1)
    assert design_sample(shares, 10, 1) != design_sample(shares, 10, 2)


def test_one_video_is_no_sample_of_many():
    with pytest.raises(ValueError, match="at least 2"):
        design_sample(expected_shares([1, 2, 3]), 1, 0)
    assert design_sample(expected_shares([5]), 1, 0).chosen_n == (0,)


def test_the_interval_never_promises_less_than_was_measured():
    design = SampleDesign(videos=4, chosen_n=(0, 1), stratum_n=(0, 0), stratum_videos_H=(4,), share_n=(0.25, 0.25))
    found = estimate_total(design, [1.0, 99.0])
    assert (found.value, found.low) == (200.0, 100.0)


def test_the_last_worker_to_finish_says_how_long_all_take():
    assert makespan([4, 4, 4], 2) == 8
    assert makespan([1, 1, 1, 6], 2) == 7
    assert makespan([5], 8) == 5
    assert makespan([], 3) == 0
