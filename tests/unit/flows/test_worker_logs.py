"""What a worker tells of its logs, and what is shown of that."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from flows.worker_logs import SHOWN_PER_KIND, BatchingHandler, LogRelay
from tasks.log_facts import log_about, log_facts

WORKER = logging.getLogger("tasks.label_shard")


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="flow run")
    return caplog


@pytest.fixture
def told() -> Iterator[BatchingHandler]:
    """A handler as a worker has it."""
    handler = BatchingHandler("r1", "tcp://w")
    WORKER.addHandler(handler)
    WORKER.setLevel(logging.INFO)
    yield handler
    WORKER.removeHandler(handler)
    WORKER.setLevel(logging.NOTSET)


def messages(heard: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in heard.records if record.name == "flow run"]


def fail(kind: str = "unreadable", run: str = "r1", video: str = "v1") -> None:
    with log_about(run=run, shard="s1"), log_about(video=video):
        WORKER.info("video failed: %s", "no header", extra={"kind": kind})


def test_a_record_carries_what_its_thread_was_busy_with(told: BatchingHandler) -> None:
    fail()
    [(level, kind, text)] = told.take(last=False)["lines"]
    assert (level, kind) == (logging.INFO, "unreadable")
    assert text == "video failed: no header (run=r1 shard=s1 video=v1 worker=tcp://w kind=unreadable)"
    assert log_facts() == {}
    assert told.take(last=True) == {"lines": [], "more": {}, "last": True}


def test_a_worker_that_serves_two_runs_tells_each_only_its_own(told: BatchingHandler) -> None:
    fail(run="r2")
    assert told.take(last=False)["lines"] == []


def test_a_million_failures_are_a_hundred_lines_and_a_count(told: BatchingHandler) -> None:
    """Here two thousand; the others cost no memory."""
    for _ in range(2_000):
        fail()
    fail(kind="not_found")
    batch = told.take(last=False)
    assert len(batch["lines"]) == SHOWN_PER_KIND + 1
    assert batch["more"] == {"unreadable": 2_000 - SHOWN_PER_KIND}
    fail()
    assert told.take(last=False) == {"lines": [], "more": {"unreadable": 1}, "last": False}


def test_of_what_all_workers_tell_a_hundred_of_each_kind_are_shown_and_the_rest_is_counted(
    heard: pytest.LogCaptureFixture,
) -> None:
    relay = LogRelay(logging.getLogger("flow run"))
    for worker in range(3):
        lines = [(logging.INFO, "unreadable", f"line {worker}-{n}") for n in range(60)]
        relay.receive((0.0, {"lines": lines, "more": {"unreadable": 1000}, "last": False}))
    relay.end()
    assert len(messages(heard)) == SHOWN_PER_KIND + 1
    assert messages(heard)[-1] == "unreadable: 3080 more, not shown"
