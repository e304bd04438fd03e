"""One request for one range, in the words of each store; every answer is held to a version and to its place in the whole."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from fsspec.asyn import AsyncFileSystem, sync

from storage.drivers import REQUEST_ATTEMPTS, protocols_of
from storage.read_meter import ReadMeter

CHUNK_BYTES = 2**18
"""Received at once."""
HTTP_CONNECT_SECONDS = 3
HTTP_SILENCE_SECONDS = 30
_CONTENT_RANGE = re.compile(r"bytes (?P<start>\d+)-(?P<last>\d+)/(?P<total>\d+|\*)")


class BrokenAnswer(OSError):
    """An answer that did not come, or broke off; asking again may help."""


class ObjectChanged(OSError):
    """Under this name stands another version than the one that was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectFacts:
    """The version of an object that is to be read."""

    size_bytes: int
    etag: str | None
    """Without quotes; None where the store tells none."""


class RangeGetter(Protocol):
    """Asks a store for a range once."""

    def __call__(self, start: int, end: int, timeout_seconds: float) -> bytes | bytearray:
        """Return the bytes of a half-open range.

        Raises:
            BrokenAnswer: asking again may help.
            ObjectChanged: the version is gone.
            FSTimeoutError: the time is over.
        """


def range_getter(filesystem: Any, path: str, facts: ObjectFacts, meter: ReadMeter) -> RangeGetter:
    """Return what asks a store for ranges of an object, and counts into ``meter``."""
    protocols = protocols_of(filesystem)
    if "s3" in protocols:
        return partial(_sync, filesystem, partial(_get_s3, filesystem, path, facts, meter))
    if "http" in protocols:
        return partial(_sync, filesystem, partial(_get_http, filesystem, path, facts, meter))
    return partial(_get_any, filesystem, path, meter)


def _sync(
    filesystem: Any,
    get: Callable[[int, int], Awaitable[bytearray]],
    start: int,
    end: int,
    timeout_seconds: float,
) -> bytearray:
    data: bytearray = sync(filesystem.loop, get, start, end, timeout=timeout_seconds)
    return data


def _get_any(filesystem: Any, path: str, meter: ReadMeter, start: int, end: int, timeout_seconds: float) -> bytes:
    meter.read_requests += 1
    if isinstance(filesystem, AsyncFileSystem):
        data: bytes = filesystem.cat_file(path, start=start, end=end, timeout=timeout_seconds)
    else:
        data = filesystem.cat_file(path, start=start, end=end)
    meter.bytes_read += len(data)
    return data


async def _get_s3(filesystem: Any, path: str, facts: ObjectFacts, meter: ReadMeter, start: int, end: int) -> bytearray:
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError, ConnectionError, HTTPClientError  # type: ignore[import-untyped]
    from s3fs.errors import translate_boto_error

    await filesystem.set_session()
    bucket, key, version_id = filesystem.split_path(path)
    client = await filesystem.get_s3(bucket)
    place = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{end - 1}"}
    version = {"VersionId": version_id} if version_id else {}
    meter.read_requests += 1
    try:
        answer = await client.get_object(**filesystem._get_s3_method_kwargs(client.get_object, **place, **version))
    except ClientError as error:
        meter.read_requests += _repeated(error.response)
        if error.response["ResponseMetadata"].get("HTTPStatusCode") == 416:
            raise ObjectChanged("it is shorter now") from error
        raise translate_boto_error(error) from error
    except (ConnectionError, HTTPClientError):
        # The client has repeated it as often as it was told to.
        meter.read_requests += REQUEST_ATTEMPTS - 1
        raise
    meter.read_requests += _repeated(answer)
    try:
        _check_answer(answer.get("ContentRange"), answer["ContentLength"], answer.get("ETag"), facts, start, end)
        return await _receive(answer["Body"].read, end - start, meter)
    except (BotoCoreError, aiohttp.ClientError) as error:
        raise BrokenAnswer(f"the answer broke off ({type(error).__name__})") from error
    finally:
        answer["Body"].close()


def _repeated(answer: dict[str, Any]) -> int:
    return int(answer["ResponseMetadata"].get("RetryAttempts", 0))


async def _get_http(filesystem: Any, url: str, facts: ObjectFacts, meter: ReadMeter, start: int, end: int) -> bytearray:
    import aiohttp

    session = await filesystem.set_session()
    given = dict(filesystem.kwargs)
    # A compressed answer has other lengths than the object.
    headers = {**given.pop("headers", {}), "Range": f"bytes={start}-{end - 1}", "Accept-Encoding": "identity"}
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=HTTP_CONNECT_SECONDS, sock_read=HTTP_SILENCE_SECONDS)
    meter.read_requests += 1
    try:
        async with session.get(filesystem.encode_url(url), headers=headers, **{"timeout": timeout, **given}) as answer:
            _check_status(answer.status, answer.reason)
            told = answer.headers
            _check_answer(told.get("Content-Range"), answer.content_length, told.get("ETag"), facts, start, end)
            return await _receive(answer.content.read, end - start, meter)
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BrokenAnswer(f"the answer broke off ({type(error).__name__}: {error})") from error


def _check_status(status: int, reason: str | None) -> None:
    match status:
        case 200 | 206:
            return
        case 401 | 403:
            raise PermissionError(f"the server answers {status} {reason}")
        case 404 | 410:
            raise FileNotFoundError(f"the server answers {status} {reason}")
        case 412 | 416:
            raise ObjectChanged("another version stands there now")
        case 408 | 429 | 500 | 502 | 503 | 504:
            raise BrokenAnswer(f"the server answers {status} {reason}")
        case _:
            raise OSError(f"the server answers {status} {reason}")


def _check_answer(
    content_range: str | None, length: int | None, etag: str | None, facts: ObjectFacts, start: int, end: int
) -> None:
    """Refuse an answer about another version or another place.

    The version that an answer tells is compared here, and no condition is sent (If-Match): servers that ignore conditions,
    or do not know them, are held to the version too.
    """
    if facts.etag and etag and plain_etag(etag) != facts.etag:
        raise ObjectChanged("another version stands there now")
    if content_range is None:
        if start > 0:
            raise OSError("the server gives no ranges, and the file is too large to be read whole")
        told_range, total = (0, end), length
    else:
        told = _CONTENT_RANGE.fullmatch(content_range.strip())
        if told is None:
            raise BrokenAnswer(f"no range is called {content_range!r}")
        told_range = (int(told["start"]), int(told["last"]) + 1)
        total = None if told["total"] == "*" else int(told["total"])
    if total is not None and total != facts.size_bytes:
        raise ObjectChanged(f"it has {total:,} bytes now, not {facts.size_bytes:,}")
    if told_range != (start, end):
        raise BrokenAnswer(f"bytes {told_range[0]} to {told_range[1]} came instead of {start} to {end}")


async def _receive(read: Callable[[int], Awaitable[bytes]], size_bytes: int, meter: ReadMeter) -> bytearray:
    """Read a body into memory of the right size; a longer one is left where it ends."""
    data = bytearray(size_bytes)
    filled = 0
    while filled < size_bytes:
        chunk = await read(min(CHUNK_BYTES, size_bytes - filled))
        if not chunk:
            raise BrokenAnswer(f"the answer broke off after {filled:,} of {size_bytes:,} bytes")
        data[filled : filled + len(chunk)] = chunk
        filled += len(chunk)
        meter.bytes_read += len(chunk)
    return data


def plain_etag(etag: str) -> str:
    """Return an etag as listings tell it: no quotes, no mark of weakness."""
    return etag.removeprefix("W/").strip('"')
