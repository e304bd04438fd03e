"""The bill of an archive: arithmetic that a reader would otherwise have to believe."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from tasks.sharding import ShardingSettings, cut_shards

pytest.importorskip("simpy", reason="the model of a run needs simpy, an extra called bench")
SCRIPT = "archive_bill"
MIB = 2**20
VIDEOS, VIDEOS_PER_SHARD, SECONDS_PER_SHARD = 60, 10, 100.0


@pytest.fixture(scope="module")
def paper(benchmark_module: ModuleType) -> ModuleType:
    return benchmark_module


@pytest.fixture(scope="module")
def night(paper: ModuleType) -> Any:
    """Return two workers that take 100 seconds for each of six shards, and nothing goes wrong."""
    import run_simulation as model

    rates = model.VideoRates(
        decode_seconds_per_video=0.0,
        decode_seconds_per_clip=0.1,
        teacher_decode_seconds_per_video=0.0,
        teacher_decode_seconds_per_clip=0.0,
        student_seconds_per_video=0.0,
        student_seconds_per_clip=0.01,
        teacher_seconds_per_video=0.0,
        teacher_seconds_per_clip=0.0,
        hand_over_seconds=0.0,
    )
    archive = model.draw_archive(model.ArchiveShape(spread=0.0, median_seconds=50.0), rates, VIDEOS, 0)
    shards = cut_shards(archive.videos, ShardingSettings(videos_per_shard=VIDEOS_PER_SHARD), "fingerprint")
    seconds = model.WorkerSeconds(with_look_ahead=SECONDS_PER_SHARD, one_by_one=SECONDS_PER_SHARD)
    known = {shard.shard_id: seconds for shard in shards}
    run = model.simulate(shards, lambda env: model.KnownSeconds(env, known), model.RunSettings(workers=2))
    return paper.Night(archive=archive, shards=shards, known=known, run=run, workers=2, efficiency=1.0)


def sizes(paper: ModuleType) -> Any:
    return paper.Measured(
        dispatch_seconds=0.01, plan_bytes_per_video=50.0, listed_bytes_per_object=400.0, published_bytes_per_clip=20.0
    )


def figures(paper: ModuleType, night: Any, workers_per_gpu: int = 1) -> dict[str, float]:
    lines = paper.bill(
        6000, night, paper.ListPrices(gpu_hour=3.6), sizes(paper), night_hours=8.0, workers_per_gpu=workers_per_gpu
    )
    return {line.name: line.value for line in lines}


def test_a_bill_follows_from_the_shards(paper: ModuleType, night: Any):
    found = figures(paper, night)
    assert found["shards"] == 600
    assert found["clips"] == 6000 * 50
    assert found["GPU hours held"] == pytest.approx(600 * SECONDS_PER_SHARD / 3600)
    assert found["GPU busy"] == pytest.approx(6000 * 50 * 0.01 / 3600)
    assert found["decoding"] == pytest.approx(6000 * 50 * 0.1 / 3600)
    assert found["nights"] == pytest.approx(600 * SECONDS_PER_SHARD / 3600 / 2 / 8)
    assert found["dollars: machines with a GPU"] == pytest.approx(600 * SECONDS_PER_SHARD * 3.6 / 3600)
    assert found["entries of the log of attempts"] == 600 * 11
    assert found["videos blamed for preemptions"] == 0


def test_workers_that_share_a_gpu_share_its_price_and_not_its_work(paper: ModuleType, night: Any):
    one, four = figures(paper, night), figures(paper, night, workers_per_gpu=4)
    assert four["dollars: machines with a GPU"] == pytest.approx(one["dollars: machines with a GPU"] / 4)
    assert four["nights"] == one["nights"]
    assert four["GPU busy"] == one["GPU busy"]


def test_all_dollars_are_the_sum_of_the_dollars(paper: ModuleType, night: Any):
    found = figures(paper, night)
    assert found["dollars"] == pytest.approx(sum(usd for name, usd in found.items() if name.startswith("dollars: ")))


def test_what_ends_first_stands_first(paper: ModuleType, night: Any):
    found = paper.limits(10**8, night, sizes(paper), memory_gib=64.0, hours=8.0)
    headroom = [limit.most / limit.value for limit in found]
    assert headroom == sorted(headroom)
    plan = next(limit for limit in found if "one request" in limit.part)
    assert plan.value == pytest.approx(10**8 * 50 / 2**30)
    assert plan.reached_at == pytest.approx(2 * 2**30 / 50)


@pytest.mark.parametrize(
    ("video_bytes", "requests"), [(0, 1), (32 * MIB, 1), (33 * MIB, 6), (100 * MIB, 10), (415 * 10**6, 28)]
)
def test_a_video_is_read_in_requests_that_double(paper: ModuleType, video_bytes: int, requests: int):
    assert paper.reads_of(video_bytes) == requests


def test_what_was_measured_at_two_sizes_is_met_at_both(paper: ModuleType):
    growth = paper.Growth(videos=(100, 10_000), values=(2.0, 50.0))
    for videos, value in zip(growth.videos, growth.values, strict=True):
        assert growth.as_power(videos) == pytest.approx(value)
        assert growth.as_line(videos) == pytest.approx(value)
    assert growth.as_power(1_000_000) == pytest.approx(1250.0)
