"""What lies behind the door: fsspec's drivers, how they are set up, and what they raise when a store fails."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Literal, cast

import fsspec

from cdmodel.errors import StorageUnavailable, UsageError
from storage.uri import split_url

CONNECT_TIMEOUT_SECONDS = 3
READ_TIMEOUT_SECONDS = 30
REQUEST_ATTEMPTS = 3
BODY_ATTEMPTS = 2
"""Times that a request is made, each with its own attempts, whose answer breaks off half way. They multiply: a server that
accepts and never answers holds up a read for six times READ_TIMEOUT_SECONDS, everything else for three times."""
SINGLE_PUT_BYTES = 2 * 2**30
"""Below this an object is one request: not every server honours create-only on multipart uploads."""

PutMode = Literal["create", "overwrite"]


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


def read_whole(filesystem: Any, path: str) -> bytes:
    """Return an object by one request, asked again if the answer breaks off.

    Left to itself, the driver of S3 looks the size up first, and does not repeat a part of a large object.
    """
    one_request = {"max_concurrency": 1} if "s3" in protocols_of(filesystem) else {}
    return cast("bytes", filesystem.cat_file(path, **one_request))


def put_whole(filesystem: Any, path: str, data: bytes, mode: PutMode) -> None:
    """Write an object by one request; with ``create``, on the condition that none stands there."""
    one_request = {"chunksize": SINGLE_PUT_BYTES} if "s3" in protocols_of(filesystem) else {}
    filesystem.pipe_file(path, data, mode=mode, **one_request)


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


def is_busy(error: BaseException) -> bool:
    """Tell whether the server asks to come again: it is busy, or another write to the same name is under way."""
    return getattr(error, "errno", None) == errno.EBUSY or _code_of(error) == "ConditionalRequestConflict"


def is_not_implemented(error: BaseException) -> bool:
    """Tell whether the server does not know what was asked of it: conditions, where an object was to be created."""
    return getattr(error, "errno", None) == errno.ENOSYS


def is_refusal(error: BaseException) -> bool:
    """Tell whether the server has turned down the condition of a write: it was not met, or is not known."""
    return (
        isinstance(error, FileExistsError)
        or _code_of(error) in ("PreconditionFailed", "412")
        or is_not_implemented(error)
    )


def names_missing_bucket(error: BaseException) -> bool:
    """Tell whether the bucket is missing, and not merely an object in it."""
    return isinstance(error, _MissingBucket) or _code_of(error) == "NoSuchBucket"


def unavailable(uri: str, error: BaseException) -> StorageUnavailable:
    """Return our error for a driver's."""
    return StorageUnavailable(uri, reason_of(error))


def reason_of(error: BaseException) -> str:
    """Return one line about what a driver raised."""
    match error:
        case FileNotFoundError() if names_missing_bucket(error):
            return "its bucket does not exist"
        case FileNotFoundError():
            return "does not exist"
        case PermissionError():
            return f"access denied ({one_line(error)})"
        case _:
            return f"the store failed: {one_line(error)}"


def one_line(error: BaseException) -> str:
    """Return one line about an error: its message names the endpoint and the operation, never a secret."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if text in ("", "None"):  # an answer without a message
        text = _code_of(error) or type(error).__name__
    return " ".join(text.split())


def require_bucket(filesystem: Any, path: str) -> None:
    """Raise FileNotFoundError where the bucket itself is missing, which an empty listing does not say."""
    if "s3" in protocols_of(filesystem):
        try:
            filesystem.info(path.partition("/")[0])
        except FileNotFoundError as error:
            raise _MissingBucket(*error.args) from error


class _MissingBucket(FileNotFoundError):
    """No such bucket."""


def _code_of(error: BaseException) -> str | None:
    """Return how the server called it, where the driver has kept that."""
    response = getattr(error.__cause__, "response", None)
    return response["Error"].get("Code") if isinstance(response, dict) else None
