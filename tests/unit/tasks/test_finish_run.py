from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from run_builders import NOON, header

from cdmodel.cost import ComputeCost
from cdmodel.types import ShardReceipt
from tasks.finish_run import RunTotals, add_up, saved_flops_share, saved_seconds_share, summarise

COST = ComputeCost(
    frames_decoded=10,
    bytes_read=1000,
    student_flops=10,
    teacher_flops=30,
    dense_teacher_flops=100,
    decode_cpu_seconds=3.0,
    dense_decode_cpu_seconds=2.0,
    student_seconds=1.0,
    teacher_seconds=4.0,
    gpu_seconds=2.0,
)
RECEIPT = ShardReceipt(
    run_id="r1",
    shard_id="s1",
    attempt_id="attempt-1",
    fingerprint="f0",
    videos_labeled=3,
    videos_partial=2,
    videos_failed=1,
    clips_planned=9,
    clips_student=8,
    clips_teacher=2,
    cost=COST,
    committed_at=NOON,
)
HEADER = replace(header("r1", [], at=NOON), videos=6, videos_skipped=4)


def test_receipts_add_up():
    totals = add_up([RECEIPT, replace(RECEIPT, shard_id="s2")])
    assert (totals.videos_labeled, totals.videos_partial, totals.videos_failed) == (6, 4, 2)
    assert (totals.clips_planned, totals.clips_student, totals.clips_teacher) == (18, 16, 4)
    assert totals.cost == COST + COST


def test_no_receipt_is_zero():
    totals = add_up([])
    assert totals.cost == ComputeCost()
    assert (totals.videos_labeled, totals.clips_planned) == (0, 0)


def test_the_saved_share_of_flops_is_what_the_dense_teacher_would_have_taken_more():
    assert saved_flops_share(COST) == pytest.approx(0.6)
    assert saved_flops_share(ComputeCost()) is None


def test_the_saved_share_of_seconds_counts_decoding_on_both_sides():
    # 9 clips at 2 s each and 2 s of decoding, against the 8 s that were spent.
    assert saved_seconds_share(add_up([RECEIPT])) == pytest.approx(1 - 8 / 20)


def test_the_saved_share_of_seconds_is_unknown_where_the_teacher_never_ran():
    totals: RunTotals = replace(add_up([RECEIPT]), clips_teacher=0)
    assert saved_seconds_share(totals) is None


def test_the_row_of_a_run_says_what_it_did_and_leaves_out_what_it_did_not_measure():
    record = summarise(
        HEADER,
        add_up([RECEIPT]),
        ended_at=NOON + timedelta(minutes=1),
        config_json='{"a": 1}',
        code_version="v1",
        retry_cost=1.5,
    )
    assert record.retry_cost == 1.5
    assert (record.run_id, record.flow, record.status, record.code_version) == ("r1", "label", "completed", "v1")
    assert (record.started_at, record.ended_at) == (NOON, NOON + timedelta(minutes=1))
    assert (record.videos_planned, record.videos_labeled, record.videos_partial) == (6, 3, 2)
    assert (record.videos_failed, record.videos_skipped, record.config_json) == (1, 4, '{"a": 1}')
    assert (record.bytes_read, record.student_flops, record.gpu_seconds) == (1000, 10, 2.0)
    assert record.saved_flops_share == pytest.approx(0.6)
    assert (record.cost_usd, record.audit_agreement, record.slowest_stage) == (None,) * 3


def test_the_price_of_a_run_is_that_of_its_shards_and_unknown_where_one_was_labeled_without_prices():
    cheap, dear = replace(RECEIPT, cost_usd=0.25), replace(RECEIPT, shard_id="s2", cost_usd=2.0)
    assert add_up([cheap, dear]).cost_usd == pytest.approx(2.25)
    assert add_up([cheap, RECEIPT]).cost_usd is None
