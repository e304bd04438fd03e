"""Label one shard on one worker and commit it as one object.

The main path of the product, with ``flows.label`` above it and ``cdmodel.cascade`` below.
"""

from __future__ import annotations

import logging
import math
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial

from cdmodel.audit_draw import AuditSettings, is_drawn
from cdmodel.budget import Allotment, Purse
from cdmodel.budgeted_cascade import cost_of_pass, label_after_pass
from cdmodel.cascade import first_pass, label_video
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.cost import ComputeCost, PriceTable, price_usd, require_price
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_pool import IsolatedClips
from cdmodel.dense_audit import label_and_audit_video
from cdmodel.models import CascadeModels
from cdmodel.pass_choice import SettledPasses
from cdmodel.sampling import ClipSampling
from cdmodel.shared_device import sharing_device
from cdmodel.stage_clock import clocked, stages_of_shard
from cdmodel.stretches import stretch
from cdmodel.student_pass import StudentOutcome, StudentPass
from cdmodel.types import Shard, ShardReceipt, VideoFailure, VideoOutcome, VideoPrediction, VideoRef
from storage.attempt_log import AttemptLog, open_attempt
from storage.filesystem import open_store
from storage.prediction_schema import RowContext
from storage.run_store import commit_shard, standing_receipt
from storage.student_passes import read_passes
from tasks.cores import count_cores
from tasks.log_facts import log_about
from tasks.upcoming_videos import UpcomingVideo, look_ahead
from tasks.video_attempt import OpenVideo, at_hand, attempt_video
from tasks.videos_at_once import label_at_once
from tasks.worker_decoder import begin_clips, prepare_decoder
from tasks.worker_models import WorkerModels, load_worker_models

logger = logging.getLogger(__name__)


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
    audit: AuditSettings = AuditSettings()  # noqa: RUF009 - frozen
    videos_ahead: int = 1
    """How many videos a worker's decoders are at beyond those at hand."""
    videos_at_once: int = 1
    """How many videos ask a worker's models at the same time."""
    worker_cores: int | None = None
    """What each worker may use of its machine's; None: all of them."""


def label_shard(shard: Shard, spec: LabelingSpec, allotment: Allotment | None = None) -> ShardReceipt:
    """Label every video of the shard and commit the rows as one object; blocks until they are visible.

    With an ``allotment`` the student has seen the videos already (``tasks.score_shard``), and the teacher is asked about
    what the run's budget pays for.

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
    if log.follows_a_death:
        # Nothing more is asked of the next worker than has to be: an audit can wait, a label cannot.
        spec = replace(spec, audit=replace(spec.audit, share=0.0))
    one_by_one = allotment is not None or log.names_videos
    decoders = 1 if one_by_one else min(spec.videos_at_once + spec.videos_ahead, len(shard.videos))
    prepare_decoder(spec.limits, decoders)
    models = load_worker_models(spec.models)
    require_price(spec.prices, models.device_name)
    began = time.perf_counter()
    with clocked() as clock:
        if allotment is None:
            outcomes, spent_before = _label_all(shard, models, spec, log), ComputeCost()
        else:
            passes = read_passes(store, spec.run_id, shard, spec.fingerprint, labels=len(models.manifest.labels))
            outcomes = _label_allotted(shard, passes, allotment, models, spec, log)
            spent_before = sum(map(cost_of_pass, passes), ComputeCost())
    stages = stages_of_shard(
        sum((outcome.cost for outcome in outcomes), ComputeCost()) - spent_before,
        clock,
        worker_seconds=time.perf_counter() - began,
        decoders=decoders,
        cores=spec.worker_cores or count_cores(),
    )
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
    with stretch("commit", "commit"):
        receipt = commit_shard(store, outcomes, context, datetime.now(UTC), stages)
    if receipt.attempt_id != attempt_id:
        log.lost()
    with log_about(run=spec.run_id, shard=shard.shard_id):
        logger.info("shard committed, %d videos", receipt.videos)
    return receipt


def label_funded_shard(work: tuple[Shard, Allotment], spec: LabelingSpec) -> ShardReceipt:
    """Label a shard of a run with a budget: ``label_shard`` as one argument that a cluster can hand out."""
    shard, allotment = work
    return label_shard(shard, spec, allotment)


def _label_all(shard: Shard, models: CascadeModels, spec: LabelingSpec, log: AttemptLog) -> list[VideoOutcome]:
    # Where workers have died here, a video is left alone until its name is written down.
    videos_ahead, videos_at_once = (0, 1) if log.names_videos else (spec.videos_ahead, spec.videos_at_once)

    def begin(video: VideoRef, passes: SettledPasses) -> IsolatedClips | None:
        if videos_ahead + videos_at_once == 1:
            return None
        with stretch("decoder", "begin"):
            return begin_clips(video, spec.sampling, spec.limits, first_pass(models, spec.cascade.policy, passes))

    def label(models: CascadeModels, upcoming: UpcomingVideo) -> VideoOutcome:
        with at_hand(upcoming.video, log, run_id=spec.run_id, shard_id=shard.shard_id) as killed_worker:
            return label_or_fail(upcoming, models, spec, killed_worker=killed_worker)

    with closing(look_ahead(shard.videos, begin, videos_ahead)) as coming:
        if videos_at_once == 1:
            return [label(models, upcoming) for upcoming in coming]
        with sharing_device() as device:
            return label_at_once(coming, partial(label, models.on(device)), videos_at_once)


def label_or_fail(
    upcoming: UpcomingVideo, models: CascadeModels, spec: LabelingSpec, *, killed_worker: bool
) -> VideoOutcome:
    """Label one video; what is wrong with it becomes a failure. ``killed_worker`` leaves it alone and says so."""
    video, passes = upcoming.video, upcoming.passes
    label = label_and_audit_video if is_drawn(spec.audit, video) else label_video

    def look(open_video: OpenVideo) -> VideoPrediction:
        with open_video() as clips:
            return label(video, clips, models, spec.cascade, passes)

    return attempt_video(
        video, look, models, spec.sampling, spec.limits, killed_worker=killed_worker, begun=upcoming.begun
    )


def _label_allotted(
    shard: Shard,
    passes: Sequence[StudentOutcome],
    allotment: Allotment,
    models: CascadeModels,
    spec: LabelingSpec,
    log: AttemptLog,
) -> list[VideoOutcome]:
    """Label from the student's passes; what is worth most first, should the purse run dry before the end."""
    purse = Purse(allotment, _pricing(spec, models))
    outcomes: list[VideoOutcome] = []
    for position in _most_valuable_first(passes, allotment):
        taken, funded = passes[position], allotment.clips.get(position, ())
        if isinstance(taken, VideoFailure):
            outcomes.append(taken)
            continue
        with at_hand(taken.video, log, run_id=spec.run_id, shard_id=shard.shard_id) as killed_worker:
            outcomes.append(_label_funded(taken, funded, purse, models, spec, killed_worker=killed_worker))
    return outcomes


def _label_funded(
    taken: StudentPass,
    funded: tuple[int, ...],
    purse: Purse,
    models: CascadeModels,
    spec: LabelingSpec,
    *,
    killed_worker: bool,
) -> VideoOutcome:
    def look(open_video: OpenVideo) -> VideoPrediction:
        audit = is_drawn(spec.audit, taken.video)
        return label_after_pass(taken, funded, open_video, models, spec.cascade, purse, audit=audit)

    try:
        return attempt_video(
            taken.video,
            look,
            models,
            spec.sampling,
            spec.limits,
            killed_worker=killed_worker,
            spent=cost_of_pass(taken),
        )
    finally:
        purse.close_video()


def _pricing(spec: LabelingSpec, models: CascadeModels) -> Callable[[ComputeCost], float] | None:
    if spec.prices is None:
        return None
    return partial(price_usd, device=models.device_name, prices=spec.prices)


def _most_valuable_first(passes: Sequence[StudentOutcome], allotment: Allotment) -> list[int]:
    """Return the positions of the videos, those with the most valuable clip that is paid for first."""

    def best(position: int) -> float:
        taken, funded = passes[position], allotment.clips.get(position, ())
        return float(taken.value_N[list(funded)].max()) if isinstance(taken, StudentPass) and funded else -math.inf

    return sorted(range(len(passes)), key=best, reverse=True)
