"""The table of predictions: every column declared once, with its type, its meaning and when it is null.

Only types that DuckDB, Polars, ClickHouse, DataFusion, Spark, Trino and Athena read alike. A column's type never
changes. Within a schema version only nullable columns are added: what an older file lacks is null, what a newer one has
more is ignored. Any other change is a new version, which readers of this one refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa

from cdmodel.cost import PriceTable, price_usd
from cdmodel.types import ClipRecord, VideoFailure, VideoOutcome, VideoPrediction

SCHEMA_VERSION = 1
VERSION_METADATA = {b"cdlabel.schema_version": str(SCHEMA_VERSION).encode()}
"""In the footer of every file of the tables, for whoever finds one on its own."""
MOMENT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class RowContext:
    """What is the same for all rows of a shard."""

    run_id: str
    shard_id: str
    attempt_id: str
    corpus: str
    model_version: str
    run_date: date
    fingerprint: str
    prices: PriceTable | None


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    name: str
    type: pa.DataType
    meaning: str
    null_when: str = ""
    """Empty where the column is never null."""

    @property
    def field(self) -> pa.Field:
        """The column as Arrow declares it."""
        return pa.field(self.name, self.type, nullable=bool(self.null_when))


TOP_LABEL = pa.struct([("label_id", pa.int32()), ("label", pa.string()), ("probability", pa.float32())])
CLIP = pa.struct(
    [
        ("clip_index", pa.int32()),
        ("start_seconds", pa.float32()),
        ("end_seconds", pa.float32()),
        ("scored_by", pa.string()),
        ("student_label_id", pa.int32()),
        ("student_confidence", pa.float32()),
        ("q_teacher", pa.float32()),
        ("q_student", pa.float32()),
        ("teacher_label_id", pa.int32()),
        ("teacher_confidence", pa.float32()),
        ("weight", pa.float32()),
    ]
)
FAILED = "the video failed"
NOT_DRAWN = "the video failed, or was not drawn for the audit"
UNKNOWN = "it could not be read"
_INT, _LONG, _SHORT_FLOAT, _FLOAT, _TEXT = pa.int32(), pa.int64(), pa.float32(), pa.float64(), pa.string()

COLUMNS = (
    Column("video_id", _TEXT, "from the manifest, or 20 hex digits of the hash of the URI"),
    Column("uri", _TEXT, "absolute path or URL"),
    Column("corpus", _TEXT, "name of the corpus"),
    Column("video_version", _TEXT, "etag, or size and modification time"),
    Column("source_group", _TEXT, "source recording: the manifest's column `group`", "the corpus does not say"),
    Column("run_id", _TEXT, "run that wrote the row"),
    Column("shard_id", _TEXT, "shard of that run"),
    Column("attempt_id", _TEXT, "attempt at the shard that won"),
    Column("model_version", _TEXT, "partition; `m-` and 12 hex digits of the bundle's hash"),
    Column("run_date", pa.date32(), "partition; day (UTC) the run was planned"),
    Column("fingerprint", _TEXT, "hash of bundle, sampling, policy, aggregation and schema version"),
    Column("labeled_at", MOMENT, "when the row was decided"),
    Column("status", _TEXT, "`labeled`, `partial` (part of the video could not be read) or `failed`"),
    Column("error_kind", _TEXT, "why it failed, or what was lost", "labeled in full"),
    Column("error_message", _TEXT, "the same in words", "labeled in full"),
    Column("coverage", _SHORT_FLOAT, "share of the duration decoded without error, 0 to 1"),
    Column("label_id", _INT, "position of the label in the bundle", FAILED),
    Column("label", _TEXT, "most probable class, or the likeliest of several labels", FAILED),
    Column(
        "confidence", _SHORT_FLOAT, "calibrated P(label right), 0 to 1: the first probability of `top_labels`", FAILED
    ),
    Column(
        "top_labels",
        pa.list_(TOP_LABEL),
        "the five most probable labels, best first; where a video may have several, every one more likely than not too",
        FAILED,
    ),
    Column("decided_by", _TEXT, "`student`, `teacher` or `both`: whose clips count in the answer", FAILED),
    Column("escalated", pa.bool_(), "whether the teacher was asked about any clip"),
    Column("audited", pa.bool_(), "whether the teacher also labeled the whole video, to check on the cascade"),
    Column("student_label_id", _INT, "what the student alone would have said", "failed, or the student did not run"),
    Column("student_confidence", _SHORT_FLOAT, "its calibrated confidence", "failed, or the student did not run"),
    Column("teacher_label_id", _INT, "what the policy `dense_teacher` would have said", "not audited"),
    Column("duration_seconds", _FLOAT, "observed; as declared where the end was not reached", UNKNOWN),
    Column("fps", _SHORT_FLOAT, "frames per second, observed", UNKNOWN),
    Column("width", _INT, "coded width in pixels", UNKNOWN),
    Column("height", _INT, "coded height in pixels", UNKNOWN),
    Column("codec", _TEXT, "name of the codec", UNKNOWN),
    Column("size_bytes", _LONG, "size of the file", "unknown to the listing"),
    Column("clips", pa.list_(CLIP), "one entry per scored clip, in order of time", FAILED),
    Column("clips_planned", _INT, "clips that the sampling asks for"),
    Column("clips_student", _INT, "clips the student scored"),
    Column("clips_teacher", _INT, "clips the teacher scored"),
    Column(
        "clips_unfunded",
        _INT,
        "clips the teacher would have been asked about, had the budget allowed",
        "no budget, or failed",
    ),
    Column("frames_decoded", _LONG, "every frame the decoder produced, in all passes"),
    Column("frames_used", _LONG, "frames handed to a model"),
    Column("frames_corrupt", _LONG, "frames the decoder flagged as damaged"),
    Column("packets_read", _LONG, "packets of the video stream taken from the container, in all passes"),
    Column("packets_damaged", _LONG, "packets that could not be decoded; passed over"),
    Column("bytes_read", _LONG, "bytes asked of the store"),
    Column("read_requests", _LONG, "requests to the store"),
    Column("student_flops", _LONG, "FLOPs, 1 multiply-accumulate = 2"),
    Column("teacher_flops", _LONG, "FLOPs"),
    Column("dense_teacher_flops", _LONG, "FLOPs the teacher on every clip would have taken"),
    Column("decode_cpu_seconds", _FLOAT, "CPU time of decoding, all passes"),
    Column("dense_decode_cpu_seconds", _FLOAT, "the part of it that one full pass took"),
    Column("student_seconds", _FLOAT, "time in the student: CPU time, or on a GPU wall time with copies"),
    Column("teacher_seconds", _FLOAT, "time in the teacher, likewise"),
    Column("gpu_seconds", _FLOAT, "time a GPU was busy, for the audit too; 0 where the models ran on the CPU"),
    Column("wall_seconds", _FLOAT, "from opening the file to the answer, audit included"),
    Column("audit_flops", _LONG, "FLOPs of the teacher on the clips that it saw for the audit alone", NOT_DRAWN),
    Column("audit_seconds", _FLOAT, "what the audit added: seconds in the teacher and of decoding", NOT_DRAWN),
    Column("device", _TEXT, "where the models ran, for example `cpu`"),
    Column("decoder", _TEXT, "for example `pyav-18.1.0`"),
    Column(
        "decode_mode", _TEXT, "`planned`, `sequential`, `keyframes` or `nvdec`: how the video was read", "not known"
    ),
    Column("decode_fallback", _TEXT, "why a better mode was left, or not tried", "none was"),
    Column("cost_usd", _FLOAT, "price by the configuration's table, audit included", "no table was given"),
)
PREDICTION_SCHEMA = pa.schema([column.field for column in COLUMNS])
PARTITIONS = ("run_date", "model_version")
LABEL_NAMES = ("student_label", "teacher_label")
"""Texts that the SQL views have beside the table's columns: the names of ``student_label_id`` and ``teacher_label_id``."""
PUBLISHED_SCHEMA = pa.schema(
    [column.field for column in COLUMNS if column.name not in PARTITIONS], metadata=VERSION_METADATA
)
"""Of files below ``predictions/``, whose partitions are in their names."""
REPETITIVE_TEXT = [
    "corpus",
    "run_id",
    "shard_id",
    "attempt_id",
    "model_version",
    "fingerprint",
    "status",
    "error_kind",
    "label",
    "decided_by",
    "codec",
    "device",
    "decoder",
    "decode_mode",
    "decode_fallback",
]
"""Columns worth a dictionary; elsewhere it only costs."""


def outcomes_to_table(outcomes: Sequence[VideoOutcome], context: RowContext) -> pa.Table:
    """Return one row per outcome, ascending by ``video_id``."""
    ordered = sorted(outcomes, key=lambda outcome: outcome.video.video_id)
    rows = [{**_common(outcome, context), **_particular(outcome)} for outcome in ordered]
    return pa.Table.from_pylist(rows, schema=PREDICTION_SCHEMA)


def as_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table that another state of this project wrote with our columns: null for those it lacks.

    Raises:
        ArrowException: it lacks a column that is never null, or has one of another type.
    """
    if table.schema.equals(schema):
        return table.replace_schema_metadata(schema.metadata)
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table.column(field.name).cast(field.type))
        elif field.nullable:
            columns.append(pa.nulls(table.num_rows, field.type))
        else:
            raise pa.ArrowKeyError(f"the column {field.name} is missing")
    return pa.Table.from_arrays(columns, schema=schema)


def describe_columns() -> str:
    """Return the columns as a Markdown table, for ``docs/output-format.md``."""
    lines = ["| column | type | meaning | null when |", "|---|---|---|---|"]
    lines += [f"| `{c.name}` | {_type_name(c.type)} | {c.meaning} | {c.null_when or 'never'} |" for c in COLUMNS]
    return "\n".join(lines)


def _common(outcome: VideoOutcome, context: RowContext) -> dict[str, Any]:
    cost, facts = outcome.cost, outcome.facts
    return {
        "video_id": outcome.video.video_id,
        "uri": outcome.video.uri,
        "video_version": outcome.video.video_version,
        "source_group": outcome.video.group,
        "size_bytes": outcome.video.size_bytes,
        "run_id": context.run_id,
        "shard_id": context.shard_id,
        "attempt_id": context.attempt_id,
        "corpus": context.corpus,
        "model_version": context.model_version,
        "run_date": context.run_date,
        "fingerprint": context.fingerprint,
        "labeled_at": outcome.labeled_at,
        "device": outcome.device,
        "decoder": outcome.decoder,
        "decode_mode": outcome.decode_mode,
        "decode_fallback": None if outcome.decode_fallback is None else _storable(outcome.decode_fallback),
        "cost_usd": None if context.prices is None else price_usd(cost, outcome.device, context.prices),
        "duration_seconds": None if facts is None else facts.duration_seconds,
        "fps": None if facts is None else facts.fps,
        "width": None if facts is None else facts.width,
        "height": None if facts is None else facts.height,
        "codec": None if facts is None else facts.codec,
        **{name: getattr(cost, name) for name in cost.__slots__},
        **_audit(outcome),
    }


def _audit(outcome: VideoOutcome) -> dict[str, Any]:
    audit = None if isinstance(outcome, VideoFailure) else outcome.audit
    if audit is None:
        return {"audited": False, "teacher_label_id": None, "audit_flops": None, "audit_seconds": None}
    return {"audited": audit.teacher_label_id is not None, "teacher_label_id": audit.teacher_label_id}


def _particular(outcome: VideoOutcome) -> Mapping[str, Any]:
    match outcome:
        case VideoFailure():
            return _failed(outcome)
        case VideoPrediction():
            return _labeled(outcome)


def _failed(failure: VideoFailure) -> dict[str, Any]:
    return {
        "status": "failed",
        "error_kind": failure.error_kind,
        "error_message": _storable(failure.message),
        "coverage": 0.0,
        "escalated": False,
        "clips_planned": 0,
        "clips_student": 0,
        "clips_teacher": 0,
    }


def _labeled(prediction: VideoPrediction) -> dict[str, Any]:
    best, damage = prediction.top_labels[0], prediction.damage
    return {
        "status": "labeled" if damage is None else "partial",
        "error_kind": None if damage is None else damage.error_kind,
        "error_message": None if damage is None else _storable(damage.message),
        "coverage": prediction.coverage,
        "label_id": best.label_id,
        "label": best.label,
        "confidence": best.probability,
        "top_labels": [
            {"label_id": top.label_id, "label": top.label, "probability": top.probability}
            for top in prediction.top_labels
        ],
        "decided_by": prediction.decided_by,
        "escalated": prediction.clips_teacher > 0,
        "student_label_id": prediction.student_label_id,
        "student_confidence": prediction.student_confidence,
        "clips": [_clip(clip) for clip in prediction.clips],
        "clips_planned": prediction.clips_planned,
        "clips_student": prediction.clips_student,
        "clips_teacher": prediction.clips_teacher,
        "clips_unfunded": prediction.clips_unfunded,
    }


def _storable(text: str) -> str:
    """Replace what is no Unicode: a driver may quote a name of any bytes, and a message must not cost a shard."""
    return text.encode("utf-8", "backslashreplace").decode()


def _clip(clip: ClipRecord) -> dict[str, Any]:
    return {field.name: getattr(clip, field.name) for field in CLIP}


def _type_name(type_: pa.DataType) -> str:
    if pa.types.is_list(type_):
        return f"list<{_type_name(type_.value_type)}>"
    if pa.types.is_struct(type_):
        return "struct<" + ", ".join(f"{field.name} {_type_name(field.type)}" for field in type_) + ">"
    return {"float": "float32", "double": "float64", "date32[day]": "date"}.get(str(type_), str(type_))
