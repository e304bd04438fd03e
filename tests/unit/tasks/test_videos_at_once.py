"""Videos at hand at once: bounded, in order, and an error ends what was begun and no more."""

from __future__ import annotations

from threading import Barrier, Lock

import pytest

from cdmodel.types import VideoRef
from tasks.upcoming_videos import UpcomingVideo, look_ahead
from tasks.videos_at_once import label_at_once


def _upcoming(videos: int):
    refs = [VideoRef(video_id=str(n), uri=str(n), video_version="1", size_bytes=None) for n in range(videos)]
    return look_ahead(refs, lambda video, passes: None, 0)


def test_videos_are_at_hand_together_and_come_back_in_order() -> None:
    together = Barrier(3, timeout=30)

    def label(upcoming: UpcomingVideo) -> str:
        together.wait()  # passes only with three at hand
        return upcoming.video.video_id

    assert label_at_once(_upcoming(9), label, 3) == [str(n) for n in range(9)]


def test_no_more_are_begun_than_allowed() -> None:
    lock, at_hand, most = Lock(), 0, 0

    def label(upcoming: UpcomingVideo) -> str:
        nonlocal at_hand, most
        with lock:
            at_hand += 1
            most = max(most, at_hand)
        with lock:
            at_hand -= 1
        return upcoming.video.video_id

    label_at_once(_upcoming(50), label, 2)
    assert most <= 2


def test_an_error_is_raised_once_those_begun_have_ended_and_the_others_are_not_begun() -> None:
    begun: list[str] = []

    def label(upcoming: UpcomingVideo) -> str:
        begun.append(upcoming.video.video_id)
        if upcoming.video.video_id == "3":
            raise OSError("the device is gone")
        return upcoming.video.video_id

    with pytest.raises(OSError, match="the device is gone"):
        label_at_once(_upcoming(40), label, 2)
    assert len(begun) < 10
