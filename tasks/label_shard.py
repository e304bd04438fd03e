"""Label one shard on one worker and commit it as one object.

The main path of the product, with ``flows.label`` above it and ``cdmodel.cascade`` below.
"""

from __future__ import annotations

import logging
import time
import uuid
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime

from cdmodel.cascade import decode_cost, label_video
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.clips import ClipSource
from cdmodel.cost import ComputeCost, PriceTable, require_price
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_name import DECODER_NAME
from cdmodel.errors import VideoError, VideoKilledWorker
from cdmodel.models import CascadeModels
from cdmodel.pass_choice import PassChooser
from cdmodel.sampling import ClipSampling
from cdmodel.types import Shard, ShardReceipt, VideoFailure, VideoOutcome, VideoRef
from storage.attempt_log import AttemptLog, open_attempt
from storage.filesystem import open_store
from storage.prediction_schema import RowContext
from storage.run_store import commit_shard, standing_receipt
from tasks.log_facts import log_about
from tasks.worker_decoder import open_clips, prepare_decoder
from tasks.worker_models import WorkerModels, load_worker_models

logger = logging.getLogger(__name__)

KILLED_WORKER = "a worker died while it was labeling this video, the second one on its shard; not tried once more"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelingSpec:
    """Everything a worker must know of a run but its videos. Small, picklable, the same for all shards."""

    out: str
    run_id: str
    launch_id: str
    """The labeling stage that hands out the shards: another one for every start and resumption."""
    run_date: date
    corpus: str
    fingerprint: str
    models: WorkerModels
    sampling: ClipSampling
    cascade: CascadeSettings
    limits: DecodeLimits
    prices: PriceTable | None


def label_shard(shard: Shard, spec: LabelingSpec) -> ShardReceipt:
    """Label every video of the shard and commit the rows as one object; blocks until they are visible.

    Safe to run twice, even at once: every attempt writes one complete object under the same name, the first one wins
    and the others return the winner's receipt. A video that cannot be labeled becomes a failed row.

    Raises:
        BundleError: the worker cannot load the models of the run.
        ConfigError: the run wants videos decoded on a GPU, and the worker has none; or its device has no price.
        RunError: the worker cannot start a decoder.
        StorageUnavailable, CommitStateUnknown: the shard could not be committed; nothing of it is visible, or its
            object is complete.
    """
    store, attempt_id = open_store(spec.out), uuid.uuid4().hex[:12]
    # Its worker died after the commit and before it had told, or another command was faster.
    if (standing := standing_receipt(store, spec.run_id, shard.shard_id, spec.fingerprint)) is not None:
        return standing
    log = open_attempt(store, spec.run_id, shard.shard_id, launch_id=spec.launch_id, attempt_id=attempt_id)
    prepare_decoder(spec.limits)
    models = load_worker_models(spec.models)
    require_price(spec.prices, models.device_name)
    outcomes = _label_all(shard, models, spec, log)
    log.before_commit()
    context = RowContext(
        run_id=spec.run_id,
        shard_id=shard.shard_id,
        attempt_id=attempt_id,
        corpus=spec.corpus,
        model_version=models.model_version,
        run_date=spec.run_date,
        fingerprint=spec.fingerprint,
        prices=spec.prices,
    )
    receipt = commit_shard(store, outcomes, context, datetime.now(UTC))
    if receipt.attempt_id != attempt_id:
        log.lost()
    with log_about(run=spec.run_id, shard=shard.shard_id):
        logger.info("shard committed, %d videos", receipt.videos)
    return receipt


def _label_all(shard: Shard, models: CascadeModels, spec: LabelingSpec, log: AttemptLog) -> list[VideoOutcome]:
    outcomes: list[VideoOutcome] = []
    passes = PassChooser()
    for video in shard.videos:
        log.before_video(video.video_id)
        with log_about(run=spec.run_id, shard=shard.shard_id, video=video.video_id):
            outcomes.append(label_or_fail(video, models, spec, passes, killed_worker=video.video_id in log.suspects))
        log.after_video()
    return outcomes


def label_or_fail(
    video: VideoRef, models: CascadeModels, spec: LabelingSpec, passes: PassChooser, *, killed_worker: bool
) -> VideoOutcome:
    """Label one video; what is wrong with it becomes a failure. ``killed_worker`` leaves it alone and says so."""
    started = time.perf_counter()
    clips: ClipSource | None = None
    outcome: VideoOutcome
    try:
        if killed_worker:
            raise VideoKilledWorker(video.uri, KILLED_WORKER)
        with open_clips(video, spec.sampling, spec.limits) as clips:
            outcome = label_video(video, clips, models, spec.cascade, passes)
    except VideoError as error:
        logger.info("video failed: %s", error.reason, extra={"kind": error.kind})
        summary = None if clips is None else clips.summary()
        outcome = VideoFailure.from_error(
            video,
            error,
            facts=None if summary is None else summary.facts,
            cost=ComputeCost() if clips is None else decode_cost(clips),
            device=models.device_name,
            decoder=DECODER_NAME,
            decode_mode=None if summary is None else summary.mode,
            decode_fallback=None if summary is None else summary.fallback_reason,
            labeled_at=datetime.now(UTC),
        )
    wall = ComputeCost(wall_seconds=time.perf_counter() - started)
    return replace(outcome, cost=outcome.cost + wall)
