"""From published rows to the audit's part of the run's row, and from that row to its alarms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_builders import NOON, context, failure, header, plan_run, prediction, record_of, shards_of, video

from cdmodel.alarms import AlarmSettings
from cdmodel.bundle import DEMO_BUNDLE, model_version, read_manifest
from cdmodel.drift import EDGES, ConfidenceCounts, ConfidenceReference, count_confidences
from cdmodel.types import VideoAudit, VideoOutcome, VideoPrediction
from storage.filesystem import Store, open_store
from storage.publish import publish_run
from storage.run_layout import shard_name
from storage.run_record import RunRecord, read_run_row
from storage.run_store import RECEIPT_KEY, commit_shard, read_receipt
from storage.views import run_query
from tasks.audit_run import alarms_of, audit_figures, find_bundle
from tasks.finish_run import publish_and_record

VIDEOS = 60
WATCH = json.dumps(
    {"audit": {"min_videos": 20}, "alarms": {"min_audit_agreement": 0.9, "max_failed_share": 0.5}, "out": "/out"}
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _outcome(number: int) -> VideoOutcome:
    """Fail every twelfth video, audit every other one of the rest, and have the teacher object to every third of those."""
    of = replace(video(f"v{number:02d}"), group=f"tape {number // 6}")
    if number % 12 == 0:
        return failure(of)
    labeled: VideoPrediction = prediction(of)
    if number % 2:
        return labeled
    says = 0 if number % 6 == 0 else 1
    cost = replace(labeled.cost, audit_flops=10**11, audit_seconds=2.0)
    return replace(labeled, audit=VideoAudit(teacher_label_id=says, confidences=(0.5, 0.99)), cost=cost)


def _label_all(store: Store) -> None:
    outcomes = [_outcome(number) for number in range(VIDEOS)]
    shards = shards_of(*([outcome.video for outcome in outcomes[at : at + 20]] for at in range(0, VIDEOS, 20)))
    plan_run(store, "r1", shards)
    for at, shard in zip(range(0, VIDEOS, 20), shards, strict=True):
        commit_shard(store, outcomes[at : at + 20], context("r1", shard.shard_id), NOON)


def _finish(store: Store, config_json: str = WATCH) -> RunRecord:
    return publish_and_record(store.root, "r1", config_json=config_json, code_version="v1")


def test_the_rows_of_all_shards_become_the_audit_of_the_run(store: Store):
    _label_all(store)
    record = _finish(store)
    audited = [outcome for number in range(VIDEOS) if isinstance(outcome := _outcome(number), VideoPrediction)]
    audited = [outcome for outcome in audited if outcome.audit is not None]
    agreed = [outcome for outcome in audited if outcome.audit and outcome.audit.teacher_label_id == 1]
    assert (record.audit_videos, record.audit_groups) == (len(audited), 10) == (25, 10)
    assert record.audit_agreement == len(agreed) / len(audited) == 20 / 25
    assert record.audit_agreement_low is not None
    assert record.audit_agreement_low < 0.8 < (record.audit_agreement_high or 0) < 0.95
    assert (record.audit_confidence, record.audit_ece) == (0.75, pytest.approx(0.05))
    assert (record.audit_flops, record.audit_seconds) == (25 * 10**11, 50.0)
    assert read_run_row(store, "r1") == record


def test_savings_are_told_without_and_with_what_the_audit_took(store: Store):
    _label_all(store)
    record = _finish(store)
    dense = record.dense_teacher_flops
    assert record.saved_flops_share == 1 - (record.student_flops + record.teacher_flops) / dense
    assert record.saved_flops_share_with_audit == pytest.approx(record.saved_flops_share - 25 * 10**11 / dense)
    assert record.saved_seconds_share is not None
    assert record.saved_seconds_share_with_audit is not None
    assert record.saved_seconds_share_with_audit < record.saved_seconds_share


def test_a_run_without_an_audited_video_has_no_figures_of_it(store: Store):
    shards = shards_of([video("a")])
    plan_run(store, "r1", shards)
    commit_shard(store, [prediction(video("a"))], context("r1", shards[0].shard_id), NOON)
    record = _finish(store)
    assert (record.audit_videos, record.audit_flops, record.audit_seconds) == (0, 0, 0.0)
    assert record.audit_agreement is record.audit_groups is record.audit_ece is record.audit_confidence is None
    assert record.alarms == "", "the failed ones were counted"


def test_the_alarms_are_those_of_the_runs_own_limits(store: Store):
    _label_all(store)
    record = replace(_finish(store), audit_agreement_high=0.89)
    (alarm,) = alarms_of(record) or ()
    assert (alarm.name, alarm.value, alarm.limit) == ("audit_agreement", 0.89, 0.9)
    assert alarms_of(replace(record, audit_videos=19)) == (), "too few to tell"
    assert alarms_of(replace(record, config_json="{}")) is None


def test_the_row_names_the_alarms_that_rang(store: Store):
    _label_all(store)
    limits = {"max_failed_share": 0.05, "min_saved_flops_share": 0.99, "max_audit_ece": 0.5}
    record = _finish(store, json.dumps({"audit": {"min_videos": 1}, "alarms": limits}))
    assert record.alarms == "failed_share,saved_flops_share"


def test_shards_from_before_the_audit_are_published_as_they_are(store: Store):
    _label_all(store)
    for path in (Path(store.root) / "runs/r1/shards").iterdir():
        with pq.ParquetFile(path) as file:
            table = file.read().drop_columns(["source_group", "audit_flops", "audit_seconds"])
        receipt = json.loads(table.schema.metadata[RECEIPT_KEY])
        del receipt["student_confidence"], receipt["teacher_confidence"], receipt["rows_sha256"]
        del receipt["cost"]["audit_flops"], receipt["cost"]["audit_seconds"]
        metadata = {**table.schema.metadata, RECEIPT_KEY: json.dumps(receipt).encode()}
        del metadata[RECEIPT_KEY + b".sha256"]
        pq.write_table(table.replace_schema_metadata(metadata), path)
        assert path.name == shard_name("r1", receipt["shard_id"]).rpartition("/")[2]
        assert read_receipt(store, "r1", receipt["shard_id"]).student_confidence == ConfidenceCounts()
    record = _finish(store)
    assert (record.audit_videos, record.audit_groups, record.audit_flops) == (25, None, 0)


def test_receipts_carry_the_confidences_of_the_student_everywhere_and_of_the_teacher_where_it_saw_all(store: Store):
    _label_all(store)
    publication = publish_run(store, "r1")
    student = sum((receipt.student_confidence for receipt in publication.receipts), ConfidenceCounts())
    teacher = sum((receipt.teacher_confidence for receipt in publication.receipts), ConfidenceCounts())
    assert student == count_confidences([[0.75, 0.5]] * 55)
    assert teacher == count_confidences([[0.5, 0.99]] * 25)


def test_drift_is_measured_against_a_reference_by_the_same_bins(store: Store):
    _label_all(store)
    audited = publish_run(store, "r1").audited
    sure, unsure = count_confidences([[0.9, 0.8]] * 100), count_confidences([[0.4, 0.3]] * 100)
    reference = ConfidenceReference(edges=EDGES, student=sure, teacher=sure)
    figures = audit_figures(audited, sure, unsure, reference)
    assert figures.student_drift == 0.0
    assert (figures.teacher_drift or 0) > 1
    others = replace(reference, edges=EDGES[:-1])
    for unknown in (None, others):
        figures = audit_figures(audited, sure, unsure, unknown)
        assert figures.student_drift is figures.teacher_drift is None


def test_a_reference_is_that_of_the_very_bundle_that_labeled(tmp_path: Path):
    version = model_version(read_manifest(DEMO_BUNDLE))
    ours = replace(header("r1", ()), bundle_uri=str(DEMO_BUNDLE), model_version=version)
    assert find_bundle(ours) == read_manifest(DEMO_BUNDLE)
    assert find_bundle(replace(ours, model_version="m-0123456789ab")) is None
    assert find_bundle(replace(ours, bundle_uri=str(tmp_path / "gone"))) is None


def test_a_configuration_that_names_no_limit_is_silent():
    assert AlarmSettings().is_silent
    assert alarms_of(record_of("r1")) is None


def test_the_questions_of_the_audits_page_have_answers(store: Store):
    _label_all(store)
    _finish(store)
    page = (Path(__file__).parents[3] / "docs" / "audit.md").read_text(encoding="utf-8")
    block = page.partition("```sql\n")[2].partition("```")[0]
    nights, disagreements, labels, recordings, failed = (run_query(store, sql).rows for sql in block.split(";")[:-1])
    assert nights[0][:2] == ("r1", 25)
    assert len(disagreements) == 5
    assert labels == (("run", 25, 0.8),)
    assert {recording for recording, *_ in recordings} == {"tape 1", "tape 3", "tape 5", "tape 7", "tape 9"}
    assert failed == ((0,),)
