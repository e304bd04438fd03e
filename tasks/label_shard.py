"""Label one shard on one worker and commit it as one object.

The main path of the product, with ``flows.label`` above it and ``cdmodel.cascade`` below.
"""

from __future__ import annotations

import logging
import math
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from functools import partial

from cdmodel.audit_draw import AuditSettings, is_drawn
from cdmodel.budget import Allotment, Purse
from cdmodel.budgeted_cascade import cost_of_pass, label_after_pass
from cdmodel.cascade import label_video
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.cost import ComputeCost, PriceTable, price_usd
from cdmodel.decode_limits import DecodeLimits
from cdmodel.dense_audit import label_and_audit_video
from cdmodel.models import CascadeModels
from cdmodel.pass_choice import PassChooser
from cdmodel.sampling import ClipSampling
from cdmodel.student_pass import StudentOutcome, StudentPass
from cdmodel.types import Shard, ShardReceipt, VideoFailure, VideoOutcome, VideoPrediction, VideoRef
from storage.attempt_log import AttemptLog, open_attempt
from storage.filesystem import open_store
from storage.prediction_schema import RowContext
from storage.run_store import commit_shard, standing_receipt
from storage.student_passes import read_passes
from tasks.video_attempt import OpenVideo, attempt_video
from tasks.worker_decoder import prepare_decoder
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


def label_shard(shard: Shard, spec: LabelingSpec, allotment: Allotment | None = None) -> ShardReceipt:
    """Label every video of the shard and commit the rows as one object; blocks until they are visible.

    With an ``allotment`` the student has seen the videos already (``tasks.score_shard``), and the teacher is asked about
    what the run's budget pays for.

    Safe to run twice, even at once: every attempt writes one complete object under the same name, the first one wins
    and the others return the winner's receipt. A video that cannot be labeled becomes a failed row.

    Raises:
        BundleError: the worker cannot load the models of the run.
        ConfigError: the run wants videos decoded on a GPU, and the worker has none.
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
    prepare_decoder(spec.limits)
    models = load_worker_models(spec.models)
    if allotment is None:
        outcomes = _label_all(shard, models, spec, log)
    else:
        passes = read_passes(store, spec.run_id, shard, spec.fingerprint, len(models.manifest.labels))
        outcomes = _label_allotted(passes, allotment, models, spec, log)
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
    logger.info("shard committed run=%s shard=%s videos=%d", spec.run_id, shard.shard_id, receipt.videos)
    return receipt


def label_funded_shard(work: tuple[Shard, Allotment], spec: LabelingSpec) -> ShardReceipt:
    """Label a shard of a run with a budget: ``label_shard`` as one argument that a cluster can hand out."""
    shard, allotment = work
    return label_shard(shard, spec, allotment)


def _label_all(shard: Shard, models: CascadeModels, spec: LabelingSpec, log: AttemptLog) -> list[VideoOutcome]:
    outcomes: list[VideoOutcome] = []
    passes = PassChooser()
    for video in shard.videos:

        def look(open_video: OpenVideo, video: VideoRef = video) -> VideoPrediction:
            label = label_and_audit_video if is_drawn(spec.audit, video) else label_video
            with open_video() as clips:
                return label(video, clips, models, spec.cascade, passes)

        outcomes.append(_attempt(video, look, models, spec, log))
    return outcomes


def _label_allotted(
    passes: Sequence[StudentOutcome], allotment: Allotment, models: CascadeModels, spec: LabelingSpec, log: AttemptLog
) -> list[VideoOutcome]:
    """Label from the student's passes; what is worth most first, should the purse run dry before the end."""
    purse = Purse(allotment, None if spec.prices is None else partial(price_usd, prices=spec.prices))
    outcomes: list[VideoOutcome] = []
    for position in _most_valuable_first(passes, allotment):
        taken = passes[position]
        if isinstance(taken, VideoFailure):
            outcomes.append(taken)
            continue

        def look(open_video: OpenVideo, taken: StudentPass = taken, position: int = position) -> VideoPrediction:
            funded = allotment.clips.get(position, ())
            drawn = is_drawn(spec.audit, taken.video)
            return label_after_pass(taken, funded, open_video, models, spec.cascade, purse, audit=drawn)

        outcomes.append(_attempt(taken.video, look, models, spec, log, spent=cost_of_pass(taken)))
        purse.close_video()
    return outcomes


def _most_valuable_first(passes: Sequence[StudentOutcome], allotment: Allotment) -> list[int]:
    """Return the positions of the videos, those with the most valuable clip that is paid for first."""

    def best(position: int) -> float:
        taken, funded = passes[position], allotment.clips.get(position, ())
        return float(taken.value_N[list(funded)].max()) if isinstance(taken, StudentPass) and funded else -math.inf

    return sorted(range(len(passes)), key=best, reverse=True)


def _attempt(
    video: VideoRef,
    look: Callable[[OpenVideo], VideoPrediction],
    models: CascadeModels,
    spec: LabelingSpec,
    log: AttemptLog,
    spent: ComputeCost | None = None,
) -> VideoOutcome:
    log.before_video(video.video_id)
    outcome = attempt_video(
        video,
        look,
        models,
        spec.sampling,
        spec.limits,
        run_id=spec.run_id,
        killed_worker=video.video_id in log.suspects,
        spent=spent,
    )
    log.after_video()
    return outcome
