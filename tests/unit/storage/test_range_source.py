from __future__ import annotations

import random
import time

import fsspec
import pytest
from fsspec.exceptions import FSTimeoutError

from cdmodel.errors import VideoNotFound
from cdmodel.types import VideoRef
from storage.range_requests import BrokenAnswer, ObjectChanged, plain_etag
from storage.range_source import Patience, RangeSource
from storage.read_ahead import MIB
from storage.video_file import open_video

CONTENT = random.Random(0).randbytes(1000)
QUICK = Patience(attempts=3, wait_seconds=0.001)


class FailingStore:
    """Answers as it is told, then well."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def __call__(self, start: int, end: int, timeout_seconds: float) -> bytes:
        assert timeout_seconds > 0
        self.asked += 1
        answer = self.answers.pop(0) if self.answers else CONTENT[start:end]
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.mark.parametrize("bad", [b"short", CONTENT, b"", BrokenAnswer("reset")])
def test_a_bad_answer_is_asked_for_again(bad: bytes | Exception):
    store = FailingStore(bad, bad)
    assert RangeSource(get=store, patience=QUICK).fetch(100, 200) == CONTENT[100:200]
    assert store.asked == 3


@pytest.mark.parametrize("bad", [b"short", b"", BrokenAnswer("reset")])
def test_after_so_many_attempts_it_is_an_error(bad: bytes | Exception):
    store = FailingStore(*[bad] * 9)
    with pytest.raises(OSError, match=r"\(3 attempts\)"):
        RangeSource(get=store, patience=QUICK).fetch(100, 200)
    assert store.asked == 3


@pytest.mark.parametrize("final", [ObjectChanged("gone"), PermissionError("no"), FileNotFoundError("no")])
def test_what_asking_again_does_not_help_is_an_error_at_once(final: Exception):
    store = FailingStore(final)
    with pytest.raises(type(final)):
        RangeSource(get=store, patience=QUICK).fetch(0, 10)
    assert store.asked == 1


def test_time_that_is_over_is_told_in_seconds():
    patience = Patience(silence_seconds=5, bytes_per_second=100)
    with pytest.raises(TimeoutError, match="100 bytes did not come within 6 s"):
        RangeSource(get=FailingStore(FSTimeoutError()), patience=patience).fetch(0, 100)


def test_no_attempt_starts_after_the_time_is_over():
    store = FailingStore(*[BrokenAnswer("reset")] * 1000)
    started = time.monotonic()
    with pytest.raises(OSError, match="attempts"):
        RangeSource(get=store, patience=Patience(attempts=1000, wait_seconds=0.01, silence_seconds=0.1)).fetch(0, 10)
    assert time.monotonic() - started < 1
    assert store.asked < 10


@pytest.mark.parametrize(("told", "plain"), [('"abc"', "abc"), ('W/"abc"', "abc"), ("abc-2", "abc-2"), ("", "")])
def test_an_etag_is_compared_without_its_quotes(told: str, plain: str):
    assert plain_etag(told) == plain


def _in_memory(name: str) -> VideoRef:
    return VideoRef(video_id="v", uri=f"memory://{name}", video_version="unknown", size_bytes=None)


def test_any_store_that_fsspec_knows_gives_videos():
    content = random.Random(1).randbytes(40 * MIB)
    fsspec.filesystem("memory").pipe_file("/videos/a.mp4", content)
    try:
        with open_video(_in_memory("videos/a.mp4")) as file:
            file.seek(20 * MIB)
            assert file.read(100) == content[20 * MIB : 20 * MIB + 100]
            # One look-up, one range: a megabyte, and an eighth from before.
            assert (file.read_requests, file.bytes_read) == (2, MIB + MIB // 8)
            file.seek(0)
            assert file.readall() == content
    finally:
        fsspec.filesystem("memory").rm("/videos", recursive=True)


def test_a_video_missing_from_any_store_is_not_found():
    with pytest.raises(VideoNotFound):
        open_video(_in_memory("videos/gone.mp4"))
