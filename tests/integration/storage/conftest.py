"""A real S3 server on loopback, and one empty bucket per test."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# The builders of small runs are those of the unit tests; the S3 server is that of the end-to-end tests.
sys.path += [str(Path(__file__).parents[2] / "unit" / "storage"), str(Path(__file__).parents[2])]

from s3_endpoint import new_bucket, s3_endpoint


@pytest.fixture(scope="session")
def s3_environment() -> Iterator[dict[str, str]]:
    """What points to the server; the process's environment does so until the session ends."""
    with s3_endpoint() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        yield environment


@pytest.fixture(scope="session")
def s3_server(s3_environment: dict[str, str]) -> str:
    """The endpoint."""
    return s3_environment["AWS_ENDPOINT_URL"]


@pytest.fixture
def bucket(s3_environment: dict[str, str]) -> Iterator[str]:
    """The URL of an empty bucket."""
    with new_bucket(s3_environment) as name:
        yield f"s3://{name}"


@pytest.fixture(scope="session")
def fault_proxy() -> Path:
    """The proxy that spoils every n-th request to a real server; its tests are skipped where it is absent."""
    beside = Path(__file__).parents[4] / "shared" / "s3" / "faultproxy.py"
    path = Path(os.environ.get("CDLABEL_TEST_FAULT_PROXY") or beside)
    if not path.is_file():
        pytest.skip(f"no fault proxy at {path}; set CDLABEL_TEST_FAULT_PROXY")
    return path
