"""Refuses a run whose device on this machine has no price, before anything is written; other workers look for themselves."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from cdmodel.cost import PriceTable, require_price


def require_local_price(prices: PriceTable) -> None:
    """Look at the devices of this process.

    Raises:
        ConfigError: the one that models would run on has no price.
    """
    require_price(prices, _name_local_device())


def require_local_price_apart(prices: PriceTable) -> None:
    """Look from a process that ends again: torch, and a GPU's context, would stay in one that serves for weeks.

    Raises: as ``require_local_price``.
    """
    with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as looking:
        require_price(prices, looking.submit(_name_local_device).result())


def _name_local_device() -> str:
    from cdmodel.models import name_local_device

    return name_local_device()
