"""What the logs of a worker are about: the run, the shard and the video at hand, without every caller naming them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

_FACTS: ContextVar[Mapping[str, str]] = ContextVar("cdlabel_log_facts", default={})  # noqa: B039 - never changed in place


@contextmanager
def log_about(**facts: str) -> Iterator[None]:
    """Have all that is logged in this context, and in this thread, be about ``facts``, besides what it is about already."""
    token = _FACTS.set({**_FACTS.get(), **facts})
    try:
        yield
    finally:
        _FACTS.reset(token)


def log_facts() -> Mapping[str, str]:
    """Return what the thread is busy with."""
    return _FACTS.get()
