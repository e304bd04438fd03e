"""Decide what a run has to do: resume an unfinished one, or plan what has no terminal row yet.

``preview_run`` decides and writes nothing; ``open_run`` writes the plan. Everything a user can get wrong about SOURCE,
OUT, the bundle or the run id is found here, before any work.
"""

from __future__ import annotations

import hashlib
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath

from cdmodel.errors import ConfigError, RunError
from cdmodel.types import Shard
from storage.bundles import as_reference, bundle_stands
from storage.filesystem import Store, absolute_uri, open_store
from storage.output import check_output, check_writable
from storage.past_costs import read_past_seconds
from storage.plan_decision import read_decision
from storage.prediction_schema import SCHEMA_VERSION
from storage.run_store import RunHeader, RunState, create_plan, list_runs
from tasks.pending_videos import PendingVideos, find_pending
from tasks.plan_race import claim_new_plan, claim_standing_plan
from tasks.run_request import LabelingPlan, NothingToDo, RunRequest
from tasks.sharding import cut_shards
from tasks.work_identity import Work, resolve_work

logger = logging.getLogger(__name__)

PLANNING_TURNS = 8
"""Times that a run is planned anew because another command has planned some of its videos at the same instant."""
FIRST_PAUSE_SECONDS = 0.25
"""Longest wait before the second turn; it doubles with every turn."""


@dataclass(frozen=True, slots=True)
class _Preview:
    """A plan, and the runs that were known when it was made."""

    plan: LabelingPlan | NothingToDo
    known: frozenset[str]


def open_run(
    request: RunRequest, *, pause: Callable[[float], None] = time.sleep, rng: random.Random | None = None
) -> LabelingPlan | NothingToDo:
    """Resume or create the run that ``request`` asks for; afterwards its plan is in storage and its videos are ours.

    Of several commands that plan some video at the same instant at most one gets it. The others wait for a random time
    and plan anew.

    Raises:
        UsageError: the request cannot be carried out; nothing was written.
        RunError: other commands have planned the same videos at the same instant, again and again.
    """
    store = open_store(request.out)
    waits = rng or random.Random()
    for turn in range(PLANNING_TURNS):
        preview = _preview(store, request)
        if isinstance(preview.plan, NothingToDo):
            return preview.plan
        opened = _try_to_open(store, request, preview.plan, preview.known)
        if opened is not None:
            return opened
        pause(waits.uniform(0.0, FIRST_PAUSE_SECONDS * 2**turn))
    raise RunError(request.out, "other commands plan the same videos at the same time; run the same command again")


def preview_run(request: RunRequest) -> LabelingPlan | NothingToDo:
    """Return what ``open_run`` would do, without writing anything.

    Raises:
        UsageError: the request cannot be carried out.
    """
    return _preview(open_store(request.out), request).plan


def _try_to_open(store: Store, request: RunRequest, plan: LabelingPlan, known: frozenset[str]) -> LabelingPlan | None:
    """Put the plan into storage and claim its videos; None where somebody was faster, who can be seen from now on."""
    if plan.shards is None:
        return plan if claim_standing_plan(store, plan.header, request.failures) else None
    header = replace(plan.header, create_only_honoured=check_writable(store))
    if not header.create_only_honoured:
        logger.warning("%s does not honour create-only writes, see docs/reliability.md", store.root)
    if not create_plan(store, header, plan.shards, request.config_toml):
        return None
    return replace(plan, header=header, shards=None) if claim_new_plan(store, header, known) else None


def _preview(store: Store, request: RunRequest) -> _Preview:
    check_output(store)
    runs = list_runs(store)
    work = _work_of(request, runs)
    known = frozenset(run.header.run_id for run in runs)
    resumable = _find_resumable(store, runs, request, work.fingerprint)
    if resumable is not None:
        return _Preview(_resume(request, resumable, work), known)
    pending = find_pending(store, request, runs, work.fingerprint)
    if not pending.videos:
        nothing = NothingToDo(
            out=request.out,
            videos_skipped=pending.skipped,
            finished_run_id=None,
            planned_by=pending.planned_by,
            videos_quarantined=pending.quarantined,
        )
        return _Preview(nothing, known)
    past_seconds = read_past_seconds(store, pending.videos, runs, pending.source)
    shards = cut_shards(pending.videos, request.sharding, work.fingerprint, past_seconds)
    plan = LabelingPlan(
        header=_new_header(store, request, work, pending, shards, known),
        shards=shards,
        resumed=False,
        bundle=work.bundle,
        sampling=work.sampling,
        cascade=work.cascade,
        videos_tried_again=pending.tried_again,
    )
    return _Preview(plan, known)


def _resume(request: RunRequest, run: RunState, work: Work) -> LabelingPlan | NothingToDo:
    header = run.header
    if run.finished:
        return NothingToDo(out=request.out, videos_skipped=header.videos, finished_run_id=header.run_id, planned_by=())
    return LabelingPlan(
        header=header, shards=None, resumed=True, bundle=work.bundle, sampling=work.sampling, cascade=work.cascade
    )


def _work_of(request: RunRequest, runs: Sequence[RunState]) -> Work:
    """Complete the request. An alias means what it meant when the run was planned that would go on, moved since or not."""
    asked = _bundle_asked(request)
    began = [run.header for run in runs if asked and run.header.bundle_asked == asked and _may_go_on(run, request)]
    for header in reversed(began):
        if not bundle_stands(header.bundle_uri):
            logger.warning("run %s stays unfinished: its bundle %s is gone", header.run_id, header.bundle_uri)
            continue
        work = resolve_work(replace(request, bundle=header.bundle_uri))
        if work.fingerprint == header.fingerprint:
            return work
    return resolve_work(request)


def _may_go_on(run: RunState, request: RunRequest) -> bool:
    """Tell whether a run is the one that is asked for, if only models and settings are the same."""
    if request.run_id is not None:
        return run.header.run_id == request.run_id
    return (
        not run.finished
        and run.header.source == absolute_uri(request.source)
        and run.header.retry_reasons == request.retry_reasons
    )


def _find_resumable(store: Store, runs: Sequence[RunState], request: RunRequest, fingerprint: str) -> RunState | None:
    if request.run_id is not None:
        return _find_named(store, runs, request.run_id, fingerprint)
    same_work = [run for run in runs if run.header.fingerprint == fingerprint and _may_go_on(run, request)]
    return max(same_work, key=lambda run: run.header.created_at, default=None)


def _find_named(store: Store, runs: Sequence[RunState], run_id: str, fingerprint: str) -> RunState | None:
    named = next((run for run in runs if run.header.run_id == run_id), None)
    if named is not None and named.header.fingerprint != fingerprint:
        raise ConfigError(
            "run_id",
            f"run {run_id} was planned with other models or settings; repeat them, or leave out --run-id",
        )
    if named is None and read_decision(store, run_id) == "withdrawn":
        raise ConfigError(
            "run_id",
            f"run {run_id} was withdrawn, as another command had planned the same videos; choose another name",
        )
    return named


def _new_header(
    store: Store,
    request: RunRequest,
    work: Work,
    pending: PendingVideos,
    shards: tuple[Shard, ...],
    known: frozenset[str],
) -> RunHeader:
    now = datetime.now(UTC)
    return RunHeader(
        run_id=request.run_id or _new_run_id(store, now, shards, known),
        fingerprint=work.fingerprint,
        model_version=work.model_version,
        bundle_uri=work.bundle,
        source=pending.source,
        corpus=request.corpus or _corpus_name(pending.source),
        run_date=now.date(),
        created_at=now,
        videos=sum(len(shard.videos) for shard in shards),
        shards=len(shards),
        bytes=sum(video.size_bytes or 0 for shard in shards for video in shard.videos),
        videos_skipped=pending.skipped,
        schema_version=SCHEMA_VERSION,
        relabel=request.relabel,
        videos_quarantined=pending.quarantined,
        retry_reasons=request.retry_reasons,
        carry_over=request.carry_over,
        bundle_asked=_bundle_asked(request),
    )


def _bundle_asked(request: RunRequest) -> str | None:
    return None if as_reference(request.bundle) is None else request.bundle


def _new_run_id(store: Store, now: datetime, shards: tuple[Shard, ...], known: frozenset[str]) -> str:
    """Return date and content: two commands that plan the same work at once get the same run, not two."""
    digest = hashlib.sha256("\n".join(shard.shard_id for shard in shards).encode()).hexdigest()[:10]
    run_id = f"{now:%Y%m%d}-{digest}"
    repeat = 2
    while run_id in known or read_decision(store, run_id) == "withdrawn":
        run_id = f"{now:%Y%m%d}-{digest}-{repeat}"
        repeat += 1
    return run_id


def _corpus_name(source: str) -> str:
    """Return the last part of SOURCE that is a name and not a pattern, without a manifest's suffix."""
    parts = [part for part in PurePosixPath(source.partition("://")[2] or source).parts if part != "/"]
    plain = [part for part in parts if not set(part) & set("*?[")]
    return PurePosixPath(plain[-1]).stem if plain else "corpus"
