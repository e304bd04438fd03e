"""The S3 server that tests run against: one that the environment names, or else moto on loopback."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import botocore.session

NAMED = "CDLABEL_TEST_S3_ENDPOINT"
IS_REAL = bool(os.environ.get(NAMED))
"""Whether the environment names a server (``make test-s3``): one that knows wrong secrets and is not part of this process."""


@contextmanager
def s3_endpoint() -> Iterator[dict[str, str]]:
    """Yield what the environment of a process must hold for it to find the server."""
    if IS_REAL:
        yield _environment(os.environ[NAMED], os.environ["CDLABEL_TEST_S3_KEY"], os.environ["CDLABEL_TEST_S3_SECRET"])
        return
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield _environment(f"http://{host}:{port}", "test", "a-secret-that-must-not-be-told")
    finally:
        server.stop()


@contextmanager
def new_bucket(environment: dict[str, str]) -> Iterator[str]:
    """Yield the name of an empty bucket that is gone afterwards."""
    client = s3_client(environment)
    name = f"cdlabel-test-{uuid.uuid4().hex[:16]}"
    client.create_bucket(Bucket=name)
    try:
        yield name
    finally:
        if IS_REAL:
            remove_bucket(client, name)
        client.close()


def remove_bucket(client: Any, name: str) -> None:
    """Delete a bucket with all that it holds; one that is gone already is fine."""
    try:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=name):
            for item in page.get("Contents", ()):
                client.delete_object(Bucket=name, Key=item["Key"])
        client.delete_bucket(Bucket=name)
    except client.exceptions.NoSuchBucket:
        return


def s3_client(environment: dict[str, str]) -> Any:
    """Return a client that asks the server itself, past whatever a test has put before it."""
    return botocore.session.get_session().create_client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_DEFAULT_REGION"],
    )


def _environment(endpoint: str, key: str, secret: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": os.environ.get("CDLABEL_TEST_S3_REGION", "us-east-1"),
    }
