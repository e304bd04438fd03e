from __future__ import annotations

from dataclasses import astuple, fields

import pytest

from cdmodel.cost import ComputeCost, PriceTable, price_usd

PRICES = PriceTable(usd_per_gpu_hour=3.6, usd_per_cpu_hour=0.36)


def test_the_empty_cost_is_zero():
    assert set(astuple(ComputeCost())) == {0}


def test_every_field_adds_up():
    one = ComputeCost(**{field.name: number for number, field in enumerate(fields(ComputeCost), start=1)})
    assert astuple(one + one) == tuple(2 * value for value in astuple(one))
    assert sum([one, one], ComputeCost()) == one + one


def test_work_on_a_cpu_is_paid_at_the_cpus_rate():
    cost = ComputeCost(decode_cpu_seconds=10.0, student_seconds=20.0, teacher_seconds=70.0)
    assert price_usd(cost, PRICES) == pytest.approx(100 * 0.36 / 3600)


def test_work_on_a_gpu_is_paid_once_at_the_gpus_rate():
    cost = ComputeCost(decode_cpu_seconds=10.0, student_seconds=20.0, teacher_seconds=70.0, gpu_seconds=90.0)
    assert price_usd(cost, PRICES) == pytest.approx((90 * 3.6 + 10 * 0.36) / 3600)


def test_nothing_costs_nothing():
    assert price_usd(ComputeCost(), PRICES) == 0.0


@pytest.mark.parametrize("field", ["usd_per_gpu_hour", "usd_per_cpu_hour"])
@pytest.mark.parametrize("price", [-0.01, float("nan")])
def test_a_price_is_not_negative(field, price):
    with pytest.raises(ValueError, match="prices must not be negative"):
        PriceTable(**{"usd_per_gpu_hour": 1.0, "usd_per_cpu_hour": 1.0, field: price})
