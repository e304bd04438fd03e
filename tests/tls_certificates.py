"""Certificates as deploy/tls/make-certificates.sh makes them, and what the files of settings in deploy/ say."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dask
import pytest

DEPLOY = Path(__file__).parents[1] / "deploy"


def make_certificates(folder: Path) -> Path:
    """Fill a new folder; the test is skipped where there is nothing to make them with."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    subprocess.run(["sh", DEPLOY / "tls" / "make-certificates.sh", folder], check=True, capture_output=True)
    return folder


def settings_of(file: Path) -> dict[str, str]:
    """Return what a shell that reads the file has in its environment."""
    return dict(line.split("=", 1) for line in shlex.split(file.read_text(), comments=True))


@contextmanager
def dask_configured_by(environment: dict[str, str]) -> Iterator[None]:
    """As Dask is where the environment held this when it was imported."""
    dotted = {name.removeprefix("DASK_").lower().replace("__", "."): value for name, value in environment.items()}
    with dask.config.set({name: dask.config.interpret_value(value) for name, value in dotted.items()}):
        yield
