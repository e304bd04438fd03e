"""The recording that a video is of, on its way from a corpus to its row."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_builders import FINGERPRINT, NOON, finished_run, plan_run, shards_of, video

from storage.filesystem import Store, open_store
from storage.ledger import failed_videos
from storage.run_layout import plan_name
from storage.run_store import iter_shards, list_runs
from storage.views import run_query


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


VIDEOS = [replace(video("a"), group="tape 7"), video("b")]


def _rewrite_plan(store: Store, change) -> None:
    path = Path(store.root) / plan_name("r1")
    with pq.ParquetFile(path) as file:
        table = file.read()
    pq.write_table(change(table).replace_schema_metadata(table.schema.metadata), path)


def test_a_plan_keeps_the_groups_and_they_do_not_name_the_shard(store: Store):
    grouped = shards_of(VIDEOS)
    assert [shard.shard_id for shard in grouped] == [shard.shard_id for shard in shards_of([video("a"), video("b")])]
    plan_run(store, "r1", grouped)
    assert tuple(iter_shards(store, "r1")) == grouped


def test_plans_of_other_states_are_read_without_what_they_lack_or_have_more(store: Store):
    plan_run(store, "r1", shards_of(VIDEOS))
    _rewrite_plan(store, lambda table: table.drop_columns(["group"]).append_column("mood", pa.array(["calm"] * 2)))
    assert [member.group for shard in iter_shards(store, "r1") for member in shard.videos] == [None, None]


def test_a_row_tells_its_videos_recording_and_a_retry_remembers_it(store: Store):
    fails = replace(video("fails"), group="tape 8")
    finished_run(store, "r1", [*VIDEOS, fails])
    finished_run(store, "r2", [video("fails-too")], at=NOON + timedelta(hours=1))
    rows = run_query(store, "select video_id, source_group from predictions where run_id = 'r1' order by 1").rows
    assert rows == (("a", "tape 7"), ("b", None), ("fails", "tape 8"))
    runs = list_runs(store)
    failed = failed_videos(store, runs, runs[0], FINGERPRINT, ())
    assert [(found.video_id, found.group) for found in failed] == [("fails", "tape 8"), ("fails-too", None)]
