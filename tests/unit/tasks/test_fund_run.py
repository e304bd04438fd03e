from __future__ import annotations

import pytest

from cdmodel.budget import BudgetSettings
from cdmodel.errors import RunError
from tasks.fund_run import refuse_dear_student, share_at_most

TEN_DOLLARS = BudgetSettings(usd=10.0)


@pytest.mark.parametrize("by_bytes", [0.0, 0.2, 0.5, 1.0])
def test_shards_stand_for_the_larger_of_their_shares_by_number_and_by_bytes(by_bytes: float):
    by_number = 0.2
    assert share_at_most(by_number, (by_number + by_bytes) / 2) == pytest.approx(max(by_number, by_bytes))


def test_shards_of_a_plan_that_knows_no_costs_stand_for_their_number():
    assert share_at_most(0.2, 0.0) == 0.2


def test_one_dear_video_does_not_make_the_whole_run_too_dear():
    # One of 100 videos, with half of all bytes, took half of what the run will: 4 of 8 dollars.
    refuse_dear_student(TEN_DOLLARS, 4.0, share_done=share_at_most(0.01, (0.01 + 0.5) / 2))
    with pytest.raises(RunError, match="about 400"):
        refuse_dear_student(TEN_DOLLARS, 4.0, share_done=0.01)


def test_a_projection_may_be_off_by_a_quarter_and_a_sum_may_not():
    refuse_dear_student(TEN_DOLLARS, 6.0, share_done=0.5)
    with pytest.raises(RunError, match="about 13"):
        refuse_dear_student(TEN_DOLLARS, 6.5, share_done=0.5)
    with pytest.raises(RunError, match=r"about 10\.1"):
        refuse_dear_student(TEN_DOLLARS, 10.1, share_done=1.0)


def test_nothing_is_projected_without_a_limit_or_before_the_first_shard():
    refuse_dear_student(BudgetSettings(teacher_flops=1.0), 1e9, share_done=0.5)
    refuse_dear_student(TEN_DOLLARS, 1e9, share_done=0.0)
