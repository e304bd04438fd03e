from __future__ import annotations

from dataclasses import replace
from typing import Any

import pyarrow as pa
import pytest
from run_builders import COST, FINGERPRINT, MODEL_VERSION, NOON, RUN_DATE, context, failure, prediction, video

from cdmodel.cost import PriceTable, price_usd
from cdmodel.types import Damage, VideoAudit, VideoOutcome
from storage.prediction_schema import PREDICTION_SCHEMA, outcomes_to_table

TEXT, INT, LONG, FLOAT, DOUBLE = pa.string(), pa.int32(), pa.int64(), pa.float32(), pa.float64()
TOP_LABELS = pa.list_(pa.struct([("label_id", INT), ("label", TEXT), ("probability", FLOAT)]))
CLIPS = pa.list_(
    pa.struct(
        [
            ("clip_index", INT),
            ("start_seconds", FLOAT),
            ("end_seconds", FLOAT),
            ("scored_by", TEXT),
            ("student_label_id", INT),
            ("student_confidence", FLOAT),
            ("q_teacher", FLOAT),
            ("q_student", FLOAT),
            ("teacher_label_id", INT),
            ("teacher_confidence", FLOAT),
            ("weight", FLOAT),
        ]
    )
)
PROMISED = {
    "video_id": TEXT,
    "uri": TEXT,
    "corpus": TEXT,
    "video_version": TEXT,
    "source_group": TEXT,
    "run_id": TEXT,
    "shard_id": TEXT,
    "attempt_id": TEXT,
    "model_version": TEXT,
    "run_date": pa.date32(),
    "fingerprint": TEXT,
    "labeled_at": pa.timestamp("us", tz="UTC"),
    "status": TEXT,
    "error_kind": TEXT,
    "error_message": TEXT,
    "coverage": FLOAT,
    "label_id": INT,
    "label": TEXT,
    "confidence": FLOAT,
    "top_labels": TOP_LABELS,
    "decided_by": TEXT,
    "escalated": pa.bool_(),
    "audited": pa.bool_(),
    "student_label_id": INT,
    "student_confidence": FLOAT,
    "teacher_label_id": INT,
    "duration_seconds": DOUBLE,
    "fps": FLOAT,
    "width": INT,
    "height": INT,
    "codec": TEXT,
    "size_bytes": LONG,
    "clips": CLIPS,
    "clips_planned": INT,
    "clips_student": INT,
    "clips_teacher": INT,
    "clips_unfunded": INT,
    "frames_decoded": LONG,
    "frames_used": LONG,
    "frames_corrupt": LONG,
    "packets_read": LONG,
    "packets_damaged": LONG,
    "bytes_read": LONG,
    "read_requests": LONG,
    "student_flops": LONG,
    "teacher_flops": LONG,
    "dense_teacher_flops": LONG,
    "decode_cpu_seconds": DOUBLE,
    "dense_decode_cpu_seconds": DOUBLE,
    "student_seconds": DOUBLE,
    "teacher_seconds": DOUBLE,
    "gpu_seconds": DOUBLE,
    "wall_seconds": DOUBLE,
    "audit_flops": LONG,
    "audit_seconds": DOUBLE,
    "device": TEXT,
    "decoder": TEXT,
    "decode_mode": TEXT,
    "decode_fallback": TEXT,
    "cost_usd": DOUBLE,
}


def _row(outcome: VideoOutcome, prices: PriceTable | None = None) -> dict[str, Any]:
    table = outcomes_to_table([outcome], context("r1", "s1", prices=prices))
    assert table.schema == PREDICTION_SCHEMA
    table.validate(full=True)
    (row,) = table.to_pylist()
    return row


def test_the_table_has_the_promised_columns_and_types():
    assert {field.name: field.type for field in PREDICTION_SCHEMA} == PROMISED
    assert PREDICTION_SCHEMA.names == list(PROMISED)


def test_a_labeled_video_keeps_every_fact():
    row = _row(prediction(video("v1")))
    assert row["status"] == "labeled"
    assert (row["error_kind"], row["error_message"], row["teacher_label_id"], row["cost_usd"]) == (None,) * 4
    assert (row["video_id"], row["uri"], row["video_version"], row["size_bytes"]) == (
        "v1",
        "/videos/v1.mp4",
        "10-1",
        10,
    )
    assert (row["run_id"], row["shard_id"], row["attempt_id"]) == ("r1", "s1", "attempt-1")
    assert (row["corpus"], row["model_version"], row["run_date"]) == ("films", MODEL_VERSION, RUN_DATE)
    assert (row["fingerprint"], row["labeled_at"]) == (FINGERPRINT, NOON)
    assert (row["label_id"], row["label"], row["confidence"], row["coverage"]) == (1, "run", 0.75, 1.0)
    assert row["top_labels"][1] == {"label_id": 0, "label": "sit", "probability": 0.25}
    assert (row["decided_by"], row["escalated"], row["audited"]) == ("both", True, False)
    assert (row["student_label_id"], row["student_confidence"]) == (1, 0.625)
    assert (row["clips_planned"], row["clips_student"], row["clips_teacher"]) == (3, 2, 1)
    assert (row["duration_seconds"], row["fps"], row["width"], row["height"]) == (2.5, 25.0, 320, 240)
    assert (row["codec"], row["device"], row["decoder"]) == ("h264", "cpu", "pyav-1")
    not_audited = {"audit_flops": None, "audit_seconds": None}
    expected = {name: getattr(COST, name) for name in COST.__slots__} | not_audited
    assert {name: row[name] for name in COST.__slots__} == expected


def test_an_audited_video_tells_the_teachers_answer_and_what_it_took():
    outcome = prediction(replace(video("v1"), group="tape 7"))
    cost = replace(COST, audit_flops=5, audit_seconds=0.5)
    row = _row(replace(outcome, audit=VideoAudit(teacher_label_id=2, confidences=(0.5, 0.75)), cost=cost))
    assert (row["audited"], row["teacher_label_id"], row["source_group"]) == (True, 2, "tape 7")
    assert (row["audit_flops"], row["audit_seconds"]) == (5, 0.5)


def test_an_audit_that_failed_is_none_but_what_it_took_is_told():
    failed = VideoAudit(teacher_label_id=None, confidences=())
    row = _row(replace(prediction(video("v1")), audit=failed, cost=replace(COST, audit_seconds=0.5)))
    assert (row["audited"], row["teacher_label_id"], row["status"]) == (False, None, "labeled")
    assert (row["audit_flops"], row["audit_seconds"]) == (0, 0.5)
    assert [_row(failure(video("v1")))[name] for name in ("audit_flops", "audit_seconds")] == [None, None]


def test_how_a_video_was_read_is_told_once_it_is_known():
    assert (_row(prediction(video("v1")))["decode_mode"], _row(failure(video("v1")))["decode_fallback"]) == (None, None)
    fallback = "the index\udcff is missing"
    for outcome in (prediction(video("v1")), failure(video("v1"))):
        row = _row(replace(outcome, decode_mode="sequential", decode_fallback=fallback))
        assert (row["decode_mode"], row["decode_fallback"]) == ("sequential", "the index\\udcff is missing")


def test_a_clip_keeps_every_fact():
    first, second = _row(prediction(video("v1")))["clips"]
    assert first == {
        "clip_index": 0,
        "start_seconds": 0.0,
        "end_seconds": 1.0,
        "scored_by": "student",
        "student_label_id": 1,
        "student_confidence": 0.75,
        "q_teacher": 0.5,
        "q_student": 0.875,
        "teacher_label_id": None,
        "teacher_confidence": None,
        "weight": 0.25,
    }
    assert (second["teacher_label_id"], second["teacher_confidence"]) == (1, 0.875)


def test_a_partial_video_says_what_was_lost_and_has_a_label():
    row = _row(prediction(video("v1"), Damage(error_kind="decode_error", message="cut")))
    assert (row["status"], row["error_kind"], row["error_message"]) == ("partial", "decode_error", "cut")
    assert (row["coverage"], row["label"]) == (0.5, "run")


def test_a_failed_video_has_a_row_without_a_label():
    row = _row(failure(video("v1", size_bytes=None)))
    assert (row["status"], row["error_kind"], row["error_message"]) == ("failed", "not_found", "does not exist")
    assert (row["coverage"], row["escalated"], row["clips_planned"], row["wall_seconds"]) == (0.0, False, 0, 0.5)
    absent = ["label_id", "label", "confidence", "top_labels", "decided_by", "clips", "fps", "codec", "size_bytes"]
    assert [row[name] for name in absent] == [None] * len(absent)


def test_rows_come_by_id_whatever_the_order_of_the_outcomes():
    outcomes = [failure(video("b")), prediction(video("c")), prediction(video("a"))]
    table = outcomes_to_table(outcomes, context("r1", "s1"))
    assert table.column("video_id").to_pylist() == ["a", "b", "c"]
    assert table.column("status").to_pylist() == ["labeled", "failed", "labeled"]


def test_a_price_table_fills_the_cost():
    prices = PriceTable(usd_per_gpu_hour=3.0, usd_per_cpu_hour=0.5)
    assert _row(prediction(video("v1")), prices)["cost_usd"] == pytest.approx(price_usd(COST, "cpu", prices))
