"""One video on a worker: whatever goes wrong with it becomes its failure, with what it took."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeVar

from cdmodel.cascade import decode_cost
from cdmodel.clips import ClipSource
from cdmodel.cost import ComputeCost
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_name import DECODER_NAME
from cdmodel.decoder_pool import IsolatedClips
from cdmodel.errors import VideoError, VideoKilledWorker
from cdmodel.models import CascadeModels
from cdmodel.sampling import ClipSampling
from cdmodel.stretches import stretch
from cdmodel.student_pass import StudentPass
from cdmodel.types import VideoFailure, VideoPrediction, VideoRef
from storage.attempt_log import AttemptLog
from tasks.log_facts import log_about
from tasks.worker_decoder import open_clips

logger = logging.getLogger(__name__)

KILLED_WORKER = "a worker died while it was labeling this video, the second one on its shard; not tried once more"
Found = TypeVar("Found", VideoPrediction, StudentPass)
OpenVideo = Callable[[], AbstractContextManager[ClipSource]]


@contextmanager
def at_hand(video: VideoRef, log: AttemptLog, *, run_id: str, shard_id: str) -> Iterator[bool]:
    """Have the logs know which video this is about; yields whether workers died of it, so that it must be left alone."""
    log.before_video(video.video_id)
    with log_about(run=run_id, shard=shard_id, video=video.video_id):
        yield video.video_id in log.suspects
    log.after_video()


def attempt_video(
    video: VideoRef,
    look: Callable[[OpenVideo], Found],
    models: CascadeModels,
    sampling: ClipSampling,
    limits: DecodeLimits,
    *,
    killed_worker: bool,
    spent: ComputeCost | None = None,
    begun: IsolatedClips | None = None,
) -> Found | VideoFailure:
    """Return what ``look`` finds, which may open the video by what it is given; an error of the video is its failure.

    Args:
        video: which.
        look: what is done with it.
        models: of this worker.
        sampling: where the clips lie.
        limits: of decoding.
        killed_worker: workers died of this video: it fails unseen.
        spent: what it has cost in an earlier stage, which a failure must not forget.
        begun: where a decoder is at the video already.
    """
    started = time.perf_counter()
    opened: list[ClipSource] = []

    @contextmanager
    def open_video() -> Iterator[ClipSource]:
        with ExitStack() as closing:
            with stretch("decoder", "open"):
                clips = closing.enter_context(open_clips(video, sampling, limits, begun))
            opened.append(clips)
            yield clips

    outcome: Found | VideoFailure
    with stretch("video", video.video_id) as facts:
        try:
            if killed_worker:
                raise VideoKilledWorker(video.uri, KILLED_WORKER)
            outcome = look(open_video)
        except VideoError as error:
            logger.info("video failed: %s", error.reason, extra={"kind": error.kind})
            outcome = _to_failure(video, error, opened[-1] if opened else None, models.device_name)
            outcome = replace(outcome, cost=outcome.cost + (spent or ComputeCost()))
            facts["error_kind"] = error.kind
        if opened:
            facts["decode_cpu_seconds"] = opened[-1].summary().cpu_seconds
    wall = ComputeCost(wall_seconds=time.perf_counter() - started)
    return replace(outcome, cost=outcome.cost + wall)


def _to_failure(video: VideoRef, error: VideoError, clips: ClipSource | None, device: str) -> VideoFailure:
    summary = None if clips is None else clips.summary()
    return VideoFailure.from_error(
        video,
        error,
        facts=None if summary is None else summary.facts,
        cost=ComputeCost() if clips is None else decode_cost(clips),
        device=device,
        decoder=DECODER_NAME,
        decode_mode=None if summary is None else summary.mode,
        decode_fallback=None if summary is None else summary.fallback_reason,
        labeled_at=datetime.now(UTC),
    )
