"""What lies behind the door: fsspec's drivers, how they are set up, and what they raise when a store fails."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import fsspec

from cdmodel.errors import StorageUnavailable, UsageError
from storage.uri import split_url

CONNECT_TIMEOUT_SECONDS = 3
READ_TIMEOUT_SECONDS = 30
REQUEST_ATTEMPTS = 3
BODY_ATTEMPTS = 3
"""Times that a request is repeated whose answer broke off half way."""


def filesystem_of(uri: str) -> Any:
    """Return the fsspec file system that an absolute name belongs to; one instance per process and endpoint.

    Raises:
        UsageError: the protocol is unknown, or its driver is not installed.
    """
    scheme, path = split_url(uri)
    if scheme in ("s3", "s3a"):
        if not path:
            raise UsageError(uri, "names no bucket; write s3://bucket/prefix")
        return _s3()
    try:
        return fsspec.filesystem(scheme)
    except (ValueError, ImportError) as error:
        raise UsageError(uri, f"the protocol {scheme}:// cannot be used: {one_line(error)}") from error


def path_in_filesystem(uri: str) -> str:
    """Return what an fsspec file system calls an absolute name."""
    scheme, path = split_url(uri)
    return uri if scheme in ("http", "https") else path


def open_remote(filesystem: Any, path: str, block_bytes: int) -> Any:
    """Open a file for reading in ranges, each with ``block_bytes`` read ahead."""
    return filesystem.open(path, "rb", block_size=block_bytes, cache_type="readahead")


def info_version(info: dict[str, Any]) -> str:
    """Return the version of an object as its store tells it."""
    for key in ("ETag", "etag"):
        if info.get(key):
            return str(info[key]).strip('"')
    seconds = _modified_seconds(info)
    return f"{info['size']}" if seconds is None else f"{info['size']}-{round(seconds * 1e9)}"


def info_modified(info: dict[str, Any]) -> datetime | None:
    """Return when an object was last written, by the clock of its store; None where the store does not tell."""
    seconds = _modified_seconds(info)
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def _modified_seconds(info: dict[str, Any]) -> float | None:
    for key in ("LastModified", "last_modified", "mtime", "created"):
        if info.get(key):
            moment = info[key]
            return float(moment.timestamp() if hasattr(moment, "timestamp") else moment)
    return None


def store_errors() -> tuple[type[BaseException], ...]:
    """Return what drivers raise when a store fails. Loads the drivers' modules: ask only once something was raised."""
    import aiohttp
    import botocore.exceptions  # type: ignore[import-untyped]

    return (OSError, aiohttp.ClientError, botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError)


@contextmanager
def translated_errors(uri: str) -> Iterator[None]:
    """Turn whatever a driver raises into ``StorageUnavailable``."""
    try:
        yield
    except store_errors() as error:
        raise unavailable(uri, error) from error


def _s3() -> Any:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    filesystem = fsspec.filesystem(
        "s3",
        # Named here, though the driver would find it, so that instances for two endpoints are never mixed up.
        endpoint_url=endpoint,
        use_listings_cache=False,
        config_kwargs={
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "read_timeout": READ_TIMEOUT_SECONDS,
            "retries": {"mode": "standard", "total_max_attempts": REQUEST_ATTEMPTS},
        },
    )
    filesystem.retries = BODY_ATTEMPTS
    return filesystem


def protocols_of(filesystem: Any) -> tuple[str, ...]:
    """Return the protocols that a driver serves."""
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def unavailable(uri: str, error: BaseException) -> StorageUnavailable:
    """Return our error for a driver's."""
    match error:
        case FileNotFoundError():
            return StorageUnavailable(uri, "does not exist")
        case PermissionError():
            return StorageUnavailable(uri, f"access denied ({one_line(error)})")
        case _:
            return StorageUnavailable(uri, f"the store failed: {one_line(error)}")


def one_line(error: BaseException) -> str:
    """Return one line about an error: its message names the endpoint and the operation, never a secret."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def require_bucket(filesystem: Any, path: str) -> None:
    """Raise FileNotFoundError where the bucket itself is missing, which an empty listing does not say."""
    if "s3" in protocols_of(filesystem):
        filesystem.info(path.partition("/")[0])
