"""A real S3 server on loopback, and one empty bucket per test."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
from moto.server import ThreadedMotoServer

# The builders of small runs are those of the unit tests.
sys.path.append(str(Path(__file__).parents[2] / "unit" / "storage"))
_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint; the process's environment points at it until the session ends."""
    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("AWS_ACCESS_KEY_ID", "test")
        environment.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-that-must-not-be-told")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        environment.delenv("AWS_PROFILE", raising=False)
        yield endpoint
    server.stop()


@pytest.fixture
def bucket(s3_server: str) -> str:
    """The URL of an empty bucket."""
    name = f"bucket-{next(_numbers)}"
    client = botocore.session.get_session().create_client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket=name)
    client.close()
    return f"s3://{name}"
