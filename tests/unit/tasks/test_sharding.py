"""Archives whose shards can be told by hand, the odd ones among them."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from cdmodel.expected_cost import expected_shares
from cdmodel.types import Shard, VideoRef
from tasks.sharding import COST_OF_TYPICAL_SHARDS, ShardingSettings, cut_shards

SECOND_BYTES = 100_000
"""Of video."""
HOUR_BYTES = 3600 * SECOND_BYTES


def _videos(sizes: Sequence[int]) -> list[VideoRef]:
    return [
        VideoRef(video_id=f"v{n:05d}", uri=f"/v{n}", video_version="1", size_bytes=size) for n, size in enumerate(sizes)
    ]


def _cut(sizes: Sequence[int], settings: ShardingSettings = ShardingSettings()) -> tuple[Shard, ...]:  # noqa: B008
    return cut_shards(_videos(sizes), settings, "f0")


def _shares(shards: Sequence[Shard]) -> list[float]:
    return [shard.expected_share or 0.0 for shard in shards]


def test_no_videos_make_no_shards():
    assert _cut([]) == ()


def test_ten_thousand_videos_of_a_second_make_shards_of_the_usual_number():
    sizes = np.random.default_rng(0).integers(SECOND_BYTES // 2, 2 * SECOND_BYTES, 10_000).tolist()
    shards = _cut(sizes)
    assert {len(shard.videos) for shard in shards[:-1]} == {64, 16}
    assert 156 < len(shards) < 1.5 * 157
    assert sum(_shares(shards)) == pytest.approx(1.0)


@pytest.mark.parametrize("others", [9, 99, 999])
def test_a_video_of_four_hours_among_short_ones_is_a_shard_of_its_own(others: int):
    sizes = [60 * SECOND_BYTES] * others
    sizes.insert(others // 2, 4 * HOUR_BYTES)
    shards = _cut(sizes)
    [long] = [shard for shard in shards if shard.videos[0].size_bytes == 4 * HOUR_BYTES]
    assert len(long.videos) == 1
    assert max(shards, key=lambda shard: shard.expected_share or 0.0) == long
    assert sum(shard.videos[-1].size_bytes == 4 * HOUR_BYTES for shard in shards) == 1


def test_videos_that_are_all_long_are_cut_by_bytes():
    assert [len(shard.videos) for shard in _cut([HOUR_BYTES] * 110)[:8]] == [11] * 8


@pytest.mark.parametrize(
    ("videos", "shards"), [(1, 1), (8, 1), (13, 2), (64, 8), (100, 8), (512, 8), (640, 10), (300_000, 4055)]
)
def test_a_small_run_has_shards_for_several_workers_and_a_large_one_not_too_many(videos: int, shards: int):
    assert -(-videos // ShardingSettings().videos_in_each(videos)) == shards


def test_a_number_that_was_asked_for_is_the_most_that_a_shard_holds():
    assert [len(shard.videos) for shard in _cut([SECOND_BYTES] * 10, ShardingSettings(videos_per_shard=4))] == [4, 4, 2]


def test_an_eighth_of_a_run_is_in_small_shards_which_are_its_cheapest():
    shards = _cut([SECOND_BYTES] * 6400)
    small = sorted(shards, key=lambda shard: shard.expected_share or 0.0)[:48]
    assert {len(shard.videos) for shard in small} == {16}
    assert {len(shard.videos) for shard in shards if shard not in small} == {64}
    assert sum(_shares(small)) == pytest.approx(0.12)


def test_a_run_of_small_shards_has_no_smaller_ones():
    assert {len(shard.videos) for shard in _cut([SECOND_BYTES] * 30, ShardingSettings(videos_per_shard=3))} == {3}


def test_shards_of_a_skewed_archive_cost_alike_and_are_not_many_more():
    sizes = np.random.default_rng(1).lognormal(16, 1.5, 20_000).astype(int).tolist()
    shards = _cut(sizes)
    limit = COST_OF_TYPICAL_SHARDS * 64 * float(np.median(expected_shares(sizes)))
    assert max(share for share, shard in zip(_shares(shards), shards, strict=True) if len(shard.videos) > 1) <= limit
    assert 20_000 / 64 < len(shards) < 1.8 * 20_000 / 64


def test_what_videos_took_before_decides_where_it_is_known_and_does_not_depend_on_their_order():
    videos = _videos([SECOND_BYTES] * 8)
    past_seconds = [1.0, 1.0, 12.0, 1.0, np.nan, 1.0, 1.0, 1.0]
    shards = cut_shards(videos, ShardingSettings(videos_per_shard=4), "f0", past_seconds)
    assert [len(shard.videos) for shard in shards] == [2, 1, 4, 1]
    order = random.Random(3).sample(range(8), 8)
    shuffled = cut_shards(
        [videos[n] for n in order], ShardingSettings(videos_per_shard=4), "f0", [past_seconds[n] for n in order]
    )
    assert shuffled == shards
