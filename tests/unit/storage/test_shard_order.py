from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_builders import FINGERPRINT, plan_run, video

from cdmodel.types import Shard
from storage.filesystem import Store, open_store
from storage.run_layout import plan_name
from storage.run_store import iter_shards, make_shard
from storage.shard_order import ShardCost, count_videos, cut_waves, iter_dearest_first

SHARES = [0.1, 0.3, 0.1, 0.4, 0.1]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def shards(store: Store) -> tuple[Shard, ...]:
    shards = tuple(make_shard([video(f"{n}")], FINGERPRINT, share) for n, share in enumerate(SHARES))
    plan_run(store, "r1", shards)
    return shards


def _places(shards: tuple[Shard, ...], given: list[Shard]) -> list[int]:
    return [shards.index(shard) for shard in given]


def test_the_dearest_shard_goes_out_first_and_equal_ones_in_the_order_of_the_plan(store: Store, shards):
    assert _places(shards, list(iter_dearest_first(store, "r1"))) == [3, 1, 0, 2, 4]


def test_the_order_is_the_same_in_many_waves_as_in_one(store: Store, shards, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("storage.shard_order.WAVE_VIDEOS", 1)
    monkeypatch.setattr("storage.run_store.PLAN_ROWS_PER_BATCH", 2)
    assert _places(shards, list(iter_dearest_first(store, "r1"))) == [3, 1, 0, 2, 4]


def test_a_resumed_run_goes_on_in_the_same_order(store: Store, shards):
    done = frozenset({shards[3].shard_id, shards[0].shard_id})
    assert _places(shards, list(iter_dearest_first(store, "r1", done))) == [1, 2, 4]
    assert count_videos(store, "r1", done) == 2
    assert list(iter_dearest_first(store, "r1", frozenset(shard.shard_id for shard in shards))) == []


def test_the_shards_of_a_plan_that_knows_no_costs_keep_their_order(store: Store, shards):
    path = Path(store.root) / plan_name("r1")
    plan = pq.read_table(path)
    pq.write_table(plan.drop_columns(["shard_share"]), path)
    assert [shard.shard_id for shard in iter_dearest_first(store, "r1")] == [shard.shard_id for shard in shards]
    assert {shard.expected_share for shard in iter_shards(store, "r1")} == {None}


def test_waves_hold_like_numbers_of_videos_and_are_few(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("storage.shard_order.WAVE_VIDEOS", 10)
    costs = [ShardCost(shard_id=str(n), videos=1 + n % 3, expected_share=n / 1000) for n in range(1000)]
    waves = cut_waves(costs)
    assert [cost for wave in waves for cost in wave] == sorted(costs, key=lambda cost: -cost.expected_share)
    assert len(waves) <= 16
    assert max(sum(cost.videos for cost in wave) for wave in waves) <= 2000 / 16 + 3
    assert cut_waves([]) == []
