"""What stands where a video should, and is none: each ends in its own error, at once, and never waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdmodel.decode import ClipReader
from cdmodel.errors import VideoError, VideoNotFound, VideoUnreadable
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.testing import encode_flat_video
from cdmodel.types import VideoRef
from storage.video_file import open_video


def _read(path: Path) -> int:
    """Return how many clips the video at a path has."""
    video = VideoRef(video_id="x", uri=str(path), video_version="1", size_bytes=None)
    with open_video(video) as file:
        batches = ClipReader(file, video.uri, ClipSampling()).read_clips(ClipGeometry(frames=1, height=8, width=8))
        return sum(len(batch.spans) for batch in batches)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.mp4"


def test_a_video_is_read(path: Path) -> None:
    path.write_bytes(encode_flat_video([60] * 20))
    assert _read(path) == 2


@pytest.mark.parametrize("content", [b"no video at all\n" * 300, bytes(5000)], ids=["text", "zeros"])
def test_a_file_of_something_else(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(VideoUnreadable, match=r"x\.mp4"):
        _read(path)


def test_an_empty_file(path: Path) -> None:
    path.touch()
    with pytest.raises(VideoUnreadable, match=r"x\.mp4"):
        _read(path)


def test_a_folder(path: Path) -> None:
    path.mkdir()
    with pytest.raises(VideoUnreadable, match=r"x\.mp4"):
        _read(path)


@pytest.mark.timeout(10)
def test_a_named_pipe_that_nobody_writes_to(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(VideoUnreadable, match="not a regular file"):
        _read(path)


def test_a_socket(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Its name may be no longer than 108 bytes.
    monkeypatch.chdir(path.parent)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
        with pytest.raises(VideoUnreadable, match=r"x\.mp4"):
            _read(path)


@pytest.mark.timeout(10)
def test_a_device_that_never_ends(path: Path) -> None:
    path.symlink_to("/dev/zero")
    with pytest.raises(VideoUnreadable, match="not a regular file"):
        _read(path)


def test_a_link_to_itself(path: Path) -> None:
    path.symlink_to(path)
    with pytest.raises(VideoUnreadable, match=r"x\.mp4"):
        _read(path)


def test_a_link_to_nothing(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")
    with pytest.raises(VideoNotFound, match=r"x\.mp4"):
        _read(path)


def test_nothing(path: Path) -> None:
    with pytest.raises(VideoNotFound, match=r"x\.mp4"):
        _read(path)


@pytest.fixture
def unreadable(path: Path) -> Iterator[Path]:
    path.write_bytes(b"secret")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        # Root may read everything: be nobody for the while.
        os.seteuid(65534)
    try:
        yield path
    finally:
        os.seteuid(user)
        path.chmod(0o600)


def test_a_file_that_may_not_be_read(unreadable: Path) -> None:
    with pytest.raises(VideoUnreadable, match=r"x\.mp4"):
        _read(unreadable)


def test_a_file_that_shrinks_while_it_is_read(path: Path) -> None:
    path.write_bytes(encode_flat_video([60] * 200))
    with open_video(VideoRef(video_id="x", uri=str(path), video_version="1", size_bytes=None)) as file:
        assert file.read(100)
        os.truncate(path, 100)
        batches = ClipReader(file, str(path), ClipSampling()).read_clips(ClipGeometry(frames=1, height=8, width=8))
        with pytest.raises(VideoError, match=r"x\.mp4"):
            list(batches)
