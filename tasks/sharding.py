"""Cut the videos of a run into shards that are expected to cost alike, but for some small ones that fill its end."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from cdmodel.expected_cost import Floats, expected_shares
from cdmodel.setting_groups import FORBID_UNKNOWN
from cdmodel.types import Shard, VideoRef
from storage.run_store import make_shard

ASSUMED_VIDEO_BYTES = 8 * 2**20
"""Stands in for a size that nobody told."""
USUAL_VIDEOS, MOST_VIDEOS, SHARDS_OF_A_LARGE_RUN = 64, 512, 4096
FEWEST_VIDEOS, SHARDS_OF_A_SMALL_RUN = 8, 8
"""A small run has shards for several workers; in shards of fewer videos the next one is seldom decoded ahead."""
COST_OF_TYPICAL_SHARDS = 1.25
"""A shard is closed before it would cost so many times what a full one of typical videos does (of ``FEWEST_VIDEOS``, where
it may hold still fewer): videos that differ as usual shall not make more shards than there would be."""
LAST_SHARE, LAST_ARE_SMALLER, FEWEST_OF_LAST = 1 / 8, 4, 4
"""So much of a run is cut into shards that are so many times smaller, but not of fewer videos than that: the small ones go
out last, and fill what the large ones leave of the workers' time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingSettings:
    """How many videos are processed and committed together."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    videos_per_shard: int | None = None
    """At most, and a quarter of that in the last shards. By default 64; in large corpora as many as make 4096 shards of the
    run, at most 512: what a run costs besides labeling goes by the shard, what a worker's death costs goes by the videos in
    one. In small ones as many as make 8, at least 8, so that several workers have something to do."""
    bytes_per_shard: int = 4 * 2**30
    """A shard is closed before it would exceed this; one larger video is a shard of its own."""

    def __post_init__(self) -> None:
        if (self.videos_per_shard is not None and self.videos_per_shard < 1) or self.bytes_per_shard < 1:
            raise ValueError("videos_per_shard and bytes_per_shard must be at least 1")

    def videos_in_each(self, videos: int) -> int:
        """Return how many videos a shard of a run of so many holds at most."""
        if self.videos_per_shard is not None:
            return self.videos_per_shard
        usual = min(max(math.ceil(videos / SHARDS_OF_A_SMALL_RUN), FEWEST_VIDEOS), USUAL_VIDEOS)
        return min(max(math.ceil(videos / SHARDS_OF_A_LARGE_RUN), usual), MOST_VIDEOS)


def cut_shards(
    videos: Sequence[VideoRef],
    sharding: ShardingSettings,
    fingerprint: str,
    past_seconds_N: ArrayLike | None = None,
) -> tuple[Shard, ...]:
    """Cut the N videos, in ascending order of id, into shards that follow one another and are expected to cost alike.

    Shards are ranges of ids, so that their objects, one after another, are already sorted for publishing. A shard is
    closed when it holds as many videos as it may, or before it would cost much more than so many typical ones; a video
    that does so by itself is a shard of its own. The last ids make smaller shards, for the end of the run. The same videos
    make the same shards, in whatever order they come.

    Args:
        videos: to be labeled.
        sharding: the limits.
        fingerprint: of the work, which is part of a shard's id.
        past_seconds_N: what each video took in an earlier run; NaN where that is not known.
    """
    order_N = sorted(range(len(videos)), key=lambda position: videos[position].video_id)
    ordered = [videos[position] for position in order_N]
    past_N = None if past_seconds_N is None else np.asarray(past_seconds_N, dtype=np.float64)[order_N]
    shares_N = expected_shares([_known_bytes(video) for video in ordered], past_N)
    limits, of_the_last = _limits(sharding, shares_N)
    shards: list[Shard] = []
    members: list[VideoRef] = []
    members_bytes, members_share, share_cut = 0, 0.0, 0.0
    for video, share in zip(ordered, shares_N.tolist(), strict=True):
        video_bytes = ASSUMED_VIDEO_BYTES if video.size_bytes is None else video.size_bytes
        if members and limits.would_be_exceeded(len(members) + 1, members_bytes + video_bytes, members_share + share):
            shards.append(make_shard(members, fingerprint, members_share))
            share_cut += members_share
            limits = limits if share_cut < 1.0 - LAST_SHARE else of_the_last
            members, members_bytes, members_share = [], 0, 0.0
        members.append(video)
        members_bytes += video_bytes
        members_share += share
    if members:
        shards.append(make_shard(members, fingerprint, members_share))
    return tuple(shards)


@dataclass(frozen=True, slots=True)
class _Limits:
    """What a shard may hold."""

    videos: int
    bytes: int
    share: float
    """Of the run's expected cost."""

    def would_be_exceeded(self, videos: int, size_bytes: int, share: float) -> bool:
        return videos > self.videos or size_bytes > self.bytes or share > self.share


def _limits(sharding: ShardingSettings, shares_N: Floats) -> tuple[_Limits, _Limits]:
    """Return the limits for most of a run of N videos, and for its last part."""
    typical_share = float(np.median(shares_N)) if len(shares_N) else 0.0
    most = sharding.videos_in_each(len(shares_N))
    most_of_last = min(max(most // LAST_ARE_SMALLER, FEWEST_OF_LAST), most)
    usual, last = (
        _Limits(videos, sharding.bytes_per_shard, COST_OF_TYPICAL_SHARDS * max(videos, FEWEST_VIDEOS) * typical_share)
        for videos in (most, most_of_last)
    )
    return usual, last


def _known_bytes(video: VideoRef) -> float:
    return math.nan if video.size_bytes is None else video.size_bytes
