from __future__ import annotations

from dataclasses import astuple, fields

import pytest

from cdmodel.cost import ComputeCost, PriceTable, cpu_seconds, price_usd, require_price
from cdmodel.errors import ConfigError

GPU = "cuda:NVIDIA H200"
PRICES = PriceTable(usd_per_gpu_hour=3.6, usd_per_cpu_hour=0.36)


def test_the_empty_cost_is_zero():
    assert set(astuple(ComputeCost())) == {0}


def test_every_field_adds_up():
    one = ComputeCost(**{field.name: number for number, field in enumerate(fields(ComputeCost), start=1)})
    assert astuple(one + one) == tuple(2 * value for value in astuple(one))
    assert sum([one, one], ComputeCost()) == one + one


def test_work_on_a_cpu_is_paid_at_the_cpus_rate():
    cost = ComputeCost(decode_cpu_seconds=10.0, student_seconds=20.0, teacher_seconds=70.0)
    assert cpu_seconds(cost) == 100.0
    assert price_usd(cost, "cpu", PRICES) == pytest.approx(100 * 0.36 / 3600)


def test_work_on_a_gpu_is_paid_once_at_the_gpus_rate():
    cost = ComputeCost(decode_cpu_seconds=10.0, student_seconds=20.0, teacher_seconds=70.0, gpu_seconds=90.0)
    assert cpu_seconds(cost) == 10.0
    assert price_usd(cost, GPU, PRICES) == pytest.approx((90 * 3.6 + 10 * 0.36) / 3600)


def test_nothing_costs_nothing():
    assert price_usd(ComputeCost(), "cpu", PRICES) == 0.0


def test_a_device_that_is_named_has_its_own_price_and_the_general_rate_is_for_the_others():
    cost = ComputeCost(student_seconds=3600.0, gpu_seconds=3600.0)
    prices = PriceTable(devices={GPU: 4.2, "cpu": 0.1}, usd_per_gpu_hour=1.5)
    assert price_usd(cost, GPU, prices) == pytest.approx(4.2)
    assert price_usd(cost, "cuda:NVIDIA L4", prices) == pytest.approx(1.5)
    assert prices.of("cpu") == 0.1


def test_a_device_without_a_price_is_refused_by_its_name_and_those_that_have_one_are_told():
    prices = PriceTable(devices={GPU: 4.2}, usd_per_cpu_hour=0.1)
    with pytest.raises(ConfigError) as raised:
        require_price(prices, "cuda:NVIDIA L4")
    assert '"cuda:NVIDIA L4", only for cpu, cuda:NVIDIA H200' in str(raised.value)
    with pytest.raises(ConfigError):
        price_usd(ComputeCost(), "cuda:NVIDIA L4", prices)
    require_price(prices, GPU)
    require_price(prices, "cpu")
    require_price(None, "cuda:NVIDIA L4")


@pytest.mark.parametrize("name", ["cuda", "cuda:", "cuda: H200", "gpu", "NVIDIA H200", "CPU", ""])
def test_a_name_that_no_device_can_have_is_an_error_of_the_table(name):
    with pytest.raises(ValueError, match="no device is called"):
        PriceTable(devices={name: 1.0}, usd_per_cpu_hour=0.1)


def test_a_table_without_a_price_for_the_cpu_is_of_no_use_to_any_run():
    with pytest.raises(ValueError, match=r"usd_per_cpu_hour, or devices\.cpu"):
        PriceTable(usd_per_gpu_hour=1.0)
    assert PriceTable(devices={"cpu": 0.0}).of("cpu") == 0.0


@pytest.mark.parametrize("field", ["usd_per_gpu_hour", "usd_per_cpu_hour", "devices"])
@pytest.mark.parametrize("price", [-0.01, float("nan"), float("inf")])
def test_a_price_is_a_number_and_not_negative(field, price):
    with pytest.raises(ValueError, match="not negative"):
        PriceTable(
            **{"usd_per_gpu_hour": 1.0, "usd_per_cpu_hour": 1.0, field: {GPU: price} if field == "devices" else price}
        )
