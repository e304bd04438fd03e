"""The videos of a shard in their order, those behind the one at hand being decoded already.

A decoder fills its slots and waits: what lies ahead is bounded by the slots of as many decoders. Which passes a video is
read in is settled when its turn to be begun comes, from the videos labeled by then, so that it follows from the order alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass

from cdmodel.decoder_pool import IsolatedClips
from cdmodel.pass_choice import PassChooser, SettledPasses
from cdmodel.types import VideoRef


@dataclass(frozen=True, slots=True)
class UpcomingVideo:
    """A video whose turn has come."""

    video: VideoRef
    passes: SettledPasses
    begun: IsolatedClips | None
    """Where its decoder is at it already: whoever takes the video closes that."""


def look_ahead(
    videos: Iterable[VideoRef],
    begin: Callable[[VideoRef, SettledPasses], IsolatedClips | None],
    videos_ahead: int,
) -> Generator[UpcomingVideo]:
    """Yield every video after ``begin`` was called for it and up to so many behind it; close it to give the others up."""
    passes = PassChooser()
    waiting: deque[UpcomingVideo] = deque()
    try:
        for video in videos:
            settled = passes.settle()
            waiting.append(UpcomingVideo(video, settled, begin(video, settled)))
            if len(waiting) > videos_ahead:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        for upcoming in waiting:
            if upcoming.begun is not None:
                upcoming.begun.kill()
