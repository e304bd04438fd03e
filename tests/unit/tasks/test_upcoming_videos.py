"""What lies ahead of the video at hand: begun in order, never more than asked for, given up with the shard."""

from __future__ import annotations

from contextlib import closing
from typing import cast

from cdmodel.decoder_pool import IsolatedClips
from cdmodel.pass_choice import SettledPasses
from cdmodel.types import VideoRef
from tasks.upcoming_videos import look_ahead

VIDEOS = [VideoRef(video_id=name, uri=name, video_version="1", size_bytes=None) for name in "abcde"]


class _Begun:
    def __init__(self) -> None:
        self.is_killed = False

    def kill(self) -> None:
        self.is_killed = True


class _Decoders:
    """Counts what was begun, and what each video was expected to be like."""

    def __init__(self) -> None:
        self.begun: dict[str, _Begun] = {}
        self.in_one_pass: dict[str, bool] = {}

    def begin(self, video: VideoRef, passes: SettledPasses) -> IsolatedClips | None:
        self.begun[video.video_id] = _Begun()
        self.in_one_pass[video.video_id] = passes.prefers_one_pass
        return cast(IsolatedClips, self.begun[video.video_id])


def test_videos_come_in_their_order_with_as_many_begun_behind_as_asked() -> None:
    decoders = _Decoders()
    seen = []
    for position, upcoming in enumerate(look_ahead(VIDEOS, decoders.begin, 2)):
        seen.append(upcoming.video)
        assert len(decoders.begun) == min(position + 3, len(VIDEOS))
    assert seen == VIDEOS


def test_nothing_ahead_begins_a_video_when_its_turn_has_come() -> None:
    decoders = _Decoders()
    for position, upcoming in enumerate(look_ahead(VIDEOS, decoders.begin, 0), 1):
        assert len(decoders.begun) == position
        assert upcoming.begun is not None


def test_a_shard_that_ends_early_gives_up_what_lies_ahead_and_not_what_was_taken() -> None:
    decoders = _Decoders()
    with closing(look_ahead(VIDEOS, decoders.begin, 2)) as coming:
        next(coming)
    assert {name: begun.is_killed for name, begun in decoders.begun.items()} == {"a": False, "b": True, "c": True}


def test_passes_are_settled_by_the_videos_labeled_when_a_video_is_begun() -> None:
    decoders = _Decoders()
    for upcoming in look_ahead(VIDEOS, decoders.begin, 1):
        for _ in range(8):
            upcoming.passes.learn(10, 10)
    assert decoders.in_one_pass == {"a": False, "b": False, "c": True, "d": True, "e": True}
