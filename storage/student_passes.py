"""The student's passes over the videos of a run with a budget: one object per shard, whose presence is the commit.

Kept until the run is published. Written and adopted like a shard's object (``run_store``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from cdmodel.budget import Demand
from cdmodel.cost import ComputeCost
from cdmodel.decode_survey import DecodeSummary
from cdmodel.scores import StudentLogits
from cdmodel.student_pass import PassReceipt, StudentOutcome, StudentPass
from cdmodel.types import ClipSpan, Shard, VideoFailure, VideoRef
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
from storage.prediction_schema import VERSION_METADATA
from storage.run_layout import pass_name, passes_folder
from storage.score_columns import MATRIX, VECTOR, read_matrix, read_vector, to_matrices, to_vectors

RECEIPT_KEY = b"cdlabel.passes"
_SECONDS = pa.list_(pa.float64())
_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("failure", pa.string()),
        pa.field("summary", pa.string()),
        pa.field("cost", pa.string()),
        pa.field("start_seconds", _SECONDS, nullable=False),
        pa.field("end_seconds", _SECONDS, nullable=False),
        pa.field("student_logits", MATRIX, nullable=False),
        pa.field("q_teacher_logit", VECTOR, nullable=False),
        pa.field("q_student_logit", VECTOR, nullable=False),
        pa.field("motion", VECTOR, nullable=False),
        pa.field("wanted", pa.list_(pa.int32()), nullable=False),
        pa.field("value", _SECONDS, nullable=False),
        pa.field("decode_seconds_per_clip", pa.float64(), nullable=False),
    ]
)
_DEMAND = ["wanted", "value", "decode_seconds_per_clip"]
_RECEIPT = TypeAdapter(PassReceipt)
_FAILURE = TypeAdapter(VideoFailure)
_SUMMARY = TypeAdapter(DecodeSummary)
_COST = TypeAdapter(ComputeCost)
_NO_LOGITS = StudentLogits(
    logits_NK=np.zeros((0, 0), np.float32),
    q_teacher_logit_N=np.zeros(0, np.float32),
    q_student_logit_N=np.zeros(0, np.float32),
    motion_N=np.zeros(0, np.float32),
)


def commit_passes(store: Store, receipt: PassReceipt, outcomes: Sequence[StudentOutcome]) -> PassReceipt:
    """Write the passes over a shard as one object, or adopt that of an attempt that was faster.

    Raises:
        StorageUnavailable, CommitStateUnknown, DamagedObject: as ``run_store.commit_shard``.
    """
    document = checked_document(RECEIPT_KEY, _RECEIPT.dump_json(receipt))
    table = _to_table(outcomes).replace_schema_metadata({**document, **VERSION_METADATA})
    if store.create(pass_name(receipt.run_id, receipt.shard_id), to_bytes(table, [])):
        return receipt
    return read_pass_receipt(store, receipt.run_id, receipt.shard_id, receipt.fingerprint)


def standing_passes(store: Store, run_id: str, shard_id: str, fingerprint: str) -> PassReceipt | None:
    """Return the summary of a shard's passes; None where none were committed.

    Raises:
        StorageUnavailable, DamagedObject: as ``run_store.standing_receipt``.
    """
    if not store.exists(pass_name(run_id, shard_id)):
        return None
    return read_pass_receipt(store, run_id, shard_id, fingerprint)


def committed_passes(store: Store, run_id: str) -> frozenset[str]:
    """Return the ids of the shards whose passes stand, by one listing."""
    return frozenset(
        item.name.rpartition("/")[2].removesuffix(".parquet") for item in store.list(passes_folder(run_id))
    )


def passes_log_name(shard_id: str) -> str:
    """Return the name under which attempts at a shard's passes are logged: its labeling has a log of its own."""
    return f"{shard_id}.passes"


def pass_winners(receipts: Collection[PassReceipt]) -> dict[str, str]:
    """Return, by the name in the log, the attempt whose passes stand."""
    return {passes_log_name(receipt.shard_id): receipt.attempt_id for receipt in receipts}


def read_pass_receipts(
    store: Store, run_id: str, fingerprint: str, shard_ids: Collection[str]
) -> tuple[PassReceipt, ...]:
    """Return the summaries of the passes over these shards, ascending by shard; reads footers only.

    Raises:
        DamagedObject: as ``read_pass_receipt``.
    """
    return tuple(map_ahead(lambda shard_id: read_pass_receipt(store, run_id, shard_id, fingerprint), sorted(shard_ids)))


def read_pass_receipt(store: Store, run_id: str, shard_id: str, fingerprint: str) -> PassReceipt:
    """Return the summary in the footer.

    Raises:
        DamagedObject: the object is cut, or of another shard or other settings.
    """
    with open_parquet(store, pass_name(run_id, shard_id)) as file:
        return _receipt_of(store, run_id, shard_id, fingerprint, file)


def read_passes(store: Store, run_id: str, shard: Shard, fingerprint: str, labels: int) -> tuple[StudentOutcome, ...]:
    """Return what the student's stage found of each video of a shard, in its order; K = ``labels``.

    Raises:
        DamagedObject: the object is cut, was changed, or holds other videos.
    """
    name = pass_name(run_id, shard.shard_id)
    with fetch_parquet(store, name) as file:
        _receipt_of(store, run_id, shard.shard_id, fingerprint, file)
        with reading_rows(store, name):
            table = file.read().combine_chunks()
            if table.column("video_id").to_pylist() != [video.video_id for video in shard.videos]:
                raise ValueError("it holds other videos than the plan")
            return tuple(_outcome(table, row, video, labels) for row, video in enumerate(shard.videos))


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardDemand:
    """What the policy would ask about in one shard, and what the student's pass over it took."""

    receipt: PassReceipt
    video_C: NDArray[np.int32]
    clip_C: NDArray[np.int32]
    value_C: NDArray[np.float64]
    decode_seconds_C: NDArray[np.float64]


def read_demands(store: Store, run_id: str, shard_ids: Sequence[str], fingerprint: str) -> list[ShardDemand]:
    """Return the demand of each shard; reads three columns of each object.

    Raises:
        DamagedObject: an object is cut, was changed, or is of other settings.
    """
    return list(map_ahead(partial(_read_demand, store, run_id, fingerprint), shard_ids))


def join_demands(demands: Sequence[ShardDemand]) -> Demand:
    """Return the demand of a run: shards by their position in ``demands``."""
    clips = [len(demand.value_C) for demand in demands]
    return Demand(
        shard_C=np.repeat(np.arange(len(demands), dtype=np.int32), clips),
        video_C=_joined([demand.video_C for demand in demands], np.int32),
        clip_C=_joined([demand.clip_C for demand in demands], np.int32),
        value_C=_joined([demand.value_C for demand in demands], np.float64),
        decode_seconds_C=_joined([demand.decode_seconds_C for demand in demands], np.float64),
    )


def _joined(parts: Sequence[NDArray[Any]], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _read_demand(store: Store, run_id: str, fingerprint: str, shard_id: str) -> ShardDemand:
    name = pass_name(run_id, shard_id)
    with open_parquet(store, name) as file:
        receipt = _receipt_of(store, run_id, shard_id, fingerprint, file)
        with reading_rows(store, name):
            table = file.read(columns=_DEMAND).combine_chunks()
            clips_V = np.diff(_offsets(table.column("wanted")))
            return ShardDemand(
                receipt=receipt,
                video_C=np.repeat(np.arange(table.num_rows, dtype=np.int32), clips_V),
                clip_C=_values(table.column("wanted"), np.int32),
                value_C=_values(table.column("value"), np.float64),
                decode_seconds_C=np.repeat(table.column("decode_seconds_per_clip").to_numpy(), clips_V),
            )


def _offsets(column: pa.ChunkedArray) -> NDArray[np.int64]:
    lengths = pc.list_value_length(column).to_numpy()
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _values(column: pa.ChunkedArray, dtype: type) -> NDArray[Any]:
    return np.asarray(pc.list_flatten(column).to_numpy(), dtype=dtype)


def _to_table(outcomes: Sequence[StudentOutcome]) -> pa.Table:
    taken = [outcome if isinstance(outcome, StudentPass) else None for outcome in outcomes]
    logits = [_NO_LOGITS if one is None else one.logits for one in taken]
    wanted = [np.zeros(0, np.int64) if one is None else np.flatnonzero(one.wanted_N) for one in taken]
    columns: dict[str, Any] = {
        "video_id": [outcome.video.video_id for outcome in outcomes],
        "failure": [_FAILURE.dump_json(o).decode() if isinstance(o, VideoFailure) else None for o in outcomes],
        "summary": [None if one is None else _SUMMARY.dump_json(one.summary).decode() for one in taken],
        "cost": [None if one is None else _COST.dump_json(one.cost).decode() for one in taken],
        "start_seconds": [[] if one is None else [span.start_seconds for span in one.spans] for one in taken],
        "end_seconds": [[] if one is None else [span.end_seconds for span in one.spans] for one in taken],
        "student_logits": to_matrices([one.logits_NK for one in logits]),
        "q_teacher_logit": to_vectors([one.q_teacher_logit_N for one in logits]),
        "q_student_logit": to_vectors([one.q_student_logit_N for one in logits]),
        "motion": to_vectors([one.motion_N for one in logits]),
        "wanted": [indices.tolist() for indices in wanted],
        "value": [
            [] if one is None else one.value_N[indices].tolist() for one, indices in zip(taken, wanted, strict=True)
        ],
        "decode_seconds_per_clip": [0.0 if one is None else one.summary.cpu_seconds / len(one.spans) for one in taken],
    }
    return pa.table(columns, schema=_SCHEMA)


def _outcome(table: pa.Table, row: int, video: VideoRef, labels: int) -> StudentOutcome:
    failure = table.column("failure")[row].as_py()
    if failure is not None:
        return _FAILURE.validate_json(failure)
    spans = zip(table.column("start_seconds")[row].as_py(), table.column("end_seconds")[row].as_py(), strict=True)
    logits = StudentLogits(
        logits_NK=read_matrix(table.column("student_logits"), row, labels),
        q_teacher_logit_N=read_vector(table.column("q_teacher_logit"), row),
        q_student_logit_N=read_vector(table.column("q_student_logit"), row),
        motion_N=read_vector(table.column("motion"), row),
    )
    clips = len(logits.motion_N)
    wanted_N, value_N = np.zeros(clips, dtype=np.bool_), np.full(clips, -np.inf)
    indices = table.column("wanted")[row].as_py()
    wanted_N[indices] = True
    value_N[indices] = table.column("value")[row].as_py()
    return StudentPass(
        video=video,
        logits=logits,
        spans=tuple(ClipSpan(start_seconds=start, end_seconds=end) for start, end in spans),
        wanted_N=wanted_N,
        value_N=value_N,
        summary=_SUMMARY.validate_json(table.column("summary")[row].as_py()),
        cost=_COST.validate_json(table.column("cost")[row].as_py()),
    )


def _receipt_of(store: Store, run_id: str, shard_id: str, fingerprint: str, file: pq.ParquetFile) -> PassReceipt:
    name = pass_name(run_id, shard_id)
    try:
        receipt = _RECEIPT.validate_json(read_document(store, name, file, RECEIPT_KEY))
    except ValidationError as error:
        raise damaged(store, name, "it carries no receipt of this version") from error
    if (receipt.run_id, receipt.shard_id, receipt.fingerprint) != (run_id, shard_id, fingerprint):
        raise damaged(store, name, f"it is of run {receipt.run_id}, shard {receipt.shard_id}, or of other settings")
    return receipt
