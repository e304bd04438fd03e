"""A device without a price is refused before a run, and before a schedule is served."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from cdmodel.cost import PriceTable
from cdmodel.errors import ConfigError
from flows import local_price
from flows.local_price import require_local_price, require_local_price_apart

PRICES = PriceTable(usd_per_cpu_hour=0.04, devices={"cuda:A100": 2.0})


@pytest.mark.parametrize("require", [require_local_price, require_local_price_apart])
def test_a_device_without_a_price_is_named(require, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_price, "_name_local_device", partial(str, "cuda:NVIDIA L4"))
    with pytest.raises(ConfigError, match='no price for "cuda:NVIDIA L4", only for cpu, cuda:A100'):
        require(PRICES)


def test_looking_from_another_process_leaves_torch_out_of_this_one() -> None:
    program = (
        "import sys; from cdmodel.cost import PriceTable; from flows.local_price import require_local_price_apart; "
        "require_local_price_apart(PriceTable(usd_per_cpu_hour=0.04, usd_per_gpu_hour=1.0)); print('torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    assert shown.stdout.strip() == "False"
