"""The command line as a user runs it: another process, its own Prefect home, real videos and a generated corpus."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_endpoint import new_bucket, s3_endpoint

from tasks.generate_corpus import generate_corpus

CORPUS_VIDEOS = 24
Cdlabel = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prefect within the command, as it is by default; its database is not in the user's home."""
    return {**os.environ, "PREFECT_HOME": str(tmp_path_factory.mktemp("embedded")), "COLUMNS": "200"}


@pytest.fixture(scope="session")
def environment(embedded: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A Prefect server for all commands: every one would start its own otherwise, which takes longer than its work."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = {**embedded, "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect"))}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=served, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            served["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
            _wait_until_it_answers(f"{served['PREFECT_API_URL']}/health")
            yield served
        finally:
            server.terminate()


@pytest.fixture(scope="session")
def cdlabel(environment: dict[str, str]) -> Cdlabel:
    """Run the command and return its exit code and outputs."""

    def run(
        *arguments: object, expect: int | None = 0, env: dict[str, str] | None = None, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [sys.executable, "-m", "flows", *map(str, arguments)],
            env={**(env or environment), **extra},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        if expect is not None:
            assert finished.returncode == expect, finished.stderr
        assert "Traceback" not in finished.stderr
        return finished

    return run


@pytest.fixture(scope="session")
def rows(cdlabel: Cdlabel) -> Callable[..., list[dict[str, Any]]]:
    """Answer SQL over an OUT."""

    def ask(out: object, sql: str, **extra: str) -> list[dict[str, Any]]:
        answer: list[dict[str, Any]] = json.loads(cdlabel("query", out, sql, "--json", **extra).stdout)
        return answer

    return ask


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generated videos, with a broken one among them."""
    folder = tmp_path_factory.mktemp("corpus") / "kinetic"
    generate_corpus(str(folder), videos=CORPUS_VIDEOS, seed=5, distractors=0.5, on_progress=lambda _: None)
    (folder / "videos" / "broken.mp4").write_bytes(b"not a video")
    return folder


@pytest.fixture(scope="session")
def s3() -> Iterator[dict[str, str]]:
    """An S3 server and the environment that points to it."""
    with s3_endpoint() as environment:
        yield environment


@pytest.fixture
def archive(s3: dict[str, str]) -> Iterator[str]:
    """The name of an empty bucket."""
    with new_bucket(s3) as name:
        yield name


def _wait_until_it_answers(url: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"nobody answers at {url}")
