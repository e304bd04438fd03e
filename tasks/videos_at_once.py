"""Several videos of a shard at once: while one waits for its decoder or for the models, the others go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context

from cdmodel.types import VideoOutcome
from tasks.upcoming_videos import UpcomingVideo


def label_at_once(
    coming: Iterable[UpcomingVideo], label: Callable[[UpcomingVideo], VideoOutcome], videos_at_once: int
) -> list[VideoOutcome]:
    """Return what becomes of every video, in order; no more than so many are taken from ``coming`` at once.

    Raises: what ``label`` raises, once the videos that had been begun have ended; the others are not begun.
    """
    labeled: list[Future[VideoOutcome]] = []
    at_hand: set[Future[VideoOutcome]] = set()
    with ThreadPoolExecutor(videos_at_once, thread_name_prefix="video") as threads:
        for upcoming in coming:
            labeled.append(threads.submit(copy_context().run, label, upcoming))
            at_hand.add(labeled[-1])
            if len(at_hand) == videos_at_once:
                done, at_hand = wait(at_hand, return_when=FIRST_COMPLETED)
                if any(video.exception() for video in done):
                    break
    return [video.result() for video in labeled]
