from __future__ import annotations

import math

import numpy as np
import pytest

from cdmodel.drift import BINS, EDGES, ConfidenceCounts, confidence_drift, count_confidences


def _confidences(videos: int, *, tilt: float = 5.0, seed: int = 0, clips: int = 8) -> list[list[float]]:
    return np.random.default_rng(seed).beta(tilt, 1.0, (videos, clips)).tolist()


def test_clips_are_counted_by_the_bin_that_holds_them():
    counts = count_confidences([[0.0, 0.0005, 0.05], [], [1.0, 0.9999]])
    assert counts.videos == 2, "a video without a clip is none"
    assert sum(counts.clips_B) == 5
    assert (counts.clips_B[0], counts.clips_B[EDGES.index(0.05) + 1], counts.clips_B[-1]) == (2, 1, 2)


def test_counts_add_up_and_the_empty_one_is_zero():
    first, second = count_confidences([[0.1, 0.7]]), count_confidences([[0.7], [0.99]])
    assert first + second == count_confidences([[0.1, 0.7], [0.7], [0.99]])
    assert sum([first], ConfidenceCounts()) == first


@pytest.mark.parametrize("clips_B", [(1,) * (BINS - 1), (-1,) + (0,) * (BINS - 1)])
def test_counts_by_other_bins_or_below_zero_are_refused(clips_B):
    with pytest.raises(ValueError, match="counts at or above 0"):
        ConfidenceCounts(videos=1, clips_B=clips_B)


def test_the_same_confidences_have_not_drifted():
    counts = count_confidences(_confidences(300))
    assert confidence_drift(counts, counts) == 0.0


def test_other_videos_of_the_same_kind_hardly_drift_and_those_of_another_do():
    reference = count_confidences(_confidences(300))
    same, unsure = (
        count_confidences(_confidences(250, seed=1)),
        count_confidences(_confidences(250, tilt=2.0, seed=1)),
    )
    assert 0 < confidence_drift(same, reference) < 0.03
    assert confidence_drift(unsure, reference) > 0.25


def test_the_index_is_that_of_the_formula():
    # Two groups of one bin each; with so few bins in the reference there is nothing to join.
    low, high = [0.3] * 3, [0.9] * 1
    reference = count_confidences([[0.3], [0.9]] * 20)
    now = count_confidences([low + high] * 40)
    e, a = 0.5, (120 + 0.5) / (160 + 1)
    expected = (a - e) * math.log(a / e) + ((1 - a) - (1 - e)) * math.log((1 - a) / (1 - e))
    assert confidence_drift(now, reference) == pytest.approx(expected)


def test_what_the_reference_has_never_seen_is_finite():
    reference, now = count_confidences([[0.9], [0.3]] * 100), count_confidences([[0.01]] * 200)
    assert 1 < confidence_drift(now, reference) < 20


@pytest.mark.parametrize(("videos", "known"), [(0, False), (39, False), (40, True)])
def test_of_few_videos_nothing_is_said(videos, known):
    reference = count_confidences(_confidences(300))
    for pair in (
        (count_confidences(_confidences(videos)), reference),
        (reference, count_confidences(_confidences(videos))),
    ):
        assert (confidence_drift(*pair) is not None) == known


@pytest.mark.parametrize("videos", [40, 60, 120, 400])
def test_chance_alone_stays_below_a_tenth_even_where_all_clips_of_a_video_are_alike(videos):
    reference = count_confidences(_confidences(400, seed=99))
    alike = [
        count_confidences([confidences * 8 for confidences in _confidences(videos, seed=seed, clips=1)])
        for seed in range(40)
    ]
    assert np.mean([confidence_drift(now, reference) for now in alike]) < 0.06
