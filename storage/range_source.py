"""Ranges of one version of one remote object: all the bytes asked for, or an error within a bounded time.

A short answer is never taken for the end of the object, and an answer of another version is an error.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from fsspec.asyn import AsyncFileSystem
from fsspec.exceptions import FSTimeoutError

from storage.drivers import one_line, path_in_filesystem, protocols_of
from storage.range_requests import BrokenAnswer, ObjectFacts, RangeGetter, range_getter
from storage.read_meter import ReadMeter


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """When to give up on a range."""

    attempts: int = 3
    """Times that a range is asked for whose answer breaks off."""
    wait_seconds: float = 0.2
    """Before the second attempt; doubled before each further one."""
    silence_seconds: float = 60.0
    """For all attempts together, besides the time that the bytes may take."""
    bytes_per_second: int = 100_000
    """A store that is slower has stalled."""

    def seconds_for(self, size_bytes: int) -> float:
        """Return how long a range of this size may take, over all attempts."""
        return self.silence_seconds + size_bytes / self.bytes_per_second


def open_range_source(
    filesystem: Any, uri: str, facts: ObjectFacts, meter: ReadMeter, patience: Patience | None = None
) -> RangeSource:
    """Return the source of an object's ranges; sends nothing yet.

    S3 and HTTP are held to the version. Other stores are asked through fsspec, which tells no version: there only the length
    is checked.
    """
    get = range_getter(filesystem, path_in_filesystem(uri), facts, meter)
    return RangeSource(get=get, patience=patience or Patience())


def look_up_object(filesystem: Any, uri: str, meter: ReadMeter, patience: Patience) -> dict[str, Any]:
    """Return what fsspec knows of an object: ``size``, ``type`` and, where the store tells one, ``ETag``. One request.

    Raises:
        FileNotFoundError: there is none.
        OSError, or what the driver raises: the store failed, or did not answer in time.
    """
    path = path_in_filesystem(uri)
    meter.read_requests += 1
    try:
        if isinstance(filesystem, AsyncFileSystem):
            return dict(filesystem.info(path, timeout=patience.seconds_for(0)))
        return dict(filesystem.info(path))
    except FSTimeoutError as error:
        raise TimeoutError(f"no answer within {patience.seconds_for(0):.0f} s") from error
    except FileNotFoundError as error:
        # For HTTP, fsspec says so whatever went wrong.
        if "http" not in protocols_of(filesystem) or getattr(error.__cause__, "status", None) in (404, 410):
            raise
        raise OSError(one_line(error.__cause__ or error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class RangeSource:
    """Fetches ranges of one object, asking again where that helps."""

    get: RangeGetter
    patience: Patience = field(default_factory=Patience)

    def fetch(self, start: int, end: int) -> bytes | bytearray:
        """Return all bytes of a half-open range. Blocks for at most ``patience.seconds_for`` its size.

        Raises:
            OSError, or what the driver raises: the store failed for good; ObjectChanged where the version is gone.
        """
        allowed_seconds = self.patience.seconds_for(end - start)
        deadline = time.monotonic() + allowed_seconds
        wait_seconds = self.patience.wait_seconds
        for attempt in count(1):
            try:
                return self._get_all(start, end, deadline - time.monotonic())
            except BrokenAnswer as error:
                if attempt == self.patience.attempts or time.monotonic() + wait_seconds >= deadline:
                    raise OSError(f"{error} ({attempt} attempts)") from error
            except FSTimeoutError as error:
                raise TimeoutError(f"{end - start:,} bytes did not come within {allowed_seconds:.0f} s") from error
            time.sleep(wait_seconds)
            wait_seconds *= 2
        raise AssertionError("counting has no end")

    def _get_all(self, start: int, end: int, timeout_seconds: float) -> bytes | bytearray:
        data = self.get(start, end, timeout_seconds)
        if len(data) != end - start:
            raise BrokenAnswer(f"{len(data):,} bytes came instead of {end - start:,}")
        return data
