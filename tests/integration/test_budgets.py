"""Runs with a budget on real videos, in one process: the student's stage, the funds, and labeling from both."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from cdmodel.audit_draw import AuditSettings
from cdmodel.budget import BudgetSettings, Unit
from cdmodel.cost import PriceTable
from cdmodel.decode_limits import DecodeLimits
from cdmodel.errors import ConfigError, DamagedObject, RunError
from cdmodel.policies import DenseTeacher, Sequential
from storage.filesystem import open_store
from storage.parquet import open_parquet
from storage.run_layout import pass_name
from storage.run_record import RunRecord
from storage.run_store import committed_shards, iter_shards
from storage.views import run_query
from tasks.finish_run import publish_and_record
from tasks.fund_run import open_funds
from tasks.generate_corpus import generate_corpus
from tasks.label_shard import LabelingSpec, label_shard
from tasks.plan_run import open_run
from tasks.read_status import read_status
from tasks.run_request import LabelingPlan, NothingToDo, RunRequest
from tasks.score_shard import score_shard
from tasks.sharding import ShardingSettings
from tasks.worker_models import WorkerModels

VIDEOS, PER_SHARD = 12, 3
SETTINGS = [pytest.param(number, marks=[pytest.mark.matrix] if number >= 6 else []) for number in range(20)]
PRICES = PriceTable(usd_per_gpu_hour=0.0, usd_per_cpu_hour=3600.0)
"""A dollar a second."""
OF_THE_WORK = (
    "select video_id, status, label, confidence, decided_by, clips, clips_teacher, teacher_flops, student_flops, coverage, "
    "frames_decoded, frames_used, packets_read, read_requests, bytes_read from predictions order by video_id"
)


@pytest.fixture(scope="module")
def films(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("films")
    generate_corpus(str(folder), videos=VIDEOS, seed=11, distractors=0.6, on_progress=lambda done: None)
    (folder / "broken.mp4").write_bytes(b"no video" * 100)
    return folder


def _request(films: Path, out: Path, budget: BudgetSettings | None = None) -> RunRequest:
    return RunRequest(
        source=str(films),
        out=str(out),
        bundle=None,
        sharding=ShardingSettings(videos_per_shard=PER_SHARD),
        config_toml="",
        budget=budget,
    )


def _spec(plan: LabelingPlan, out: Path) -> LabelingSpec:
    return LabelingSpec(
        out=str(out),
        run_id=plan.header.run_id,
        launch_id="launch",
        run_date=date(2026, 1, 2),
        corpus="films",
        fingerprint=plan.header.fingerprint,
        models=WorkerModels(
            bundle=None, model_version=plan.header.model_version, allowed_builders=(), model_threads=None
        ),
        sampling=plan.sampling,
        cascade=plan.cascade,
        limits=DecodeLimits(isolated=False),
        prices=PRICES,
    )


def _publish(plan: LabelingPlan, out: Path, budget: BudgetSettings | None) -> RunRecord:
    return publish_and_record(str(out), plan.header.run_id, config_json="{}", code_version="0", budget=budget)


def _score(plan: LabelingPlan, out: Path) -> None:
    for shard in iter_shards(open_store(str(out)), plan.header.run_id):
        score_shard(shard, _spec(plan, out))


def _label(plan: LabelingPlan, out: Path, budget: BudgetSettings, stop_after: int | None = None) -> RunRecord | None:
    """Label from the student's passes; ``stop_after`` so many shards the command is gone."""
    store, run_id = open_store(str(out)), plan.header.run_id
    done = committed_shards(store, run_id)
    pending = [shard for shard in iter_shards(store, run_id) if shard.shard_id not in done]
    ids = [shard.shard_id for shard in pending]
    funded = open_funds(store, plan.header, ids, budget, PRICES, workers=1, started=time.time())
    for shard in pending[:stop_after]:
        funded.settle(label_shard(shard, _spec(plan, out), funded.allot(shard)))
    return None if stop_after is not None else _publish(plan, out, budget)


@pytest.fixture(scope="module")
def scored(films: Path, tmp_path_factory) -> tuple[LabelingPlan, Path]:
    """A run whose student's stage is over, and where."""
    out = tmp_path_factory.mktemp("scored") / "out"
    plan = open_run(_request(films, out))
    assert isinstance(plan, LabelingPlan)
    _score(plan, out)
    return plan, out


@pytest.fixture(scope="module")
def unlimited(scored: tuple[LabelingPlan, Path], tmp_path_factory) -> tuple[RunRecord, Path]:
    """The same run under a budget that has room for all."""
    plan, out = scored
    copy = shutil.copytree(out, tmp_path_factory.mktemp("unlimited") / "out")
    record = _label(plan, copy, BudgetSettings(teacher_flops=1e18))
    assert record is not None
    return record, copy


def test_with_room_for_all_a_budget_changes_no_row(films, scored, unlimited, tmp_path):
    plan, _ = scored
    for shard in iter_shards(open_store(str(scored[1])), plan.header.run_id):
        plain_out = tmp_path / "plain"
        plain = open_run(_request(films, plain_out))
        assert isinstance(plain, LabelingPlan)
        label_shard(shard, replace(_spec(plain, plain_out), run_id=plain.header.run_id))
    _publish(plain, plain_out, None)
    assert (
        run_query(open_store(str(plain_out)), OF_THE_WORK).rows
        == run_query(open_store(str(unlimited[1])), OF_THE_WORK).rows
    )
    assert (unlimited[0].clips_unfunded, unlimited[0].videos_failed) == (0, 1)


@pytest.mark.parametrize("number", SETTINGS)
def test_no_limit_is_exceeded_by_more_than_a_batch(number: int, scored, unlimited, tmp_path):
    plan, out = scored
    record = unlimited[0]
    rng = np.random.default_rng(number)
    share = float(rng.uniform(0.05, 1.1))
    units: list[Unit] = [["teacher_flops"], ["teacher_gpu_seconds"], ["usd"], ["teacher_flops", "usd"]][number % 4]
    student_usd = record.decode_cpu_seconds + record.student_seconds
    full = {
        "teacher_flops": record.teacher_flops,
        "teacher_gpu_seconds": record.teacher_seconds,
        "usd": record.teacher_seconds,
    }
    limits = {unit: share * full[unit] + (2 * student_usd if unit == "usd" else 0.0) for unit in units}
    copy = shutil.copytree(out, tmp_path / "out")
    budgeted = _label(plan, copy, BudgetSettings(**limits))
    assert budgeted is not None
    batch = 16 * record.teacher_seconds / record.clips_teacher
    for unit, facts in json.loads(budgeted.budget_json or "").items():
        assert facts["limit"] == limits[unit]
        assert facts["spent"] <= facts["limit"] + (0 if unit == "teacher_flops" else batch)
    assert budgeted.clips_teacher + (budgeted.clips_unfunded or 0) == record.clips_teacher
    assert budgeted.videos_labeled == record.videos_labeled


def test_a_run_that_goes_on_spends_what_is_left(scored, unlimited, tmp_path):
    plan, out = scored
    budget = BudgetSettings(teacher_flops=unlimited[0].teacher_flops * 0.6)
    whole, resumed = (shutil.copytree(out, tmp_path / name) for name in ("whole", "resumed"))
    at_once = _label(plan, whole, budget)
    assert _label(plan, resumed, budget, stop_after=2) is None
    later = _label(plan, resumed, budget)
    assert at_once is not None
    assert later is not None
    assert 0 < later.teacher_flops <= unlimited[0].teacher_flops * 0.6
    assert run_query(open_store(str(whole)), OF_THE_WORK).rows == run_query(open_store(str(resumed)), OF_THE_WORK).rows


def test_what_did_not_fit_is_marked_and_labeled_the_next_night_if_asked(films, scored, unlimited, tmp_path):
    plan, out = scored
    copy = shutil.copytree(out, tmp_path / "out")
    tight = BudgetSettings(teacher_flops=unlimited[0].teacher_flops * 0.4)
    first = _label(plan, copy, tight)
    assert first is not None
    marked = run_query(open_store(str(copy)), "select video_id from predictions where clips_unfunded > 0").rows
    assert len(marked) == first.videos_unfunded > 0
    assert isinstance(open_run(_request(films, copy, tight)), NothingToDo)
    again = open_run(_request(films, copy, replace(tight, carry_over=True)))
    assert isinstance(again, LabelingPlan)
    planned = {v.video_id for s in iter_shards(open_store(str(copy)), again.header.run_id) for v in s.videos}
    assert planned == {video_id for (video_id,) in marked}
    _score(again, copy)
    second = _label(again, copy, BudgetSettings(teacher_flops=1e18))
    assert second is not None
    assert second.clips_unfunded == 0
    assert isinstance(open_run(_request(films, copy, replace(tight, carry_over=True))), NothingToDo)


def test_a_student_that_costs_more_than_the_budget_ends_the_run_and_keeps_what_it_said(scored, tmp_path):
    plan, out = scored
    copy = shutil.copytree(out, tmp_path / "out")
    with pytest.raises(RunError, match=r"budget\.usd.*the student alone takes"):
        _label(plan, copy, BudgetSettings(usd=1e-6))
    assert _label(plan, copy, BudgetSettings(teacher_flops=1e18)) is not None


@pytest.mark.parametrize("policy", [DenseTeacher(), Sequential(min_value=0.0)])
def test_a_policy_whose_clips_cannot_be_ranked_before_is_refused(policy, films, tmp_path):
    request = replace(_request(films, tmp_path / "out", BudgetSettings(teacher_flops=1.0)), policy=policy)
    with pytest.raises(ConfigError, match=policy.kind):
        open_run(request)
    assert not (tmp_path / "out").exists()


def test_an_audit_that_would_take_most_of_the_budget_is_left_out(films, tmp_path):
    out = tmp_path / "out"
    plan = open_run(_request(films, out))
    assert isinstance(plan, LabelingPlan)
    store = open_store(str(out))
    shard = next(iter_shards(store, plan.header.run_id))
    score_shard(shard, replace(_spec(plan, out), audit=AuditSettings(share=1.0)))
    for flops, can_audit in ((1000.0, False), (1e18, True)):
        budget = BudgetSettings(teacher_flops=flops)
        funded = open_funds(store, plan.header, [shard.shard_id], budget, PRICES, workers=1, started=time.time())
        assert funded.can_audit == can_audit


def test_a_shard_that_was_committed_after_the_pending_ones_were_listed_is_booked_once(scored, unlimited):
    plan, out = scored
    record, done = unlimited
    shards = [*iter_shards(open_store(str(out)), plan.header.run_id)]
    budget = BudgetSettings(teacher_flops=float(record.teacher_flops))
    allotments = []
    for folder in (out, done):
        ids = [shard.shard_id for shard in shards]
        funded = open_funds(open_store(str(folder)), plan.header, ids, budget, PRICES, workers=1, started=time.time())
        allotments.append([funded.allot(shard) for shard in shards])
    assert allotments[0] == allotments[1]
    assert record.teacher_flops > 0


def test_the_status_counts_what_the_student_has_seen_and_counts_it_once(scored, tmp_path):
    plan, out = scored
    copy = shutil.copytree(out, tmp_path / "out")
    seen = read_status(str(copy), None)
    assert (seen.videos_pending, seen.videos_scored) == (plan.header.videos, plan.header.videos)
    assert seen.cost.student_flops > seen.cost.teacher_flops == 0
    _label(plan, copy, BudgetSettings(teacher_flops=1e18), stop_after=1)
    halfway = read_status(str(copy), None)
    assert halfway.videos_pending == halfway.videos_scored == plan.header.videos - PER_SHARD
    assert halfway.cost.student_flops == seen.cost.student_flops


def test_passes_that_were_changed_are_refused_by_name(scored, tmp_path):
    plan, out = scored
    copy = shutil.copytree(out, tmp_path / "out")
    shard = next(iter_shards(open_store(str(copy)), plan.header.run_id))
    path = copy / pass_name(plan.header.run_id, shard.shard_id)
    content = bytearray(path.read_bytes())
    with open_parquet(open_store(str(copy)), pass_name(plan.header.run_id, shard.shard_id)) as file:
        middle = file.metadata.row_group(0).column(6).data_page_offset + 30
    content[middle] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedObject, match=shard.shard_id):
        _label(plan, copy, BudgetSettings(teacher_flops=1e18))
