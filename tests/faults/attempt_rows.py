"""What one attempt at a shard writes: rows that say which attempt they are from. Imports neither torch nor a decoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from run_builders import failure, prediction

from cdmodel.errors import ErrorKind
from cdmodel.types import Shard, VideoOutcome, VideoRef
from storage.filesystem import Store
from storage.prediction_schema import RowContext
from storage.run_store import RunHeader, commit_shard, committed_shards, iter_shards


def label_pending(
    store: Store, header: RunHeader, attempt: int, now: datetime, fails: Mapping[str, ErrorKind], decoder: str
) -> None:
    """Label the shards that are not committed."""
    done = committed_shards(store, header.run_id)
    for shard in iter_shards(store, header.run_id):
        if shard.shard_id not in done:
            rows = outcomes_of(shard, attempt, now, fails, decoder)
            commit_shard(store, rows, context_of(header, shard, attempt), now)


def publish_in_small_files(patches: pytest.MonkeyPatch) -> None:
    """Let a published file hold two rows."""
    patches.setattr("storage.publish.ROWS_PER_GROUP", 2)
    patches.setattr("storage.publish.FILE_BYTES", 1)


def outcomes_of(
    shard: Shard, attempt: int, now: datetime, fails: Mapping[str, ErrorKind], decoder: str
) -> list[VideoOutcome]:
    """Label a shard's videos, each attempt a little differently; those that fail do so for their reason."""
    return [_outcome(video, attempt, now, fails, decoder) for video in shard.videos]


def context_of(header: RunHeader, shard: Shard, attempt: int) -> RowContext:
    return RowContext(
        run_id=header.run_id,
        shard_id=shard.shard_id,
        attempt_id=f"attempt-{attempt}",
        corpus=header.corpus,
        model_version=header.model_version,
        run_date=header.run_date,
        fingerprint=header.fingerprint,
        prices=None,
    )


def score_of(attempt: int) -> float:
    """Return the confidence in every row of an attempt; exact in float32."""
    return attempt / 1024


def _outcome(
    video: VideoRef, attempt: int, now: datetime, fails: Mapping[str, ErrorKind], decoder: str
) -> VideoOutcome:
    kind = fails.get(Path(video.uri).stem)
    if kind is not None:
        return replace(failure(video, now), error_kind=kind, decoder=decoder)
    return replace(prediction(video, at=now), student_confidence=score_of(attempt))
