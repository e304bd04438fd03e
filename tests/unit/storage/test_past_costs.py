from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from run_builders import (
    FINGERPRINT,
    NOON,
    context,
    failure,
    plan_run,
    prediction,
    publish_and_finish,
    shards_of,
    video,
)

from cdmodel.cost import ComputeCost
from storage.filesystem import Store, open_store
from storage.past_costs import read_past_seconds
from storage.run_store import commit_shard, list_runs

SOURCE = "/videos"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _label(
    store: Store, run_id: str, seconds: Mapping[str, float], at: datetime = NOON, fingerprint: str = FINGERPRINT
) -> None:
    """Finish a run whose videos took so long, by id; a negative time is a failure."""
    [shard] = shards_of([video(name) for name in seconds], fingerprint=fingerprint)
    plan_run(store, run_id, [shard], at=at, fingerprint=fingerprint)
    outcomes = [
        replace(
            (prediction if taken >= 0 else failure)(member, at=at),
            cost=ComputeCost(decode_cpu_seconds=taken / 2, student_seconds=taken / 4, teacher_seconds=taken / 4),
        )
        for member, taken in zip(shard.videos, seconds.values(), strict=True)
    ]
    commit_shard(store, outcomes, context(run_id, shard.shard_id, fingerprint=fingerprint), at)
    publish_and_finish(store, run_id, at)


def test_a_video_is_remembered_by_id_and_version_whatever_labeled_it(store: Store):
    _label(store, "r1", {"a": 4.0, "b": 8.0, "c": -1.0}, fingerprint="0" * 16)
    planned = [video("new"), video("b"), video("a", version="11-1"), video("c")]
    found = read_past_seconds(store, planned, list_runs(store), SOURCE)
    assert found is not None
    assert np.array_equal(found, [np.nan, 8.0, np.nan, np.nan], equal_nan=True)


def test_the_latest_run_counts(store: Store):
    _label(store, "r2", {"a": 4.0}, NOON + timedelta(days=1))
    _label(store, "r1", {"a": 9.0, "b": 3.0})
    found = read_past_seconds(store, [video("a"), video("b")], list_runs(store), SOURCE)
    assert found is not None
    assert found.tolist() == [4.0, 3.0]


def test_a_few_new_videos_are_not_looked_for_in_a_large_archive(store: Store):
    _label(store, "r1", {f"{n}": 1.0 for n in range(5)})
    _label(store, "r2", {"5": 1.0}, NOON + timedelta(days=1))
    assert read_past_seconds(store, [video("1"), video("6")], list_runs(store), SOURCE) is None
    assert read_past_seconds(store, [video("1"), video("5")], list_runs(store), SOURCE) is not None


def test_another_source_tells_nothing(store: Store):
    _label(store, "r1", {"a": 4.0})
    assert read_past_seconds(store, [video("a")], list_runs(store), "/others") is None
    assert read_past_seconds(store, [], list_runs(store), SOURCE) is None
