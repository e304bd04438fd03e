from __future__ import annotations

import json
from dataclasses import replace

from run_builders import record_of

from flows.receipt import savings_receipt
from storage.run_record import RunRecord

RECORD = replace(
    record_of("2026-01-01-abc"),
    videos_planned=10,
    videos_labeled=7,
    videos_partial=2,
    videos_failed=1,
    videos_skipped=3,
    clips_planned=200,
    clips_student=200,
    clips_teacher=30,
    bytes_read=2_500_000,
    read_requests=1234,
    student_flops=1_000_000_000,
    teacher_flops=2_000_000_000_000,
    dense_teacher_flops=10_000_000_000_000,
    decode_cpu_seconds=1.25,
    student_seconds=2.0,
    teacher_seconds=3.0,
    saved_flops_share=0.7999,
    saved_seconds_share=0.5,
)


def _cells(record: RunRecord) -> dict[str, str]:
    head, rule, *body = savings_receipt(record).splitlines()
    assert record.run_id in head
    assert set(rule) <= {"|", "-"}
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in body]
    assert all(len(row) == 2 for row in cells)
    return dict(cells)


def test_the_receipt_tells_what_was_labeled_spent_and_saved():
    assert _cells(RECORD) == {
        "videos": "10: 7 labeled, 2 partial, 1 failed; 3 skipped as done before",
        "clips": "200, of which 30 (15.0%) went to the teacher",
        "spent": "2,001.0 GFLOPs",
        "teacher on every clip": "10,000.0 GFLOPs",
        "time": "decode 1.2 s, student 2.0 s, teacher 3.0 s",
        "read": "2.5 MB in 1,234 requests",
        "saved FLOPs": "80.0%",
        "saved seconds": "50.0% (decoding included; estimated from the run's own pace)",
    }


def test_a_price_appears_where_prices_were_given():
    assert _cells(replace(RECORD, cost_usd=0.12345))["price"] == "0.1235 USD"


def test_what_cannot_be_measured_is_not_invented():
    cells = _cells(replace(RECORD, saved_flops_share=None, saved_seconds_share=None))
    assert cells["saved FLOPs"] == "not measurable"
    assert cells["saved seconds"].startswith("not measurable")


def test_a_run_without_a_clip_has_a_receipt_too():
    assert "0 (0.0%)" in _cells(replace(RECORD, clips_planned=0, clips_teacher=0))["clips"]


def test_the_lines_are_aligned_for_a_reader_of_plain_text():
    first_bars = {line.index("|", 1) for line in savings_receipt(RECORD).splitlines()}
    assert len(first_bars) == 1


def test_a_budget_says_what_it_had_room_for():
    budget = '{"teacher_flops": {"limit": 4e12, "spent": 2e12}, "wall_clock": {"limit": 60, "spent": null}}'
    cells = _cells(replace(RECORD, budget_json=budget, clips_unfunded=5, videos_unfunded=2))
    assert cells["budget"] == "teacher_flops 2e+12 of 4e+12, wall_clock 60; 5 clips of 2 videos did not fit"


AUDITED = replace(
    RECORD,
    audit_videos=120,
    audit_groups=40,
    audit_agreement=0.95,
    audit_agreement_low=0.88,
    audit_agreement_high=0.98,
    audit_confidence=0.9,
    audit_ece=0.0512,
    audit_flops=5_000_000_000,
    audit_seconds=12.5,
    saved_flops_share_with_audit=0.7,
)


def test_an_audit_shows_how_often_the_teacher_agrees_and_how_sure_that_is():
    cells = _cells(AUDITED)
    assert cells["agrees with the teacher"] == (
        "95.0% of 120 audited videos of 40 recordings (95 % interval 88.0% to 98.0%)"
    )
    assert cells["confidence"] == "90.0% on average on the audited videos, off by 0.051 (ECE against agreement)"
    assert cells["audit's own cost"] == "5.0 GFLOPs, 12.5 s beyond the above; with it 70.0% of FLOPs saved"


def test_few_audited_videos_are_called_too_few_to_tell():
    settings = '{"audit": {"min_videos": 121}}'
    cell = _cells(replace(AUDITED, audit_groups=None, config_json=settings))["agrees with the teacher"]
    assert cell == "95.0% of 120 audited videos (95 % interval 88.0% to 98.0%); fewer than 121: too few to tell"


def test_drift_is_shown_where_it_is_known():
    assert "drift of confidence" not in _cells(AUDITED)
    cell = _cells(replace(RECORD, student_drift=0.0421, teacher_drift=None))["drift of confidence"]
    assert cell == "student 0.042 (below 0.1 is none, from 0.25 on much)"


def test_alarms_are_shown_with_what_they_are_about_or_as_none():
    assert "alarms" not in _cells(RECORD)
    quiet, loud = (json.dumps({"alarms": {"max_failed_share": limit}}) for limit in (0.2, 0.05))
    assert _cells(replace(RECORD, config_json=quiet))["alarms"] == "none"
    assert _cells(replace(RECORD, config_json=loud))["alarms"] == (
        "failed_share: the share of videos that failed is 0.1, above the limit of 0.05"
    )
