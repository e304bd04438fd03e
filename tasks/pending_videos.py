"""Which videos a run is to label: those found in SOURCE that are not done, or those that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cdmodel.decoder_name import DECODER_NAME
from cdmodel.errors import RunError
from cdmodel.failure_policy import FailurePolicy
from cdmodel.types import VideoRef
from storage.corpus import list_videos
from storage.corpus_manifest import look_up_videos
from storage.filesystem import Store, absolute_uri
from storage.ledger import WorkLeft, failed_videos, planned_elsewhere, work_left
from storage.run_store import RunHeader, RunState
from tasks.run_request import RetrySettings, RunRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingVideos:
    """What is to be labeled, and what was found besides."""

    source: str
    """Absolute."""
    videos: tuple[VideoRef, ...]
    skipped: int
    """They have a terminal row, or another run has planned them."""
    tried_again: int
    """Of ``videos``, the ones that failed before."""
    quarantined: int
    """Of those skipped, the ones that failed before and are not tried again."""
    planned_by: tuple[str, ...]
    """Unfinished runs that have planned some of those skipped."""


def find_pending(store: Store, request: RunRequest, runs: Sequence[RunState], fingerprint: str) -> PendingVideos:
    """Look for the videos of the request and leave out what is done, or is another run's.

    Raises:
        SourceError: SOURCE is missing or empty, or its manifest cannot be used.
        RunError: what failed in a run is asked for, and the run is not there or not finished.
        StorageUnavailable: a failed video cannot be looked up.
    """
    if request.retry is not None:
        source, found = absolute_uri(request.source), _failed_before(store, request.retry, runs, fingerprint)
        left = WorkLeft(videos=found, tried_again=frozenset(video.video_id for video in found), quarantined=0)
    else:
        listing = list_videos(request.source, request.corpus_rules)
        source, found, left = listing.source, listing.videos, _all_of(listing.videos)
        if not request.relabel:
            left = work_left(
                store, found, runs, fingerprint, request.failures, DECODER_NAME, carry_over=request.carry_over
            )
    owners = planned_elsewhere(store, runs, fingerprint)
    free = tuple(video for video in left.videos if video.video_id not in owners)
    return PendingVideos(
        source=source,
        videos=free,
        skipped=len(found) - len(free),
        tried_again=sum(video.video_id in left.tried_again for video in free),
        quarantined=left.quarantined,
        planned_by=tuple(sorted({owners[video.video_id] for video in left.videos if video.video_id in owners})),
    )


def are_all_pending(
    store: Store, header: RunHeader, videos: Sequence[VideoRef], policy: FailurePolicy, others: Sequence[RunState]
) -> bool:
    """Tell whether planning the videos of a run now, in view of the other runs, would leave none of them out."""
    left = _all_of(videos)
    if not header.relabel and header.retry_reasons is None:
        left = work_left(store, videos, others, header.fingerprint, policy, DECODER_NAME, carry_over=header.carry_over)
    owners = planned_elsewhere(store, others, header.fingerprint)
    return len(left.videos) == len(videos) and not any(video.video_id in owners for video in videos)


def _failed_before(
    store: Store, retry: RetrySettings, runs: Sequence[RunState], fingerprint: str
) -> tuple[VideoRef, ...]:
    """Return what failed, each video as it is now: a file that was replaced counts with its new version."""
    named = next((run for run in runs if run.header.run_id == retry.run_id), None)
    if named is None or not named.finished:
        state = "there is no such run" if named is None else "it is not finished; finish it first"
        raise RunError(retry.run_id, f"what failed in it is not known: {state}")
    failed = failed_videos(store, runs, named, fingerprint, retry.reasons)
    found = look_up_videos([video.uri for video in failed], [video.video_id for video in failed])
    return tuple(replace(video, group=known.group) for video, known in zip(found, failed, strict=True))


def _all_of(videos: Sequence[VideoRef]) -> WorkLeft:
    return WorkLeft(videos=tuple(videos), tried_again=frozenset(), quarantined=0)
