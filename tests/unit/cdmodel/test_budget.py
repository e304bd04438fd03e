from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmodel.budget import (
    Allotment,
    BudgetSettings,
    Demand,
    Funds,
    Purse,
    TeacherPace,
    affordable,
    amount_of,
    expected_pace,
)
from cdmodel.cost import ComputeCost, PriceTable, price_usd

pytestmark = pytest.mark.fast
FLOPS, SECONDS = 10, 0.5


def _price(cost: ComputeCost) -> float:
    return price_usd(cost, "cpu", PriceTable(usd_per_gpu_hour=3600.0, usd_per_cpu_hour=3600.0))


def _demand(shards: int, clips_each: int, seed: int = 0) -> Demand:
    """Return clips of videos of two clips each, with values that differ."""
    clips = shards * clips_each
    number_C = np.arange(clips)
    return Demand(
        shard_C=(number_C // clips_each).astype(np.int32),
        video_C=(number_C % clips_each // 2).astype(np.int32),
        clip_C=(number_C % 2).astype(np.int32),
        value_C=np.random.default_rng(seed).permutation(clips) + 1.0,
        decode_seconds_C=np.full(clips, 0.1),
    )


def _funds(limits, demand: Demand, audited: list[int], clock=lambda: 0.0, workers: int = 1) -> Funds:
    pace = TeacherPace(teacher_flops=FLOPS, expected_seconds=SECONDS, on_gpu=False)
    return Funds(limits, demand, audited, pace, price=_price, workers=workers, clock=clock)


def _asked(demand: Demand, shard: int, allotment: Allotment) -> set[int]:
    return {
        position
        for position in np.flatnonzero(demand.shard_C == shard).tolist()
        if demand.clip_C[position] in allotment.clips.get(int(demand.video_C[position]), ())
    }


def _clips(allotment: Allotment) -> int:
    return sum(map(len, allotment.clips.values()))


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("unit", ["teacher_flops", "teacher_gpu_seconds", "usd", "wall_clock"])
def test_a_limit_that_buys_nothing_is_refused(unit: str, limit: float) -> None:
    with pytest.raises(ValueError, match=f"{unit} must be above 0"):
        BudgetSettings(**{unit: limit})


def test_the_most_valuable_clips_are_paid_for_until_one_does_not_fit() -> None:
    value_C = np.array([1.0, 5.0, 3.0, 4.0])
    chosen = affordable(value_C, {"teacher_flops": np.full(4, 10.0)}, {"teacher_flops": 30.0})
    assert chosen.tolist() == [1, 3, 2]
    assert affordable(value_C, {"teacher_flops": np.full(4, 10.0)}, {"teacher_flops": 29.9}).tolist() == [1, 3]
    assert affordable(value_C, {"teacher_flops": np.full(4, 10.0)}, {"teacher_flops": 0.0}).tolist() == []


def test_a_clip_that_costs_more_must_be_worth_more() -> None:
    chosen = affordable(np.array([3.0, 2.0]), {"usd": np.array([3.0, 1.0])}, {"usd": 1.0})
    assert chosen.tolist() == [1]


def test_the_scarcest_of_several_limits_decides() -> None:
    costs = {"teacher_flops": np.full(4, 10.0), "usd": np.full(4, 1.0)}
    assert len(affordable(np.arange(4.0) + 1, costs, {"teacher_flops": 100.0, "usd": 2.0})) == 2


@given(
    shards=st.integers(1, 6),
    clips_each=st.sampled_from([2, 6]),
    affordable_clips=st.integers(0, 40),
    order_seed=st.integers(0, 10**6),
)
@settings(max_examples=60, deadline=None)
def test_what_flops_buy_is_the_best_of_the_whole_run_in_whatever_order_shards_come(
    shards: int, clips_each: int, affordable_clips: int, order_seed: int
) -> None:
    demand = _demand(shards, clips_each, order_seed)
    funds = _funds({"teacher_flops": FLOPS * affordable_clips + 1}, demand, [0] * shards)
    rng = np.random.default_rng(order_seed)
    asked: set[int] = set()
    in_flight: list[int] = []
    for shard in rng.permutation(shards).tolist():
        asked |= _asked(demand, shard, funds.allot(shard))
        in_flight.append(shard)
        if len(in_flight) > 1:
            back = in_flight.pop(int(rng.integers(len(in_flight))))
            clips = _clips(funds.allot(back))
            funds.settle(back, ComputeCost(teacher_flops=FLOPS * clips, teacher_seconds=clips), clips)
    best = np.argsort(-demand.value_C)[:affordable_clips].tolist()
    assert asked == set(best)


@given(
    pace=st.floats(0.1, 4.0),
    noise_seed=st.integers(0, 10**6),
    share=st.floats(0.02, 1.2),
    unit=st.sampled_from(["teacher_gpu_seconds", "usd"]),
)
@settings(max_examples=60, deadline=None)
def test_seconds_and_dollars_are_not_exceeded_by_more_than_a_batch_whatever_a_clip_takes(
    pace: float, noise_seed: int, share: float, unit: str
) -> None:
    shards, clips_each = 12, 30
    demand = _demand(shards, clips_each, noise_seed)
    limit = share * shards * clips_each * SECONDS
    funds = _funds({unit: limit}, demand, [0] * shards, workers=2)
    rng = np.random.default_rng(noise_seed)
    total, dearest_batch = 0.0, 0.0
    in_flight: list[tuple[int, Allotment]] = []
    for shard in [*range(shards), None, None]:
        if shard is not None:
            in_flight.append((shard, funds.allot(shard)))
        if len(in_flight) > 2 or (shard is None and in_flight):
            back, allotment = in_flight.pop(0)
            purse = Purse(allotment, _price, clock=lambda: 0.0)
            spent, asked = ComputeCost(), 0
            for clips in allotment.clips.values():
                if not purse.can_afford(len(clips)):
                    break
                seconds = len(clips) * SECONDS * pace * rng.uniform(0.5, 1.5)
                cost = ComputeCost(teacher_seconds=seconds)
                purse.note(cost, len(clips))
                purse.close_video()
                spent, asked = spent + cost, asked + len(clips)
                dearest_batch = max(dearest_batch, amount_of(unit, cost, _price))
            funds.settle(back, spent, asked, _price(spent))
            total += amount_of(unit, spent, _price)
    assert total <= limit + 2 * dearest_batch  # two shards are under way at once


def test_a_shard_that_is_handed_out_again_gets_the_same_part() -> None:
    funds = _funds({"teacher_flops": 50.0}, _demand(3, 4), [0] * 3)
    assert funds.allot(1) is funds.allot(1)


def test_what_a_shard_did_not_spend_is_there_for_the_next() -> None:
    demand = _demand(2, 4)
    funds = _funds({"teacher_flops": 40.0}, demand, [0] * 2)
    first = _clips(funds.allot(0))
    funds.settle(0, ComputeCost(), 0)
    assert first > 0
    assert _clips(funds.allot(1)) == 4


def test_a_pace_that_was_measured_replaces_the_expected_one() -> None:
    demand = _demand(2, 20)
    funds = _funds({"teacher_gpu_seconds": 5.0}, demand, [0] * 2)
    clips = _clips(funds.allot(0))
    funds.settle(0, ComputeCost(teacher_seconds=clips * 0.05), clips)
    assert _clips(funds.allot(1)) == 20


def test_after_the_deadline_nothing_is_asked() -> None:
    now = [0.0]
    demand = _demand(2, 4)
    funds = _funds({"wall_clock": 2.5}, demand, [0] * 2, clock=lambda: now[0])
    allotment = funds.allot(0)
    assert _clips(allotment) > 0
    purse = Purse(allotment, _price, clock=lambda: now[0])
    assert purse.can_afford(1)
    now[0] = 2.5
    assert not purse.can_afford(1)
    assert not Purse(funds.allot(1), _price, clock=lambda: now[0]).can_afford(1)


def test_before_the_teacher_was_asked_its_pace_follows_from_an_earlier_run_or_from_the_student() -> None:
    student = ComputeCost(student_flops=100, student_seconds=2.0)
    assert expected_pace(student, 500).seconds_per_clip == 10.0
    assert expected_pace(student, 500, 0.25).seconds_per_clip == 0.25
    assert expected_pace(ComputeCost(), 500).seconds_per_clip == 0.0


def test_what_audits_take_is_set_aside_until_their_shard_is_settled() -> None:
    demand = _demand(2, 4)
    funds = _funds({"teacher_flops": 80.0}, demand, [4, 0])
    assert funds.audit_takes("teacher_flops") == 40.0
    first = _clips(funds.allot(0))
    funds.settle(0, ComputeCost(teacher_flops=FLOPS * first, audit_flops=FLOPS * (4 - first)), first)
    assert funds.audit_takes("teacher_flops") == 0.0
    assert _clips(funds.allot(1)) == 4
