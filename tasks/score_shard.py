"""The student's stage of a run with a budget: every video of a shard, before anybody asks the teacher."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime

from cdmodel.audit_draw import is_drawn
from cdmodel.budgeted_cascade import cost_of_pass, take_student_pass
from cdmodel.cost import ComputeCost, price_usd, require_price
from cdmodel.models import CascadeModels
from cdmodel.stage_clock import StageSeconds, clocked, stages_of_shard
from cdmodel.stretches import stretch
from cdmodel.student_pass import PassReceipt, StudentOutcome, StudentPass
from cdmodel.types import Shard, VideoRef
from storage.attempt_log import AttemptLog, open_attempt
from storage.filesystem import open_store
from storage.student_passes import commit_passes, passes_log_name, standing_passes
from tasks.cores import count_cores
from tasks.label_shard import LabelingSpec
from tasks.log_facts import log_about
from tasks.video_attempt import OpenVideo, at_hand, attempt_video
from tasks.worker_decoder import prepare_decoder
from tasks.worker_models import load_worker_models

logger = logging.getLogger(__name__)


def score_shard(shard: Shard, spec: LabelingSpec) -> PassReceipt:
    """Run the student on every video of the shard and commit what it said as one object.

    Safe to run twice, even at once, as ``label_shard``. A video that cannot be read becomes the failure it will be in
    the table.

    Raises: as ``label_shard``.
    """
    store, attempt_id = open_store(spec.out), uuid.uuid4().hex[:12]
    if (standing := standing_passes(store, spec.run_id, shard.shard_id, spec.fingerprint)) is not None:
        return standing
    log_name = passes_log_name(shard.shard_id)
    log = open_attempt(store, spec.run_id, log_name, launch_id=spec.launch_id, attempt_id=attempt_id)
    prepare_decoder(spec.limits)
    models = load_worker_models(spec.models)
    require_price(spec.prices, models.device_name)
    began = time.perf_counter()
    with clocked() as clock:
        outcomes = _score_all(shard, models, spec, log)
    costs = [cost_of_pass(outcome) for outcome in outcomes]
    stages = stages_of_shard(
        sum(costs, ComputeCost()),
        clock,
        worker_seconds=time.perf_counter() - began,
        decoders=1,
        cores=spec.worker_cores or count_cores(),
    )
    log.before_commit()
    with stretch("commit", "commit"):
        receipt = commit_passes(store, _summarise(shard, outcomes, costs, stages, models, spec, attempt_id), outcomes)
    if receipt.attempt_id != attempt_id:
        log.lost()
    with log_about(run=spec.run_id, shard=shard.shard_id):
        logger.info("shard scored, %d videos", receipt.videos)
    return receipt


def _score_all(shard: Shard, models: CascadeModels, spec: LabelingSpec, log: AttemptLog) -> list[StudentOutcome]:
    outcomes: list[StudentOutcome] = []
    for video in shard.videos:
        with at_hand(video, log, run_id=spec.run_id, shard_id=shard.shard_id) as killed_worker:
            outcomes.append(_score(video, models, spec, killed_worker=killed_worker))
    return outcomes


def _score(video: VideoRef, models: CascadeModels, spec: LabelingSpec, *, killed_worker: bool) -> StudentOutcome:
    def look(open_video: OpenVideo) -> StudentPass:
        with open_video() as clips:
            return take_student_pass(video, clips, models, spec.cascade)

    return attempt_video(video, look, models, spec.sampling, spec.limits, killed_worker=killed_worker)


def _summarise(
    shard: Shard,
    outcomes: Sequence[StudentOutcome],
    costs: Sequence[ComputeCost],
    stages: StageSeconds,
    models: CascadeModels,
    spec: LabelingSpec,
    attempt_id: str,
) -> PassReceipt:
    passes = [outcome for outcome in outcomes if isinstance(outcome, StudentPass)]
    return PassReceipt(
        run_id=spec.run_id,
        shard_id=shard.shard_id,
        attempt_id=attempt_id,
        fingerprint=spec.fingerprint,
        videos=len(outcomes),
        clips=sum(len(taken.spans) for taken in passes),
        clips_wanted=sum(int(taken.wanted_N.sum()) for taken in passes),
        clips_audited=sum(len(taken.spans) for taken in passes if is_drawn(spec.audit, taken.video)),
        cost=sum(costs, ComputeCost()),
        cost_usd=None
        if spec.prices is None
        else sum(price_usd(cost, models.device_name, spec.prices) for cost in costs),
        teacher_flops_per_clip=models.teacher.flops_per_clip,
        device=models.device_name,
        stages=stages,
        committed_at=datetime.now(UTC),
    )
