"""Cut the videos of a run into shards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.types import Shard, VideoRef
from storage.run_store import make_shard

ASSUMED_VIDEO_BYTES = 8 * 2**20
"""Stands in for a size that nobody told."""
LEAST_VIDEOS, MOST_VIDEOS, SHARDS_OF_A_LARGE_RUN = 64, 512, 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingSettings:
    """How many videos are processed and committed together."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    videos_per_shard: int | None = None
    """By default 64; in large corpora as many as make 4096 shards of the run, at most 512: what a run costs besides
    labeling goes by the shard, what a worker's death costs goes by the videos in one."""
    bytes_per_shard: int = 4 * 2**30
    """A shard is closed before it would exceed this; one larger video is a shard of its own."""

    def __post_init__(self) -> None:
        if (self.videos_per_shard is not None and self.videos_per_shard < 1) or self.bytes_per_shard < 1:
            raise ValueError("videos_per_shard and bytes_per_shard must be at least 1")

    def videos_in_each(self, videos: int) -> int:
        """Return how many videos a shard of a run of so many holds at most."""
        if self.videos_per_shard is not None:
            return self.videos_per_shard
        return min(max(math.ceil(videos / SHARDS_OF_A_LARGE_RUN), LEAST_VIDEOS), MOST_VIDEOS)


def cut_shards(videos: Sequence[VideoRef], sharding: ShardingSettings, fingerprint: str) -> tuple[Shard, ...]:
    """Cut the videos, in ascending order of id, into shards that follow one another.

    Shards are ranges of ids, so that their objects, one after another, are already sorted for publishing.
    """
    shards: list[Shard] = []
    members: list[VideoRef] = []
    members_bytes = 0
    most = sharding.videos_in_each(len(videos))
    for video in sorted(videos, key=lambda video: video.video_id):
        video_bytes = ASSUMED_VIDEO_BYTES if video.size_bytes is None else video.size_bytes
        full = len(members) == most or members_bytes + video_bytes > sharding.bytes_per_shard
        if members and full:
            shards.append(make_shard(members, fingerprint))
            members, members_bytes = [], 0
        members.append(video)
        members_bytes += video_bytes
    if members:
        shards.append(make_shard(members, fingerprint))
    return tuple(shards)
