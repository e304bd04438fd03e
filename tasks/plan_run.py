"""Decide what a run has to do: resume an unfinished one, or plan what has no terminal row yet.

``preview_run`` decides and writes nothing; ``open_run`` writes the plan. Everything a user can get wrong about SOURCE,
OUT, the bundle or the run id is found here, before any work.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import ClassVar

from cdmodel.aggregation import Aggregation
from cdmodel.bundle import BundleManifest, model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode_limits import DecodeDevice
from cdmodel.errors import ConfigError
from cdmodel.policies import Certified, PolicyChoice
from cdmodel.policy_choice import resolve_policy
from cdmodel.sampling import ClipSampling
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.types import Shard, VideoRef
from storage.bundles import local_bundle
from storage.corpus import CorpusListing, CorpusRules, list_videos
from storage.filesystem import Store, absolute_uri, open_store
from storage.ledger import planned_elsewhere, without_terminal_rows
from storage.output import check_output, check_writable
from storage.prediction_schema import SCHEMA_VERSION
from storage.run_store import RunHeader, RunState, create_plan, list_runs, make_shard

logger = logging.getLogger(__name__)

ASSUMED_VIDEO_BYTES = 8 * 2**20
"""Stands in for a size that nobody told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingSettings:
    """How many videos are processed and committed together."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    videos_per_shard: int = 64
    bytes_per_shard: int = 4 * 2**30
    """A shard is closed before it would exceed this; one larger video is a shard of its own."""

    def __post_init__(self) -> None:
        if self.videos_per_shard < 1 or self.bytes_per_shard < 1:
            raise ValueError("videos_per_shard and bytes_per_shard must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """What the user wants labeled, with what, and where the rows go. None means: as the bundle says."""

    source: str
    out: str
    corpus: str | None
    corpus_rules: CorpusRules
    bundle: str | None
    sampling: ClipSampling | None
    policy: PolicyChoice | None
    aggregation: Aggregation | None
    sharding: ShardingSettings
    run_id: str | None
    relabel: bool
    config_toml: str
    decode_device: DecodeDevice = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelingPlan:
    """A run that has something to do, and how."""

    header: RunHeader
    shards: tuple[Shard, ...] | None
    """None where the plan is already in storage."""
    resumed: bool
    sampling: ClipSampling
    cascade: CascadeSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class NothingToDo:
    """Every video found has a terminal row already, or another run has planned it."""

    out: str
    videos_skipped: int
    finished_run_id: str | None
    """The run asked for by name, where that is finished."""
    planned_by: tuple[str, ...]
    """Unfinished runs that have planned some of the videos."""


def open_run(request: RunRequest) -> LabelingPlan | NothingToDo:
    """Resume or create the run that ``request`` asks for; afterwards its plan is in storage.

    Raises:
        UsageError: the request cannot be carried out; nothing was written.
    """
    plan = preview_run(request)
    if isinstance(plan, LabelingPlan) and plan.shards is not None:
        if not check_writable(open_store(request.out)):
            logger.warning("%s does not honour create-only writes, see docs/reliability.md", request.out)
        create_plan(open_store(request.out), plan.header, plan.shards, request.config_toml)
        # Whoever created the plan first, from here on the one in storage counts: same id, same content.
        return replace(plan, shards=None)
    return plan


def preview_run(request: RunRequest) -> LabelingPlan | NothingToDo:
    """Return what ``open_run`` would do, without writing anything.

    Raises:
        UsageError: the request cannot be carried out.
    """
    store = open_store(request.out)
    check_output(store)
    manifest = read_manifest(local_bundle(request.bundle))
    sampling = request.sampling or manifest.sampling
    cascade = _choose_cascade(request, manifest)
    fingerprint = work_fingerprint(manifest, sampling, cascade, request.decode_device)
    source = absolute_uri(request.source)
    runs = list_runs(store)
    resumable = _find_resumable(runs, request, source, fingerprint)
    if resumable is not None:
        if resumable.finished:
            return NothingToDo(
                out=request.out,
                videos_skipped=resumable.header.videos,
                finished_run_id=resumable.header.run_id,
                planned_by=(),
            )
        return LabelingPlan(header=resumable.header, shards=None, resumed=True, sampling=sampling, cascade=cascade)
    listing = list_videos(request.source, request.corpus_rules)
    pending, skipped, planned_by = _without_work_done(store, listing, runs, fingerprint, request)
    if not pending:
        return NothingToDo(out=request.out, videos_skipped=skipped, finished_run_id=None, planned_by=planned_by)
    shards = cut_shards(pending, request.sharding, fingerprint)
    header = _new_header(request, listing, manifest, fingerprint, shards, runs, skipped)
    return LabelingPlan(header=header, shards=shards, resumed=False, sampling=sampling, cascade=cascade)


def work_fingerprint(
    manifest: BundleManifest, sampling: ClipSampling, cascade: CascadeSettings, decode_device: DecodeDevice = "cpu"
) -> str:
    """Return the identity of the work done per video: bundle, sampling, policy, aggregation and schema.

    And that a GPU may decode, where it may: its pixels are a little different, so that labels may be.
    """
    content = {
        "model_version": model_version(manifest),
        "sampling": asdict(sampling),
        "policy": asdict(cascade.policy),
        "aggregation": asdict(cascade.aggregation),
        "schema_version": SCHEMA_VERSION,
    }
    if decode_device != "cpu":
        content["decode_device"] = decode_device
    return _hex_digest(json.dumps(content, sort_keys=True), 16)


def cut_shards(videos: Sequence[VideoRef], sharding: ShardingSettings, fingerprint: str) -> tuple[Shard, ...]:
    """Cut the videos, in ascending order of id, into shards that follow one another.

    Shards are ranges of ids, so that their objects, one after another, are already sorted for publishing.
    """
    shards: list[Shard] = []
    members: list[VideoRef] = []
    members_bytes = 0
    for video in sorted(videos, key=lambda video: video.video_id):
        video_bytes = ASSUMED_VIDEO_BYTES if video.size_bytes is None else video.size_bytes
        full = len(members) == sharding.videos_per_shard or members_bytes + video_bytes > sharding.bytes_per_shard
        if members and full:
            shards.append(make_shard(members, fingerprint))
            members, members_bytes = [], 0
        members.append(video)
        members_bytes += video_bytes
    if members:
        shards.append(make_shard(members, fingerprint))
    return tuple(shards)


def _choose_cascade(request: RunRequest, manifest: BundleManifest) -> CascadeSettings:
    """Take what the request says, and the bundle's defaults for the rest.

    Raises:
        ConfigError: the bundle cannot answer the request, or a certificate is asked for under other circumstances than
            it was measured in.
    """
    aggregation = request.aggregation or manifest.default_aggregation
    if request.policy is None:
        return CascadeSettings(policy=manifest.default_policy, aggregation=aggregation)
    if isinstance(request.policy, Certified) and (
        aggregation != manifest.default_aggregation or (request.sampling or manifest.sampling) != manifest.sampling
    ):
        raise ConfigError("escalation", "a certificate holds for the bundle's own sampling and aggregation; leave them")
    if isinstance(request.policy, Certified) and request.decode_device != "cpu":
        raise ConfigError(
            "escalation", "a certificate holds for videos decoded on the CPU; leave decode.device at that"
        )
    resolved = resolve_policy(request.policy, manifest)
    if resolved.remark:
        logger.warning("%s", resolved.remark)
    return CascadeSettings(policy=resolved.policy, aggregation=aggregation)


def _find_resumable(runs: Sequence[RunState], request: RunRequest, source: str, fingerprint: str) -> RunState | None:
    if request.run_id is not None:
        return _find_named(runs, request.run_id, fingerprint)
    same_work = [
        run
        for run in runs
        if not run.finished and run.header.fingerprint == fingerprint and run.header.source == source
    ]
    return max(same_work, key=lambda run: run.header.created_at, default=None)


def _find_named(runs: Sequence[RunState], run_id: str, fingerprint: str) -> RunState | None:
    named = next((run for run in runs if run.header.run_id == run_id), None)
    if named is not None and named.header.fingerprint != fingerprint:
        raise ConfigError(
            "run_id",
            f"run {run_id} was planned with other models or settings; repeat them, or leave out --run-id",
        )
    return named


def _without_work_done(
    store: Store, listing: CorpusListing, runs: Sequence[RunState], fingerprint: str, request: RunRequest
) -> tuple[Sequence[VideoRef], int, tuple[str, ...]]:
    pending: Sequence[VideoRef] = listing.videos
    if not request.relabel:
        pending = without_terminal_rows(store, pending, runs, fingerprint)
    elsewhere = planned_elsewhere(store, runs, fingerprint)
    free = [video for video in pending if video.video_id not in elsewhere]
    planned_by = sorted({elsewhere[video.video_id] for video in pending if video.video_id in elsewhere})
    return free, len(listing.videos) - len(free), tuple(planned_by)


def _new_header(
    request: RunRequest,
    listing: CorpusListing,
    manifest: BundleManifest,
    fingerprint: str,
    shards: tuple[Shard, ...],
    runs: Sequence[RunState],
    videos_skipped: int,
) -> RunHeader:
    now = datetime.now(UTC)
    return RunHeader(
        run_id=request.run_id or _new_run_id(now, shards, runs),
        fingerprint=fingerprint,
        model_version=model_version(manifest),
        bundle_uri=request.bundle,
        source=listing.source,
        corpus=request.corpus or _corpus_name(listing.source),
        run_date=now.date(),
        created_at=now,
        videos=sum(len(shard.videos) for shard in shards),
        shards=len(shards),
        bytes=sum(video.size_bytes or 0 for shard in shards for video in shard.videos),
        videos_skipped=videos_skipped,
        schema_version=SCHEMA_VERSION,
    )


def _new_run_id(now: datetime, shards: tuple[Shard, ...], runs: Sequence[RunState]) -> str:
    """Return date and content: two commands that plan the same work at once get the same run, not two."""
    digest = _hex_digest("\n".join(shard.shard_id for shard in shards), 10)
    run_id = f"{now:%Y%m%d}-{digest}"
    taken = {run.header.run_id for run in runs}
    repeat = 2
    while run_id in taken:
        run_id = f"{now:%Y%m%d}-{digest}-{repeat}"
        repeat += 1
    return run_id


def _corpus_name(source: str) -> str:
    """Return the last part of SOURCE that is a name and not a pattern, without a manifest's suffix."""
    parts = [part for part in PurePosixPath(source.partition("://")[2] or source).parts if part != "/"]
    plain = [part for part in parts if not set(part) & set("*?[")]
    return PurePosixPath(plain[-1]).stem if plain else "corpus"


def _hex_digest(text: str, digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:digits]
