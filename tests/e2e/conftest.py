"""The command line as a user runs it: another process, its own Prefect home, real videos and a generated corpus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tasks.generate_corpus import generate_corpus

CORPUS_VIDEOS = 24
Cdlabel = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Prefect's database is made once for all commands, and not in the user's home."""
    return {**os.environ, "PREFECT_HOME": str(tmp_path_factory.mktemp("prefect")), "COLUMNS": "200"}


@pytest.fixture(scope="session")
def cdlabel(environment: dict[str, str]) -> Cdlabel:
    """Run the command and return its exit code and outputs."""

    def run(*arguments: object, expect: int | None = 0, **extra: str) -> subprocess.CompletedProcess[str]:
        finished = subprocess.run(
            [sys.executable, "-m", "flows", *map(str, arguments)],
            env={**environment, **extra},
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
    """An S3 server on loopback and the environment that points to it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "not-a-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.stop()
