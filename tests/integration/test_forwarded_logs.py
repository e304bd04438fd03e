"""Logs on their way from a worker to this process."""

from __future__ import annotations

import logging
import time

import pytest
from distributed import Client, LocalCluster

from flows.worker_logs import BatchingHandler, forwarded_logs
from tasks.log_facts import log_about

WORKER = logging.getLogger("tasks.label_shard")


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="flow run")
    return caplog


def messages(heard: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in heard.records if record.name == "flow run"]


def fail() -> None:
    with log_about(run="r1", shard="s1", video="v1"):
        WORKER.info("video failed: %s", "no header", extra={"kind": "unreadable"})


def test_logs_travel_from_a_workers_thread_to_the_flows_logger_and_the_last_ones_are_not_lost(
    heard: pytest.LogCaptureFixture,
) -> None:
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        with forwarded_logs(client, "r1", logging.getLogger("flow run")):
            client.submit(fail, pure=False).result()
        handlers = WORKER.parent.handlers if WORKER.parent else []
    [message] = messages(heard)
    assert message.startswith("video failed: no header (run=r1 shard=s1 video=v1 worker=inproc://")
    assert not [one for one in handlers if isinstance(one, BatchingHandler)]


def test_a_scheduler_that_is_gone_costs_the_logs_and_not_the_run(heard: pytest.LogCaptureFixture) -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        client = Client(cluster, set_as_default=False)
        client.close()
        done = False
        began = time.monotonic()
        with forwarded_logs(client, "r1", logging.getLogger("flow run")):
            done = True
        assert done
        assert time.monotonic() - began < 5
    assert any("are not shown: Client is closed" in message for message in messages(heard))
