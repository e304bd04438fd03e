"""Invented archives for ``bench_scale.py``: ids, URIs, etags and rows of predictions, made a column at a time.

Scores are random, which compresses worse than real ones. Every video has five scored clips and five top labels.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.prediction_schema import CLIP, MOMENT, PREDICTION_SCHEMA, TOP_LABEL

ARCHIVE = "s3://archive"
CORPUS = "archive"
CLASSES = 400
CLIPS_PER_VIDEO = 5
TOP_LABELS = 5
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)


def invent_videos(videos: int, seed: int) -> pa.Table:
    """Return the columns of a manifest: video_id, uri, size_bytes and etag, ascending by id."""
    random = np.random.default_rng(seed)
    ids = pc.take(identifiers := _hex_column(random, videos, 20), pc.sort_indices(identifiers))
    uris = pc.binary_join_element_wise(ARCHIVE + "/2026", pc.utf8_slice_codeunits(ids, 0, 2), ids, "/")
    return pa.table(
        {
            "video_id": ids,
            "uri": pc.binary_join_element_wise(uris, ".mp4", ""),
            "size_bytes": pa.array(random.lognormal(16, 1, videos).astype(np.int64)),
            "etag": _hex_column(random, videos, 32),
        }
    )


def invent_rows(videos: pa.Table, *, run_id: str, model_version: str, fingerprint: str, run_date: date) -> pa.Table:
    """Return a row of predictions for every video, with all columns; ``shard_id`` is empty."""
    rows = videos.num_rows
    random = np.random.default_rng(rows)
    labels = random.integers(0, CLASSES, rows, dtype=np.int32)
    names = _label_names(labels)
    seconds = random.gamma(2, 0.4, (4, rows))
    flops = random.integers(10**9, 10**11, (3, rows))
    labeled_at = random.integers(0, 3600 * 10**6, rows) + _microseconds(run_date)
    columns: dict[str, pa.Array] = {
        "video_id": videos.column("video_id"),
        "uri": videos.column("uri"),
        "video_version": videos.column("etag"),
        "size_bytes": videos.column("size_bytes"),
        "labeled_at": pa.array(labeled_at).cast(MOMENT),
        "label_id": pa.array(labels),
        "label": names,
        "top_labels": _top_labels(random, rows),
        "decided_by": pa.array(["student", "both"]).take(pa.array(random.integers(0, 2, rows))),
        "escalated": pa.array(random.random(rows) < 0.3),
        "student_label_id": pa.array(random.integers(0, CLASSES, rows, dtype=np.int32)),
        "duration_seconds": pa.array(random.gamma(2, 20, rows)),
        "clips": _clips(random, rows),
        "clips_teacher": pa.array(random.integers(0, CLIPS_PER_VIDEO, rows, dtype=np.int32)),
        "frames_decoded": pa.array(random.integers(40, 2000, rows)),
        "bytes_read": videos.column("size_bytes"),
        "student_flops": pa.array(flops[0]),
        "teacher_flops": pa.array(flops[1]),
        "dense_teacher_flops": pa.array(flops[2]),
        "decode_cpu_seconds": pa.array(seconds[0]),
        "dense_decode_cpu_seconds": pa.array(seconds[0] / 2),
        "student_seconds": pa.array(seconds[1]),
        "teacher_seconds": pa.array(seconds[2]),
        "wall_seconds": pa.array(seconds[3]),
        "cost_usd": pa.array(seconds.sum(axis=0) / 3600),
    }
    same = {
        "corpus": CORPUS,
        "run_id": run_id,
        "shard_id": "",
        "attempt_id": f"{run_id}-attempt",
        "model_version": model_version,
        "run_date": run_date,
        "fingerprint": fingerprint,
        "status": "labeled",
        "coverage": 1.0,
        "audited": False,
        "fps": 25.0,
        "width": 640,
        "height": 360,
        "codec": "h264",
        "clips_planned": CLIPS_PER_VIDEO,
        "clips_student": CLIPS_PER_VIDEO,
        "frames_used": 8 * CLIPS_PER_VIDEO,
        "frames_corrupt": 0,
        "packets_read": 900,
        "packets_damaged": 0,
        "read_requests": 12,
        "gpu_seconds": 0.0,
        "device": "cpu",
        "decoder": "pyav-18.1.0",
        "decode_mode": "planned",
    }
    floats = {name: pa.array(random.random(rows, dtype=np.float32)) for name in ("confidence", "student_confidence")}
    filled = columns | floats
    return pa.table(
        [filled.get(field.name, _same(same.get(field.name), field.type, rows)) for field in PREDICTION_SCHEMA],
        schema=PREDICTION_SCHEMA,
    )


def day_of(run: int) -> date:
    """Return the day of the n-th invented run."""
    return (NOON + timedelta(days=run)).date()


def _hex_column(random: np.random.Generator, rows: int, digits: int) -> pa.Array:
    text = random.bytes(rows * digits // 2).hex().encode()
    offsets = np.arange(0, rows * digits + 1, digits, dtype=np.int32)
    return pa.StringArray.from_buffers(rows, pa.py_buffer(offsets), pa.py_buffer(text))


def _same(value: object, type_: pa.DataType, rows: int) -> pa.Array:
    return pa.nulls(rows, type_) if value is None else pa.repeat(pa.scalar(value, type_), rows)


def _microseconds(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 10**6


def _label_names(labels: np.ndarray) -> pa.Array:
    return pa.array([f"action {label}" for label in range(CLASSES)]).take(pa.array(labels))


def _top_labels(random: np.random.Generator, rows: int) -> pa.Array:
    entries = rows * TOP_LABELS
    labels = random.integers(0, CLASSES, entries, dtype=np.int32)
    columns = [pa.array(labels), _label_names(labels), pa.array(random.random(entries, dtype=np.float32))]
    return _lists(pa.StructArray.from_arrays(columns, fields=list(TOP_LABEL)), rows, TOP_LABELS)


def _clips(random: np.random.Generator, rows: int) -> pa.Array:
    entries = rows * CLIPS_PER_VIDEO
    index = np.tile(np.arange(CLIPS_PER_VIDEO, dtype=np.int32), rows)
    teacher = random.random(entries) < 0.2
    columns = {
        "clip_index": pa.array(index),
        "start_seconds": pa.array(index.astype(np.float32)),
        "end_seconds": pa.array(index.astype(np.float32) + 1),
        "scored_by": pa.array(["student", "teacher"]).take(pa.array(teacher.astype(np.int8))),
        "student_label_id": pa.array(random.integers(0, CLASSES, entries, dtype=np.int32)),
        "teacher_label_id": pa.array(random.integers(0, CLASSES, entries, dtype=np.int32), mask=~teacher),
        "teacher_confidence": pa.array(random.random(entries, dtype=np.float32), mask=~teacher),
    }
    filled = [columns.get(field.name, pa.array(random.random(entries, dtype=np.float32))) for field in CLIP]
    return _lists(pa.StructArray.from_arrays(filled, fields=list(CLIP)), rows, CLIPS_PER_VIDEO)


def _lists(entries: pa.Array, rows: int, each: int) -> pa.Array:
    offsets = pa.array(np.arange(0, rows * each + 1, each, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, entries)
