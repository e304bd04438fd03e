"""The embedded server of a machine that is too busy to start it, or where somebody else took the port."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, temporary_settings

from cdmodel.errors import RunError
from flows import embedded_prefect
from flows.embedded_prefect import PORT_IS_TAKEN

NOBODY = SimpleNamespace(port=9, api_url="http://127.0.0.1:9/api")
"""At the port that discards: loopback has nobody there."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[Any]]]:
    processes: list[subprocess.Popen[Any]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def runs(started: list[subprocess.Popen[Any]], script: str) -> Any:
    def start(port: int | None, environment: dict[str, str]) -> subprocess.Popen[Any]:
        started.append(subprocess.Popen([sys.executable, "-c", script]))
        return started[-1]

    return start


def test_a_server_that_does_not_answer_in_time_is_one_error_and_ended(
    started: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_prefect, "_start_server", runs(started, "import time; time.sleep(60)"))
    with (
        temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 1}),
        pytest.raises(RunError, match="does not answer within 1 s"),
    ):
        embedded_prefect._start_tied(NOBODY)  # type: ignore[arg-type]
    assert started[0].poll() is not None


def test_a_port_that_somebody_else_took_is_left_to_prefect_to_change(
    started: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_prefect, "_start_server", runs(started, f"raise SystemExit({PORT_IS_TAKEN})"))
    assert embedded_prefect._start_tied(NOBODY) is started[0]  # type: ignore[arg-type]


def test_a_server_that_ends_while_it_starts_is_one_error(
    started: list[subprocess.Popen[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded_prefect, "_start_server", runs(started, "raise SystemExit(1)"))
    with pytest.raises(RunError, match="ended while it started, with 1"):
        embedded_prefect._start_tied(NOBODY)  # type: ignore[arg-type]
