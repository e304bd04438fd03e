"""What a run will take, from measured videos: real ones of a tiny bundle, and invented costs where figures must be known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from cdmodel.budget import BudgetSettings
from cdmodel.bundle import model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.cost import ComputeCost, PriceTable
from cdmodel.decode_limits import DecodeLimits
from cdmodel.errors import ConfigError
from cdmodel.policies import DenseTeacher, Gain
from cdmodel.sampling import ClipSampling
from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from cdmodel.types import Shard, VideoRef
from tasks.label_shard import LabelingSpec
from tasks.sample_run import RunSetting, estimate_run, estimate_scouted, plan_sample
from tasks.sample_video import MeasuredVideo, ScoutedVideo, measure_video, scout_video
from tasks.scouted_costs import choose_labeled
from tasks.worker_models import WorkerModels

SETTING = RunSetting(workers=2, model_threads=1, startup_seconds=10.0, prices=None)
COST = ComputeCost(
    student_flops=10,
    teacher_flops=40,
    dense_teacher_flops=100,
    decode_cpu_seconds=1.0,
    student_seconds=0.5,
    teacher_seconds=2.0,
    wall_seconds=4.0,
)


def shards_of(sizes: Sequence[int | None], videos_per_shard: int = 4) -> list[Shard]:
    videos = [
        VideoRef(video_id=f"v{n:03d}", uri=f"/v{n}", video_version="1", size_bytes=size) for n, size in enumerate(sizes)
    ]
    starts = range(0, len(videos), videos_per_shard)
    return [Shard(shard_id=str(start), videos=tuple(videos[start : start + videos_per_shard])) for start in starts]


def measured(video: VideoRef, cost: ComputeCost = COST, device: str = "cpu") -> MeasuredVideo:
    return MeasuredVideo(
        video_id=video.video_id,
        failed=False,
        cost=cost,
        device=device,
        worker="here:1",
        peak_bytes=500,
        core_wait_seconds=0.25,
    )


def test_equal_videos_add_up_and_their_shards_share_the_workers():
    plan = plan_sample(shards_of([100] * 12), 4, seed=0)
    found = estimate_run(plan, [measured(video) for video in reversed(plan.videos)], SETTING)
    assert (found.sampled_videos, found.sampled_failures) == (4, 0)
    assert found.cpu_seconds.value == pytest.approx(12 * 3.5)
    assert found.teacher_flops.high == pytest.approx(480)
    # Three shards of 16 s for two workers: one of them does two.
    assert found.wall_seconds.value == pytest.approx(10.0 + 32.0 + found.publish_seconds)
    assert found.peak_memory_bytes == 1000
    assert found.slowest_stage == "teacher"
    assert found.stage_seconds["read"].value == pytest.approx(12 * (4.0 - 3.5 - 0.25))
    assert found.usd is None


def test_models_that_run_on_several_threads_take_less_wall_time_than_cpu_time():
    plan = plan_sample(shards_of([100] * 12), 4, seed=0)
    found = estimate_run(plan, [measured(video) for video in plan.videos], replace(SETTING, model_threads=4))
    assert found.stage_seconds["teacher"].value == pytest.approx(12 * 0.5)
    assert found.slowest_stage == "read"


def test_a_gpu_is_paid_for_by_its_name():
    plan = plan_sample(shards_of([100] * 12), 4, seed=0)
    cost = replace(COST, gpu_seconds=2.5)
    prices = PriceTable(devices={"cuda:NVIDIA L4": 3600.0}, usd_per_cpu_hour=0.0)
    on_gpu = [measured(video, cost, "cuda:NVIDIA L4") for video in plan.videos]
    found = estimate_run(plan, on_gpu, replace(SETTING, prices=prices))
    assert found.usd is not None
    assert found.usd.value == pytest.approx(12 * 2.5)
    assert found.cpu_seconds.value == pytest.approx(12 * 1.0)


def test_an_audit_adds_the_teacher_on_the_clips_that_nobody_asked_about():
    plan = plan_sample(shards_of([100] * 12), 4, seed=0)
    sample = [measured(video) for video in plan.videos]
    without = estimate_run(plan, sample, SETTING)
    found = estimate_run(plan, sample, replace(SETTING, audit_share=0.1))
    assert without.audit_flops.value == 0.0
    assert found.audit_flops.value == pytest.approx(12 * 6)
    # At the teacher's own pace: 2 s for 40 FLOPs.
    assert found.cpu_seconds.value - without.cpu_seconds.value == pytest.approx(12 * 0.3)
    assert found.wall_seconds.value - without.wall_seconds.value == pytest.approx(8 * 0.3)


def test_sizes_that_the_listing_does_not_know_are_no_hindrance():
    plan = plan_sample(shards_of([100, None] * 6), 4, seed=0)
    found = estimate_run(plan, [measured(video) for video in plan.videos], SETTING)
    assert found.cpu_seconds.value == pytest.approx(12 * 3.5)


def test_a_sample_larger_than_the_corpus_is_all_of_it_and_one_video_is_none():
    plan = plan_sample(shards_of([100, 200, 300]), 50, seed=0)
    assert sorted(video.video_id for video in plan.videos) == ["v000", "v001", "v002"]
    with pytest.raises(ConfigError, match="at least 2"):
        plan_sample(shards_of([100, 200, 300]), 1, seed=0)


STUDENT_COST = replace(COST, teacher_flops=0, teacher_seconds=0.0, wall_seconds=2.0)
"""Of a video of whose ten clips four go to the teacher: ``COST`` is the whole."""


def scouted(video: VideoRef, clips_wanted: int = 4) -> ScoutedVideo:
    return ScoutedVideo(measured=measured(video, STUDENT_COST), clips_wanted=clips_wanted, teacher_flops_per_clip=10)


def test_the_student_tells_what_the_teacher_is_asked_and_few_videos_what_that_takes():
    plan = plan_sample(shards_of([100] * 40), 20, seed=0)
    # Every fourth of the scouted videos has something for the teacher.
    looks = [scouted(video, 4 if place % 4 == 0 else 0) for place, video in enumerate(plan.videos)]
    chosen = choose_labeled(looks, 2, seed=0)
    assert len(chosen) == 2
    assert chosen <= {one.measured.video_id for one in looks if one.clips_wanted}
    labeled = {video.video_id: measured(video) for video in plan.videos if video.video_id in chosen}
    found = estimate_scouted(plan, looks, labeled, SETTING, None)
    assert found.teacher_flops.value == pytest.approx(40 * 40 / 4)
    assert found.teacher_seconds.value == pytest.approx(40 * 2.0 / 4)
    assert found.cpu_seconds.value == pytest.approx(40 * (1.5 + 2.0 / 4))
    assert found.sampled_videos == 20
    assert found.budget_share == 1.0


@pytest.mark.parametrize(
    ("budget", "share"),
    [
        (BudgetSettings(teacher_flops=400), 0.25),
        (BudgetSettings(teacher_gpu_seconds=40.0), 0.5),
        (BudgetSettings(teacher_gpu_seconds=40.0, teacher_flops=400), 0.25),
        (BudgetSettings(usd=40 * 1.5 + 8.0), 0.1),
        (BudgetSettings(usd=1.0), 0.0),
        (BudgetSettings(teacher_flops=1e12), 1.0),
    ],
)
def test_a_budget_pays_for_so_much_and_no_more(budget: BudgetSettings, share: float):
    plan = plan_sample(shards_of([100] * 40), 40, seed=0)
    looks = [scouted(video) for video in plan.videos]
    labeled = {video.video_id: measured(video) for video in plan.videos[:3]}
    setting = replace(SETTING, prices=PriceTable(usd_per_cpu_hour=3600.0))
    found = estimate_scouted(plan, looks, labeled, setting, budget)
    assert found.budget_share == pytest.approx(share)
    assert found.teacher_flops.value == pytest.approx(1600 * share)
    assert found.cpu_seconds.value == pytest.approx(40 * (1.5 + 2.0 * share))


def test_without_a_clip_for_the_teacher_it_costs_nothing():
    plan = plan_sample(shards_of([100] * 12), 12, seed=0)
    looks = [scouted(video, 0) for video in plan.videos]
    assert choose_labeled(looks, 5, seed=0) == frozenset()
    found = estimate_scouted(plan, looks, {}, SETTING, BudgetSettings(teacher_flops=1))
    assert (found.teacher_flops.value, found.teacher_seconds.value, found.budget_share) == (0.0, 0.0, 1.0)


def test_measured_videos_cost_what_they_cost_in_a_run_and_leave_nothing_behind(tmp_path: Path):
    bundle, videos = tmp_path / "bundle", tmp_path / "videos"
    write_tiny_bundle(bundle)
    videos.mkdir()
    (videos / "good.mkv").write_bytes(encode_numbered_clips(3))
    (videos / "broken.mp4").write_bytes(b"no video" * 100)
    manifest = read_manifest(bundle)
    spec = LabelingSpec(
        out=str(tmp_path / "out"),
        run_id="run",
        launch_id="launch",
        run_date=date(2026, 1, 2),
        corpus="videos",
        fingerprint="f1",
        models=WorkerModels(
            bundle=str(bundle), model_version=model_version(manifest), allowed_builders=(), model_threads=None
        ),
        sampling=ClipSampling(),
        cascade=CascadeSettings(policy=DenseTeacher(), aggregation=manifest.default_aggregation),
        limits=DecodeLimits(isolated=False),
        prices=None,
    )
    refs = [
        VideoRef(video_id=path.name, uri=str(path), video_version="1", size_bytes=path.stat().st_size)
        for path in sorted(videos.iterdir())
    ]
    broken, good = (measure_video(video, spec) for video in refs)
    assert (broken.failed, good.failed) == (True, False)
    assert broken.cost.wall_seconds > 0
    assert good.cost.teacher_flops == good.cost.dense_teacher_flops > 0
    assert good.peak_bytes > 2**20
    plan = plan_sample([Shard(shard_id="s", videos=tuple(refs))], 2, seed=0)
    found = estimate_run(plan, [broken, good], SETTING)
    assert (found.sampled_failures, found.teacher_flops.value) == (1, pytest.approx(good.cost.teacher_flops))
    assert found.to_json()["wall_seconds"]["low"] == found.wall_seconds.low
    asking_all = replace(spec, cascade=replace(spec.cascade, policy=Gain(min_gain=-1.0)))
    nothing, look = (scout_video(video, asking_all) for video in refs)
    assert (nothing.measured.failed, nothing.clips_wanted) == (True, 0)
    assert look.clips_wanted * look.teacher_flops_per_clip == good.cost.dense_teacher_flops
    assert look.measured.cost.dense_teacher_flops == good.cost.dense_teacher_flops
    assert (look.measured.cost.teacher_flops, look.measured.cost.student_flops > 0) == (0, True)
    assert not (tmp_path / "out").exists()
