from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from cdmodel.types import VideoRef
from tasks.sharding import ASSUMED_VIDEO_BYTES, ShardingSettings, cut_shards

FINGERPRINT = "f0f0f0f0f0f0f0f0"
EXAMPLES = 50


def _videos() -> st.SearchStrategy[list[VideoRef]]:
    video = st.builds(
        VideoRef,
        video_id=st.text(min_size=1, max_size=6),
        uri=st.just("/videos/a.mp4"),
        video_version=st.sampled_from(["10-1", "10-2"]),
        size_bytes=st.none() | st.integers(0, 4 * ASSUMED_VIDEO_BYTES),
    )
    return st.lists(video, max_size=40, unique_by=lambda video: video.video_id)


def _sharding() -> st.SearchStrategy[ShardingSettings]:
    return st.builds(
        ShardingSettings,
        videos_per_shard=st.integers(1, 10),
        bytes_per_shard=st.integers(1, 8 * ASSUMED_VIDEO_BYTES),
    )


@settings(max_examples=EXAMPLES, deadline=None)
@given(videos=_videos(), sharding=_sharding())
def test_shards_are_a_partition_in_ascending_order(videos: list[VideoRef], sharding: ShardingSettings):
    shards = cut_shards(videos, sharding, FINGERPRINT)
    assert [video for shard in shards for video in shard.videos] == sorted(videos, key=lambda video: video.video_id)
    assert all(shard.videos for shard in shards)
    assert len({shard.shard_id for shard in shards}) == len(shards)


@settings(max_examples=EXAMPLES, deadline=None)
@given(videos=_videos(), sharding=_sharding())
def test_a_shard_never_exceeds_its_limits_unless_one_video_does(videos: list[VideoRef], sharding: ShardingSettings):
    for shard in cut_shards(videos, sharding, FINGERPRINT):
        sizes = [ASSUMED_VIDEO_BYTES if video.size_bytes is None else video.size_bytes for video in shard.videos]
        assert len(sizes) <= sharding.videos_per_shard
        assert len(sizes) == 1 or sum(sizes) <= sharding.bytes_per_shard


@settings(max_examples=EXAMPLES, deadline=None)
@given(videos=_videos(), sharding=_sharding(), seed=st.integers(0, 2**32))
def test_shards_do_not_depend_on_the_order_of_the_listing(
    videos: list[VideoRef], sharding: ShardingSettings, seed: int
):
    shuffled = random.Random(seed).sample(videos, len(videos))
    assert cut_shards(shuffled, sharding, FINGERPRINT) == cut_shards(videos, sharding, FINGERPRINT)


@settings(max_examples=EXAMPLES, deadline=None)
@given(videos=_videos(), sharding=_sharding())
def test_other_work_on_the_same_videos_has_other_shard_ids(videos: list[VideoRef], sharding: ShardingSettings):
    ours = {shard.shard_id for shard in cut_shards(videos, sharding, FINGERPRINT)}
    others = {shard.shard_id for shard in cut_shards(videos, sharding, "0" * 16)}
    assert not ours & others
