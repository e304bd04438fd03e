from __future__ import annotations

import numpy as np
import pytest

from cdmodel.expected_cost import expected_shares


def test_a_size_nobody_told_counts_as_the_mean_of_the_others():
    assert expected_shares([1.0, 3.0, np.nan]).tolist() == pytest.approx(
        [(1 / 6 + 1 / 3) / 2, (3 / 6 + 1 / 3) / 2, 1 / 3]
    )
    assert expected_shares([np.nan, np.nan]).tolist() == [0.5, 0.5]
    assert expected_shares([0, 0, 0, 0]).tolist() == [0.25] * 4


def test_no_videos_have_no_shares():
    assert expected_shares([]).tolist() == []
    assert expected_shares([], []).tolist() == []


def test_what_a_video_once_took_counts_more_than_its_size():
    assert expected_shares([1.0, 1.0, 1.0], [2.0, 6.0, 2.0]).tolist() == pytest.approx([0.2, 0.6, 0.2])


def test_a_video_that_was_never_measured_is_expected_to_take_what_others_of_its_size_did():
    by_size = expected_shares([1.0, 1.0, 4.0])
    by_time = expected_shares([1.0, 1.0, 4.0], [3.0, 5.0, np.nan])
    assert by_time.sum() == pytest.approx(1.0)
    assert by_time[2] / by_time[:2].mean() == pytest.approx(by_size[2] / by_size[0])


@pytest.mark.parametrize("past_seconds", [[np.nan, np.nan], [0.0, np.nan]])
def test_an_earlier_run_that_measured_nothing_leaves_the_sizes(past_seconds: list[float]):
    assert expected_shares([1.0, 3.0], past_seconds).tolist() == expected_shares([1.0, 3.0]).tolist()
