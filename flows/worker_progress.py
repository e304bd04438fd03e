"""How far a piece of work on a Dask worker is, told to the process that waits for it.

What is told is a frozen dataclass of plain values; it goes by the scheduler, at most once in a while, and may be lost.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import Any, TypeVar

from distributed import get_worker

from flows.worker_logs import LOST

Told = TypeVar("Told")
SECONDS_BETWEEN = 0.5


@contextmanager
def heard_progress(client: Any, topic: str, kind: type[Told], on_progress: Callable[[Told], None]) -> Iterator[None]:
    """Hand to ``on_progress`` what workers tell under ``topic`` by ``told_to``; ``client`` is Dask's."""

    def receive(event: tuple[float, MutableMapping[str, Any]]) -> None:
        on_progress(kind(**event[1]))

    with suppress(*LOST):  # whoever cannot listen still gets the result
        client.subscribe_topic(topic, receive)
    try:
        yield
    finally:
        with suppress(*LOST):
            client.unsubscribe_topic(topic)


def told_to(topic: str) -> Callable[[Any], None]:
    """Return, on a worker, what tells the listeners of ``topic`` how far it is: the last of a stage always, others at times."""
    worker = get_worker()
    told_at = 0.0

    def tell(progress: Any) -> None:
        nonlocal told_at
        facts = asdict(progress)
        is_last = facts.get("step", facts.get("done")) == facts.get("steps", facts.get("total"))
        if is_last or time.monotonic() - told_at >= SECONDS_BETWEEN:
            told_at = time.monotonic()
            worker.log_event(topic, facts)

    return tell
