"""Asks a store for several things at once: one answer after another, a distant bucket would take hours for a large run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")
REQUESTS_AT_ONCE = 16


def map_ahead(
    function: Callable[[Item], Answer], items: Iterable[Item], ahead: int = REQUESTS_AT_ONCE
) -> Iterator[Answer]:
    """Yield ``function(item)`` for each item in order, computed on threads, at most ``ahead`` before they are asked for.

    The first error is raised in its place; nothing after it is started.
    """
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(ahead) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
