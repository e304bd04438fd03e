"""The cache of both models' raw answers: one Parquet file, one row per video, readable by any SQL engine.

Logits are float32 and come back bit for bit. What is the same for all rows, and what could not be read, stands in the
footer. N clips, K labels.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from cdmodel.errors import DamagedObject
from cdmodel.labels import truth_by_name
from cdmodel.replay import CachedVideo, VideoSeconds
from cdmodel.score_entry import ScoredEntry, ScoringContext, UnreadableVideo
from cdmodel.scores import StudentLogits
from cdmodel.types import ClipSpan, LabeledVideo, Split, VideoRef
from storage.filesystem import Store
from storage.parquet import damaged, fetch_parquet, footer, to_bytes
from storage.score_columns import MATRIX, VECTOR, read_matrix, read_vector, to_matrices, to_vectors

SCORES_SCHEMA_VERSION = 1
_HEADER = "cdlabel_scores"
_SCHEMA = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("video_version", pa.string(), nullable=False),
        pa.field("size_bytes", pa.int64()),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("split", pa.string()),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("duration_seconds", pa.float64()),
        pa.field("start_seconds", pa.list_(pa.float64()), nullable=False),
        pa.field("end_seconds", pa.list_(pa.float64()), nullable=False),
        pa.field("student_logits", MATRIX, nullable=False),
        pa.field("q_teacher_logit", VECTOR, nullable=False),
        pa.field("q_student_logit", VECTOR, nullable=False),
        pa.field("motion", VECTOR, nullable=False),
        pa.field("teacher_logits", MATRIX, nullable=False),
        pa.field("decode_student_seconds", pa.float64(), nullable=False),
        pa.field("decode_teacher_seconds", pa.float64(), nullable=False),
        pa.field("student_seconds", pa.float64(), nullable=False),
        pa.field("teacher_seconds", pa.float64(), nullable=False),
    ]
)
_TEXTS_THAT_REPEAT = ["model_version", "split"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCache:
    """The contents of one file."""

    context: ScoringContext
    content_sha256: str
    """Of the context and the videos that were asked for: tells whether the file answers a request."""
    entries: tuple[ScoredEntry, ...]
    """Ascending by ``video_id``."""
    unreadable: tuple[UnreadableVideo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    schema_version: int
    content_sha256: str
    context: ScoringContext
    unreadable: tuple[UnreadableVideo, ...]


_HEADERS = TypeAdapter(_Header)


def write_score_cache(store: Store, name: str, cache: ScoreCache) -> bool:
    """Create the file, complete or not at all; False if another one stands under the name already.

    Raises:
        StorageUnavailable, CommitStateUnknown: as ``Store.create``.
    """
    header = _Header(
        schema_version=SCORES_SCHEMA_VERSION,
        content_sha256=cache.content_sha256,
        context=cache.context,
        unreadable=cache.unreadable,
    )
    metadata = {_HEADER: _HEADERS.dump_json(header)}
    table = _to_table(cache.entries, cache.context).replace_schema_metadata(metadata)
    return store.create(name, to_bytes(table, _TEXTS_THAT_REPEAT))


def read_score_cache(store: Store, name: str) -> ScoreCache:
    """Return what ``write_score_cache`` was given.

    Raises:
        DamagedObject: it is no file of scores, of another schema, cut or changed.
        StorageUnavailable: it cannot be read at all.
    """
    with fetch_parquet(store, name) as file:
        header = _read_header(store, name, footer(file))
        if file.schema_arrow.names != _SCHEMA.names:
            raise damaged(store, name, "its columns are not those of a cache of scores")
        try:
            rows = _Rows(file.read().cast(_SCHEMA), len(header.context.labels))
            entries = tuple(rows.entry(row, header.context.labels) for row in range(rows.count))
        except (pa.ArrowException, OSError, ValueError, IndexError) as error:
            raise damaged(store, name, f"its rows cannot be read ({error})") from error
    return ScoreCache(
        context=header.context, content_sha256=header.content_sha256, entries=entries, unreadable=header.unreadable
    )


def _read_header(store: Store, name: str, texts: Any) -> _Header:
    if _HEADER not in texts:
        raise damaged(store, name, "not a cache of scores")
    try:
        version = json.loads(texts[_HEADER])["schema_version"]
        if version != SCORES_SCHEMA_VERSION:
            raise DamagedObject(
                store.uri_of(name), f"scores of schema {version!r}, this version reads {SCORES_SCHEMA_VERSION}"
            )
        return _HEADERS.validate_json(texts[_HEADER])
    except (ValidationError, ValueError, KeyError, TypeError) as error:
        raise damaged(store, name, "its header is not one of a cache of scores") from error


def _to_table(entries: Sequence[ScoredEntry], context: ScoringContext) -> pa.Table:
    entries = sorted(entries, key=lambda entry: entry.video.video.video_id)
    columns: dict[str, Any] = {
        "video_id": [e.video.video.video_id for e in entries],
        "uri": [e.video.video.uri for e in entries],
        "video_version": [e.video.video.video_version for e in entries],
        "size_bytes": [e.video.video.size_bytes for e in entries],
        "model_version": [context.model_version] * len(entries),
        "group": [e.video.group for e in entries],
        "split": [e.video.split for e in entries],
        "labels": [list(e.video.labels) for e in entries],
        "duration_seconds": [e.duration_seconds for e in entries],
        "start_seconds": [[span.start_seconds for span in e.spans] for e in entries],
        "end_seconds": [[span.end_seconds for span in e.spans] for e in entries],
        "student_logits": to_matrices([e.answers.student.logits_NK for e in entries]),
        "q_teacher_logit": to_vectors([e.answers.student.q_teacher_logit_N for e in entries]),
        "q_student_logit": to_vectors([e.answers.student.q_student_logit_N for e in entries]),
        "motion": to_vectors([e.answers.student.motion_N for e in entries]),
        "teacher_logits": to_matrices([e.answers.teacher_logits_NK for e in entries]),
        "decode_student_seconds": [e.answers.seconds.decode_student for e in entries],
        "decode_teacher_seconds": [e.answers.seconds.decode_teacher for e in entries],
        "student_seconds": [e.answers.seconds.student for e in entries],
        "teacher_seconds": [e.answers.seconds.teacher for e in entries],
    }
    return pa.table(columns, schema=_SCHEMA)


class _Rows:
    """A table read back. Raises ``ValueError`` where a row makes no sense."""

    def __init__(self, table: pa.Table, num_labels: int) -> None:
        table = table.combine_chunks()
        self.count = table.num_rows
        self._num_labels = num_labels
        lists = ("student_logits", "teacher_logits", "q_teacher_logit", "q_student_logit", "motion")
        self._facts = table.drop_columns(list(lists)).to_pylist()
        self._lists = {name: table.column(name) for name in lists}

    def entry(self, row: int, labels: Sequence[str]) -> ScoredEntry:
        facts = self._facts[row]
        student = StudentLogits(
            logits_NK=read_matrix(self._lists["student_logits"], row, self._num_labels),
            q_teacher_logit_N=read_vector(self._lists["q_teacher_logit"], row),
            q_student_logit_N=read_vector(self._lists["q_student_logit"], row),
            motion_N=read_vector(self._lists["motion"], row),
        )
        return ScoredEntry(
            video=_to_video(facts),
            duration_seconds=facts["duration_seconds"],
            spans=tuple(
                ClipSpan(start_seconds=start, end_seconds=end)
                for start, end in zip(facts["start_seconds"], facts["end_seconds"], strict=True)
            ),
            answers=CachedVideo(
                video_id=facts["video_id"],
                group=facts["group"],
                truth_K=truth_by_name([facts["labels"]], labels)[0],
                student=student,
                teacher_logits_NK=read_matrix(self._lists["teacher_logits"], row, self._num_labels),
                seconds=VideoSeconds(
                    decode_student=facts["decode_student_seconds"],
                    decode_teacher=facts["decode_teacher_seconds"],
                    student=facts["student_seconds"],
                    teacher=facts["teacher_seconds"],
                ),
            ),
        )


def _to_video(facts: dict[str, Any]) -> LabeledVideo:
    return LabeledVideo(
        video=VideoRef(
            video_id=facts["video_id"],
            uri=facts["uri"],
            video_version=facts["video_version"],
            size_bytes=facts["size_bytes"],
        ),
        labels=tuple(facts["labels"]),
        group=facts["group"],
        split=cast("Split | None", facts["split"]),
    )
