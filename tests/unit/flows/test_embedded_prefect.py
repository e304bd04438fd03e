"""The server that a command starts for its own flow runs, on a machine that is too busy, or where it ends."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
    get_current_settings,
    temporary_settings,
)

from cdmodel.errors import RunError
from flows import embedded_prefect
from flows.embedded_prefect import outlives_this_process, reporting_server


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[Any]]]:
    processes: list[subprocess.Popen[Any]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def runs(started: list[subprocess.Popen[Any]], script: str) -> Any:
    def start(port: int, environment: dict[str, str]) -> subprocess.Popen[Any]:
        started.append(subprocess.Popen([sys.executable, "-c", script]))
        return started[-1]

    return start


def test_a_server_that_does_not_answer_in_time_is_one_error(
    started: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_prefect, "_start_server", runs(started, "import time; time.sleep(60)"))
    with (
        temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 1}),
        pytest.raises(RunError, match="does not answer within 1 s"),
        reporting_server() as wait_for_server,
    ):
        wait_for_server()


def test_a_server_that_ends_while_it_starts_is_one_error(
    started: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_prefect, "_start_server", runs(started, "raise SystemExit(1)"))
    with pytest.raises(RunError, match="ended while it started, with 1"), reporting_server() as wait_for_server:
        wait_for_server()


def test_our_server_is_what_runs_report_to_until_the_command_ends(
    started: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_prefect, "_start_server", runs(started, "import time; time.sleep(60)"))
    before = get_current_settings().api.url
    with reporting_server():
        url = get_current_settings().api.url
        assert url is not None
        assert url.startswith("http://127.0.0.1:")
        assert not outlives_this_process(url)
    assert get_current_settings().api.url == before


def test_a_server_that_is_set_is_taken_and_none_started(
    started: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_prefect, "_start_server", runs(started, "pass"))
    with temporary_settings({PREFECT_API_URL: "http://prefect.example/api"}), reporting_server() as wait_for_server:
        wait_for_server()
        assert get_current_settings().api.url == "http://prefect.example/api"
        assert outlives_this_process("http://prefect.example/api")
    assert not started
