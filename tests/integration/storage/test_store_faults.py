"""What befalls a range befalls a video: the bytes of the listed version come out, or an error does, soon."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import pytest
from object_server import CUT_AFTER_BYTES, Fault, ObjectServer, serve_object
from spoiled_line import spoiled_line

from cdmodel.errors import VideoStorageError
from cdmodel.types import VideoRef
from storage.corpus import CorpusRules, list_videos
from storage.filesystem import open_store
from storage.range_source import Patience
from storage.read_ahead import MIB, ReadAhead
from storage.video_file import VideoFile, open_video

CONTENT = random.Random(0).randbytes(5 * MIB)
RANGES = ReadAhead(whole_file_bytes=0)
# The client of S3 waits up to 3 s between its own attempts.
PATIENT = Patience(wait_seconds=0.01, silence_seconds=10.0, bytes_per_second=10**8)
IMPATIENT = replace(PATIENT, silence_seconds=2.0)
SOON_SECONDS = 15.0
PASSING: tuple[Fault, ...] = ("503", "reset", "cut", "elsewhere")
LASTING: tuple[Fault, ...] = (*PASSING, "stall")


@pytest.fixture
def server() -> Iterator[ObjectServer]:
    with serve_object(CONTENT) as served:
        yield served


@pytest.fixture(params=["s3", "http"])
def video(request: pytest.FixtureRequest, server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> VideoRef:
    """The server's object, as a listing tells it in S3 and as a name alone in HTTP."""
    if request.param == "http":
        return VideoRef(video_id="v", uri=server.url, video_version="unknown", size_bytes=None)
    request.getfixturevalue("s3_server")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.port}")
    return VideoRef(video_id="v", uri="s3://bucket/a.mp4", video_version=server.etag, size_bytes=len(server.content))


def _open(video: VideoRef, read_ahead: ReadAhead = RANGES, patience: Patience = PATIENT) -> VideoFile:
    return open_video(video, read_ahead, patience)


def _read_in_pieces(file: VideoFile) -> bytes:
    return b"".join(iter(lambda: file.read(100_000), b""))


def test_a_healthy_server_is_asked_once_for_each_range(video: VideoRef, server: ObjectServer):
    with _open(video) as file:
        assert _read_in_pieces(file) == CONTENT
        assert server.ranges == [(0, MIB), (MIB, 3 * MIB), (3 * MIB, 5 * MIB)]
        assert file.read_requests == len(server.ranges) + server.lookups
        assert file.bytes_read == len(CONTENT)


@pytest.mark.parametrize("fault", PASSING)
def test_a_fault_that_passes_costs_a_request_and_no_byte(fault: Fault, video: VideoRef, server: ObjectServer):
    server.faults = ["none", fault, "none"]
    with _open(video) as file:
        assert _read_in_pieces(file) == CONTENT
        assert len(server.ranges) == 4
        # A request that a dying connection swallowed is sent again below us, and counted once.
        assert file.read_requests == (3 if fault == "reset" else 4) + server.lookups
        assert file.bytes_read == len(CONTENT) + (CUT_AFTER_BYTES if fault == "cut" else 0)


@pytest.mark.parametrize("fault", LASTING)
def test_a_fault_that_lasts_is_an_error_soon_and_never_the_end_of_the_file(
    fault: Fault, video: VideoRef, server: ObjectServer
):
    server.faults = ["none", fault]
    started = time.monotonic()
    with _open(video, patience=IMPATIENT if fault == "stall" else PATIENT) as file:
        assert file.read(1000) == CONTENT[:1000]
        file.seek(2 * MIB)
        with pytest.raises(VideoStorageError) as caught:
            file.read(1000)
        assert time.monotonic() - started < SOON_SECONDS
        assert "\n" not in str(caught.value)
        attempts = 1 if fault == "stall" else PATIENT.attempts
        assert file.read_requests == 1 + attempts + server.lookups
        assert 1 + attempts <= len(server.ranges) <= 1 + (2 * attempts if fault == "reset" else attempts)
        # What was read before is still there.
        file.seek(0)
        assert file.read(1000) == CONTENT[:1000]


def test_another_version_is_never_read(video: VideoRef, server: ObjectServer):
    with _open(video) as file:
        assert file.read(1000) == CONTENT[:1000]
        server.content, server.etag = bytes(len(CONTENT)), "f" * 32
        file.seek(2 * MIB)
        with pytest.raises(VideoStorageError, match="changed"):
            file.read(1000)
        assert len(server.ranges) == 2


@pytest.mark.parametrize("size_bytes", [len(CONTENT) - 1, len(CONTENT) + 1, 100])
def test_another_size_is_another_version(size_bytes: int, video: VideoRef, server: ObjectServer):
    with _open(video) as file:
        assert file.read(1000) == CONTENT[:1000]
        server.content = bytes(size_bytes)
        file.seek(3 * MIB)
        with pytest.raises(VideoStorageError, match="changed"):
            file.read(1000)


def test_a_server_without_ranges_gives_small_videos_whole_and_large_ones_not(video: VideoRef, server: ObjectServer):
    server.faults = ["no ranges"]
    with _open(video, ReadAhead()) as file:
        file.seek(4 * MIB)
        assert file.read() == CONTENT[4 * MIB :]
    with _open(video) as file:
        file.seek(4 * MIB)
        with pytest.raises(VideoStorageError, match="no ranges"):
            file.read()


def test_a_video_that_cannot_be_looked_up_is_an_error_soon(video: VideoRef, server: ObjectServer):
    server.lookups_stall = True
    started = time.monotonic()
    with pytest.raises(VideoStorageError, match="no answer within 2 s"):
        _open(replace(video, size_bytes=None), patience=IMPATIENT)
    assert time.monotonic() - started < SOON_SECONDS


def test_a_decoder_hears_of_a_fault_as_it_is(video: VideoRef, server: ObjectServer):
    server.faults = ["cut"]
    with _open(video) as file, pytest.raises(VideoStorageError, match="broke off"), av.open(file):
        pass


def test_a_web_server_that_is_down_is_no_missing_video(server: ObjectServer):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{taken.getsockname()[1]}/a.mp4"
        with pytest.raises(VideoStorageError):
            open_video(VideoRef(video_id="v", uri=uri, video_version="unknown", size_bytes=None))


@pytest.mark.parametrize("mode", ["503", "reset", "cut"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_video_behind_a_bad_line_is_read_whole_or_fails(
    mode: str, every: int, fault_proxy: Path, bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
):
    open_store(bucket).create("a.mp4", CONTENT)
    (video,) = list_videos(bucket, CorpusRules()).videos
    with spoiled_line(fault_proxy, s3_server, mode, every) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        with _open(video) as file:
            if every == 1:
                with pytest.raises(VideoStorageError):
                    _read_in_pieces(file)
            else:
                assert _read_in_pieces(file) == CONTENT
                assert file.read_requests >= 3
