"""A run's own record: the frozen plan, the committed shards, and who has finished.

The plan's presence makes a run, unless it was withdrawn; a shard object's presence is its commit, the success marker's
presence ends it.
Shards are consecutive ranges of ascending ``video_id``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from cdmodel.cost import price_usd
from cdmodel.drift import count_confidences
from cdmodel.errors import NewerSchema, RunError
from cdmodel.stage_clock import StageSeconds
from cdmodel.types import Shard, ShardReceipt, VideoFailure, VideoOutcome, VideoPrediction, VideoRef
from storage.filesystem import Store
from storage.lookahead import map_ahead
from storage.parquet import (
    checked_document,
    damaged,
    fetch_parquet,
    open_parquet,
    read_document,
    reading_rows,
    to_bytes,
)
from storage.plan_decision import read_decision
from storage.prediction_schema import (
    PREDICTION_SCHEMA,
    REPETITIVE_TEXT,
    SCHEMA_VERSION,
    VERSION_METADATA,
    RowContext,
    as_schema,
    outcomes_to_table,
)
from storage.row_digest import digest_rows
from storage.run_layout import RUNS, config_name, decision_name, plan_name, shard_name, shards_folder, success_name
from storage.uri import base_name

HEADER_KEY = b"cdlabel.header"
RECEIPT_KEY = b"cdlabel.receipt"
PLAN_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("uri", pa.string()),
        ("video_version", pa.string()),
        ("size_bytes", pa.int64()),
        ("shard_id", pa.string()),
        ("group", pa.string()),
        ("shard_share", pa.float64()),
    ]
)
PLAN_ROWS_PER_BATCH = 16_384


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeader:
    """What a plan says of its run as a whole."""

    run_id: str
    fingerprint: str
    model_version: str
    bundle_uri: str | None
    """Folder or URL, never an alias. None is the bundle that ships with the project."""
    source: str
    corpus: str
    run_date: date
    created_at: datetime
    videos: int
    shards: int
    bytes: int
    """Of all videos whose size is known."""
    videos_skipped: int
    """Found, but not planned: they had a terminal row, or another run had planned them."""
    schema_version: int
    relabel: bool = False
    """Videos that had a terminal row of the same fingerprint were planned all the same."""
    videos_quarantined: int = 0
    """Of those skipped, the ones that failed before and are not tried again."""
    create_only_honoured: bool = True
    """Whether OUT let an object be created only once, when the run was planned."""
    retry_reasons: tuple[str, ...] | None = None
    """Of a run that labels again what failed: the kinds it was asked for, none for all; None of any other run."""
    carry_over: bool = False
    """Videos were planned again some of whose clips had not fitted the budget of an earlier run."""
    bundle_asked: str | None = None
    """``REGISTRY@NAME`` as it was asked for; ``bundle_uri`` is what that meant when the run was planned. None: no such."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """A run, and whether it is over."""

    header: RunHeader
    finished: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CommittedShard:
    """All that a shard's object holds."""

    receipt: ShardReceipt
    rows: pa.Table
    """With our columns, whichever state of this schema version wrote them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Version:
    """The one field of a header that every version of it has."""

    schema_version: int


# What a record has more than its fields is ignored: a later state of this project may have added it.
_VERSION = TypeAdapter(_Version)
_HEADER = TypeAdapter(RunHeader)
_RECEIPT = TypeAdapter(ShardReceipt)


def make_shard(videos: Sequence[VideoRef], fingerprint: str, expected_share: float | None = None) -> Shard:
    """Return the shard of these videos, ascending by id; its id is 16 hex digits of the hash of its content."""
    digest = hashlib.sha256(fingerprint.encode())
    for video in videos:
        digest.update(f"\n{video.video_id}\0{video.video_version}\0{video.uri}".encode())
    return Shard(shard_id=digest.hexdigest()[:16], videos=tuple(videos), expected_share=expected_share)


def create_plan(store: Store, header: RunHeader, shards: Sequence[Shard], config_toml: str) -> bool:
    """Freeze a plan; False if the run has one already, which then counts."""
    store.create(config_name(header.run_id), config_toml.encode())
    columns: dict[str, list[object]] = {name: [] for name in PLAN_SCHEMA.names}
    for shard in shards:
        for video in shard.videos:
            columns["video_id"].append(video.video_id)
            columns["uri"].append(video.uri)
            columns["video_version"].append(video.video_version)
            columns["size_bytes"].append(video.size_bytes)
            columns["shard_id"].append(shard.shard_id)
            columns["group"].append(video.group)
            columns["shard_share"].append(shard.expected_share)
    schema = PLAN_SCHEMA.with_metadata(checked_document(HEADER_KEY, _HEADER.dump_json(header)))
    plan = to_bytes(pa.table(columns, schema=schema), ["shard_id", "group", "shard_share"])
    return store.create(plan_name(header.run_id), plan)


def read_header(store: Store, run_id: str) -> RunHeader:
    """Return what a run's plan says of it.

    Raises:
        DamagedObject: the plan is cut or was edited.
        StorageUnavailable: there is no such run.
    """
    with open_parquet(store, plan_name(run_id)) as plan:
        return _header_of(store, run_id, plan)


def iter_shards(store: Store, run_id: str, only: frozenset[str] | None = None) -> Iterator[Shard]:
    """Yield the shards of a plan in order, reading a little of it at a time; with ``only``, those of these ids.

    Raises:
        DamagedObject: the plan's rows cannot be read, or it was edited: a shard's id is not that of its videos.
    """
    wanted = None if only is None else pa.array(sorted(only), pa.string())
    with reading_rows(store, plan_name(run_id)), open_parquet(store, plan_name(run_id)) as plan:
        fingerprint = _header_of(store, run_id, plan).fingerprint
        shard_id, share = "", None
        members: list[VideoRef] = []
        # Plans of an earlier state lack the group and the share; a later one may have added what we do not know.
        known = [name for name in PLAN_SCHEMA.names if name in plan.schema_arrow.names]
        for batch in plan.iter_batches(PLAN_ROWS_PER_BATCH, columns=known):
            rows = batch if wanted is None else batch.filter(pc.is_in(batch.column("shard_id"), wanted))
            for row in rows.to_pylist():
                if row["shard_id"] != shard_id and members:
                    yield _checked(store, run_id, shard_id, make_shard(members, fingerprint, share))
                    members = []
                shard_id, share = row.pop("shard_id"), row.pop("shard_share", None)
                members.append(VideoRef(**row))
        if members:
            yield _checked(store, run_id, shard_id, make_shard(members, fingerprint, share))


def list_runs(store: Store) -> tuple[RunState, ...]:
    """Return every run that has a plan which was not withdrawn, oldest first.

    Raises:
        DamagedObject: a plan is cut or was edited.
        NewerSchema: a newer version of this project planned a run.
    """
    states = map_ahead(partial(read_state, store), run_ids(store))
    return tuple(sorted((run for run in states if run is not None), key=lambda run: run.header.created_at))


def run_ids(store: Store) -> tuple[str, ...]:
    """Return the names of all folders of runs, those included whose plan never came to stand."""
    return store.children(RUNS)


def read_state(store: Store, run_id: str) -> RunState | None:
    """Return the state of a run; None for a folder whose plan never came to stand, or was withdrawn.

    Raises:
        DamagedObject: the plan is cut or was edited, or what was decided about it was changed.
        NewerSchema: a newer version of this project planned it.
    """
    names = store.children(f"{RUNS}/{run_id}")
    if base_name(plan_name(run_id)) not in names:
        return None
    finished = base_name(success_name(run_id)) in names
    is_decided = base_name(decision_name(run_id)) in names
    if is_decided and not finished and read_decision(store, run_id) == "withdrawn":
        return None
    return RunState(header=read_header(store, run_id), finished=finished)


def find_run(store: Store, run_id: str | None) -> RunState:
    """Return the run of that name, or the latest one.

    Raises:
        RunError: there is no such run, or none at all.
    """
    if run_id is None:
        runs = list_runs(store)
        found = runs[-1] if runs else None
    else:
        found = read_state(store, run_id) if run_id in run_ids(store) else None
    if found is None:
        raise RunError(store.root, "no run stands here" if run_id is None else f"there is no run {run_id} here")
    return found


def commit_shard(
    store: Store,
    outcomes: Sequence[VideoOutcome],
    context: RowContext,
    committed_at: datetime,
    stages: StageSeconds = StageSeconds(),  # noqa: B008 - frozen
) -> ShardReceipt:
    """Write all rows of a shard as one object, or adopt the object of an attempt that was faster.

    Raises:
        StorageUnavailable: nothing was written.
        CommitStateUnknown: the object is complete or absent, but which cannot be told.
        DamagedObject: another shard's rows stand under this shard's name.
    """
    table = outcomes_to_table(outcomes, context)
    receipt = replace(_summarise(outcomes, context, committed_at), rows_sha256=digest_rows(table), stages=stages)
    document = checked_document(RECEIPT_KEY, _RECEIPT.dump_json(receipt))
    table = table.replace_schema_metadata({**document, **VERSION_METADATA})
    if store.create(shard_name(context.run_id, context.shard_id), to_bytes(table, REPETITIVE_TEXT)):
        return receipt
    return _winner(store, context.run_id, context.shard_id, context.fingerprint)


def standing_receipt(store: Store, run_id: str, shard_id: str, fingerprint: str) -> ShardReceipt | None:
    """Return the summary of a shard whose object stands; None where none does.

    Raises:
        StorageUnavailable: that cannot be told.
        DamagedObject: another shard's rows stand under this shard's name.
    """
    if not store.exists(shard_name(run_id, shard_id)):
        return None
    return _winner(store, run_id, shard_id, fingerprint)


def _winner(store: Store, run_id: str, shard_id: str, fingerprint: str) -> ShardReceipt:
    winner = read_receipt(store, run_id, shard_id)
    if winner.fingerprint != fingerprint:
        raise damaged(store, shard_name(run_id, shard_id), "its rows are of other models or settings")
    return winner


def planned_shards(store: Store, run_id: str) -> frozenset[str]:
    """Return the ids of all shards of a plan."""
    with open_parquet(store, plan_name(run_id)) as plan:
        return frozenset(plan.read(columns=["shard_id"]).column("shard_id").unique().to_pylist())


def committed_shards(store: Store, run_id: str) -> frozenset[str]:
    """Return the ids of the shards whose objects stand, by one listing."""
    objects = store.list(shards_folder(run_id))
    return frozenset(item.name.rpartition("/")[2].removesuffix(".parquet") for item in objects)


def read_receipt(store: Store, run_id: str, shard_id: str) -> ShardReceipt:
    """Return the summary in a shard's footer.

    Raises:
        DamagedObject: the object is cut, or is another shard's.
    """
    with open_parquet(store, shard_name(run_id, shard_id)) as shard:
        return _receipt_of(store, run_id, shard_id, shard)


def read_receipts(store: Store, run_id: str) -> tuple[ShardReceipt, ...]:
    """Return the summaries of all committed shards of a run; reads footers only."""
    return tuple(map_ahead(partial(read_receipt, store, run_id), sorted(committed_shards(store, run_id))))


def read_shard(store: Store, run_id: str, shard: Shard) -> CommittedShard:
    """Return a committed shard, checked against the plan and the checksums of its pages.

    Raises:
        DamagedObject: the object was cut, changed, or holds other videos than planned.
    """
    name = shard_name(run_id, shard.shard_id)
    with fetch_parquet(store, name) as file:
        receipt = _receipt_of(store, run_id, shard.shard_id, file)
        with reading_rows(store, name):
            stored = file.read()
            rows = as_schema(stored, PREDICTION_SCHEMA)
            video_ids = rows.column("video_id").to_pylist()
    if video_ids != [video.video_id for video in shard.videos]:
        raise damaged(store, name, "it holds other videos than the plan")
    if receipt.rows_sha256 is not None and digest_rows(stored) != receipt.rows_sha256:
        raise damaged(store, name, "its rows are not those that its receipt was made of")
    return CommittedShard(receipt=receipt, rows=rows)


def _header_of(store: Store, run_id: str, plan: pq.ParquetFile) -> RunHeader:
    name = plan_name(run_id)
    content = read_document(store, name, plan, HEADER_KEY)
    try:
        _refuse_newer(run_id, _VERSION.validate_json(content))
        header = _HEADER.validate_json(content)
    except ValidationError as error:
        raise damaged(store, name, "not a plan of this version") from error
    if header.run_id != run_id or header.videos != plan.metadata.num_rows:
        raise damaged(store, name, f"the plan holds {plan.metadata.num_rows} videos of {header.videos}")
    return header


def _refuse_newer(run_id: str, written: _Version) -> None:
    if written.schema_version > SCHEMA_VERSION:
        raise NewerSchema(
            f"run {run_id}",
            f"was written with schema version {written.schema_version}, this cdlabel knows up to {SCHEMA_VERSION}: "
            "upgrade cdlabel, or use another OUT",
        )


def _checked(store: Store, run_id: str, planned_id: str, shard: Shard) -> Shard:
    if shard.shard_id != planned_id:
        raise damaged(store, plan_name(run_id), f"the videos of shard {planned_id} are not those it was planned with")
    return shard


def _receipt_of(store: Store, run_id: str, shard_id: str, shard: pq.ParquetFile) -> ShardReceipt:
    name = shard_name(run_id, shard_id)
    try:
        receipt = _RECEIPT.validate_json(read_document(store, name, shard, RECEIPT_KEY))
    except ValidationError as error:
        raise damaged(store, name, "it carries no receipt of this version") from error
    if (receipt.run_id, receipt.shard_id, receipt.videos) != (run_id, shard_id, shard.metadata.num_rows):
        raise damaged(store, name, f"it carries the receipt of run {receipt.run_id}, shard {receipt.shard_id}")
    return receipt


def _summarise(outcomes: Sequence[VideoOutcome], context: RowContext, committed_at: datetime) -> ShardReceipt:
    predictions = [outcome for outcome in outcomes if not isinstance(outcome, VideoFailure)]
    partial = sum(prediction.damage is not None for prediction in predictions)
    costs = [outcome.cost for outcome in outcomes]
    return ShardReceipt(
        run_id=context.run_id,
        shard_id=context.shard_id,
        attempt_id=context.attempt_id,
        fingerprint=context.fingerprint,
        videos_labeled=len(predictions) - partial,
        videos_partial=partial,
        videos_failed=len(outcomes) - len(predictions),
        clips_planned=sum(prediction.clips_planned for prediction in predictions),
        clips_student=sum(prediction.clips_student for prediction in predictions),
        clips_teacher=sum(prediction.clips_teacher for prediction in predictions),
        clips_unfunded=sum(prediction.clips_unfunded or 0 for prediction in predictions),
        videos_unfunded=sum(bool(prediction.clips_unfunded) for prediction in predictions),
        cost=sum(costs[1:], costs[0]),
        committed_at=committed_at,
        student_confidence=count_confidences(_student_confidences(prediction) for prediction in predictions),
        teacher_confidence=count_confidences(
            prediction.audit.confidences for prediction in predictions if prediction.audit is not None
        ),
        cost_usd=None
        if context.prices is None
        else sum(price_usd(outcome.cost, outcome.device, context.prices) for outcome in outcomes),
    )


def _student_confidences(prediction: VideoPrediction) -> list[float]:
    return [clip.student_confidence for clip in prediction.clips if clip.student_confidence is not None]
