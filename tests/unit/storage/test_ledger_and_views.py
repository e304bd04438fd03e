from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from run_builders import (
    FINGERPRINT,
    MODEL_VERSION,
    NOON,
    RUN_DATE,
    context,
    failure,
    finished_run,
    plan_run,
    prediction,
    publish_and_finish,
    shards_of,
    video,
)

from cdmodel.errors import ConfigError, ErrorKind
from cdmodel.failure_policy import FailurePolicy
from cdmodel.types import Damage, VideoRef
from storage.filesystem import Store, open_store
from storage.ledger import WorkLeft, failed_videos, planned_elsewhere, work_left
from storage.prediction_schema import LABEL_NAMES, PREDICTION_SCHEMA
from storage.run_record import RUN_SCHEMA
from storage.run_store import commit_shard, list_runs
from storage.views import read_predictions, run_query

DECODER = "pyav-1"
"""Of all invented rows."""
POLICY = FailurePolicy()
LATER = NOON + timedelta(hours=1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _answer(store: Store, sql: str) -> list[tuple[object, ...]]:
    return list(run_query(store, sql).rows)


def _left(store: Store, videos: Sequence[VideoRef], policy: FailurePolicy = POLICY) -> WorkLeft:
    return work_left(store, videos, list_runs(store), FINGERPRINT, policy, DECODER)


def test_without_a_run_every_video_is_left(store: Store):
    videos = [video("b"), video("a")]
    assert _left(store, videos).videos == tuple(videos)


def test_videos_with_a_row_are_skipped_and_the_others_keep_their_order(store: Store):
    finished_run(store, "r1", [video("a")], [video("b")])
    assert _left(store, [video("c"), video("b"), video("a"), video("d")]).videos == (video("c"), video("d"))


def test_what_failed_in_passing_is_tried_again_and_then_quarantined(store: Store):
    videos = [video("a"), video("b fails")]
    for night in range(3):
        finished_run(store, f"r{night}", videos[night > 0 :], at=NOON + timedelta(days=night))
        left = _left(store, videos)
        again = night < 2
        assert left.videos == ((video("b fails"),) if again else ())
        assert (left.tried_again, left.quarantined) == (frozenset({"b fails"} if again else ()), int(not again))
    assert _left(store, [video("b fails", version="10-2")]).quarantined == 0, "another version is another video"
    later_decoder = work_left(store, videos, list_runs(store), FINGERPRINT, FailurePolicy(), "pyav-2")
    assert later_decoder.tried_again == {"b fails"}


def test_a_failure_that_is_no_passing_one_is_quarantined_at_once(store: Store):
    finished_run(store, "r1", [video("b fails")])
    left = _left(store, [video("b fails"), video("c")], FailurePolicy(retry_kinds=()))
    assert (left.videos, left.quarantined) == ((video("c"),), 1)


def test_what_was_labeled_once_is_done_whatever_came_after(store: Store):
    finished_run(store, "r1", [video("a")])
    shards = shards_of([video("a")])
    plan_run(store, "r2", shards, at=LATER)
    commit_shard(store, [failure(video("a"), LATER)], context("r2", shards[0].shard_id), LATER)
    publish_and_finish(store, "r2", LATER)
    left = _left(store, [video("a")])
    assert (left.videos, left.quarantined) == ((), 0)


@pytest.mark.parametrize(("kind", "again"), [("decode_error", False), ("storage_error", True)])
def test_a_partial_row_is_terminal_unless_what_was_lost_may_come_back(store: Store, kind: ErrorKind, again: bool):
    shards = shards_of([video("a")])
    plan_run(store, "r1", shards)
    partial = prediction(video("a"), Damage(error_kind=kind, message="lost"))
    commit_shard(store, [partial], context("r1", shards[0].shard_id), NOON)
    publish_and_finish(store, "r1")
    assert bool(_left(store, [video("a")]).videos) is again
    run = list_runs(store)[0]
    assert failed_videos(store, [run], run, FINGERPRINT, []) == []
    assert [found.video_id for found in failed_videos(store, [run], run, FINGERPRINT, [kind])] == ["a"]


def test_what_failed_is_found_by_kind_until_it_is_labeled(store: Store):
    finished_run(store, "r1", [video("a"), video("b fails"), video("c fails")])
    run = list_runs(store)[0]
    found = failed_videos(store, [run], run, FINGERPRINT, [])
    assert [(of.video_id, of.uri, of.error_kind) for of in found] == [
        ("b fails", "/videos/b fails.mp4", "not_found"),
        ("c fails", "/videos/c fails.mp4", "not_found"),
    ]
    assert failed_videos(store, [run], run, FINGERPRINT, ["not_found"]) == found
    assert failed_videos(store, [run], run, FINGERPRINT, ["unreadable"]) == []
    shards = shards_of([video("b fails", version="10-2")])
    plan_run(store, "r2", shards, at=LATER)
    mended = prediction(video("b fails", version="10-2"), at=LATER)
    commit_shard(store, [mended], context("r2", shards[0].shard_id), LATER)
    publish_and_finish(store, "r2", LATER)
    assert failed_videos(store, list_runs(store), run, FINGERPRINT, []) == found[1:]
    assert _answer(store, "select video_id, status from latest where video_id = 'b fails'") == [("b fails", "labeled")]


def test_a_changed_video_is_labeled_again(store: Store):
    finished_run(store, "r1", [video("a"), video("b")])
    videos = [video("a", version="10-2"), video("b")]
    assert _left(store, videos).videos == (videos[0],)


def test_rows_of_other_models_do_not_count(store: Store):
    finished_run(store, "r1", [video("a")], fingerprint="0" * 16)
    assert _left(store, [video("a")]).videos == (video("a"),)


def test_videos_of_an_unfinished_run_are_its_own(store: Store):
    finished_run(store, "done", [video("a")])
    plan_run(store, "open", shards_of([video("b")], [video("c")]))
    plan_run(store, "foreign", shards_of([video("d")], fingerprint="0" * 16), fingerprint="0" * 16)
    assert planned_elsewhere(store, list_runs(store), FINGERPRINT) == {"b": "open", "c": "open"}


@pytest.mark.parametrize("view", ["predictions", "latest", "failures", "runs", "clips", "labels"])
def test_before_the_first_run_every_view_is_there_and_empty(store: Store, view: str):
    assert _answer(store, f"select count(*) from {view}") == [(0,)]
    assert not Path(store.root).exists()


def test_columns_are_the_same_before_and_after_the_first_run(store: Store):
    def columns(view: str) -> list[tuple[object, ...]]:
        return _answer(store, f"select column_name, column_type from (describe {view})")

    before = {view: columns(view) for view in ("predictions", "runs", "clips", "labels")}
    finished_run(store, "r1", [video("a")])
    assert {view: columns(view) for view in before} == before
    assert [name for name, _ in before["predictions"]] == [*PREDICTION_SCHEMA.names, *LABEL_NAMES]
    assert [name for name, _ in before["runs"]] == RUN_SCHEMA.names


def test_one_run_is_seen_in_every_view(store: Store):
    finished_run(store, "r1", [video("a")], [video("b fails")])
    rows = _answer(store, "select video_id, status, run_date, model_version from predictions order by video_id")
    assert rows == [("a", "labeled", RUN_DATE, MODEL_VERSION), ("b fails", "failed", RUN_DATE, MODEL_VERSION)]
    assert _answer(store, "select video_id, error_kind from failures") == [("b fails", "not_found")]
    assert _answer(store, "select clip_index, scored_by, video_label from clips order by 1") == [
        (0, "student", "run"),
        (1, "teacher", "run"),
    ]
    assert _answer(store, "select run_id, status, started_at = ended_at from runs") == [("r1", "completed", True)]


def test_latest_is_the_last_answer_of_two_runs(store: Store):
    finished_run(store, "r1", [video("a"), video("b")])
    finished_run(store, "r2", [video("b", version="10-2")], at=LATER)
    assert _answer(store, "select count(*) from predictions") == [(3,)]
    assert _answer(store, "select video_id, run_id from latest order by video_id") == [("a", "r1"), ("b", "r2")]
    assert _answer(store, "select count(*) from runs") == [(2,)]


def test_a_run_that_is_not_finished_is_not_seen(store: Store):
    finished_run(store, "r1", [video("a")])
    done = finished_run(store, "r2", [video("b")], at=LATER)
    (Path(store.root) / "runs/r2/_SUCCESS.json").unlink()
    assert store.exists(done.files[0].name)
    assert _answer(store, "select video_id from predictions") == [("a",)]
    assert read_predictions(store.root).to_table(columns=["video_id"]).to_pylist() == [{"video_id": "a"}]


@pytest.mark.parametrize("sql", ["select nothing from predictions", "selec 1", "select * from nowhere"])
def test_wrong_sql_is_answered_in_one_line(store: Store, sql: str):
    with pytest.raises(ConfigError) as caught:
        run_query(store, sql)
    assert caught.value.subject == "SQL"
    assert "\n" not in caught.value.reason


def test_a_query_names_its_columns(store: Store):
    assert run_query(store, "select 1 as one, 'x' as two").columns == ("one", "two")


@pytest.mark.parametrize("name", ["it's", "[odd]", "all*", "what?", 'a "b"', "{x}", "corpus=other", "run_date=never"])
def test_any_folder_can_be_out(tmp_path: Path, name: str):
    store = open_store(str(tmp_path / name))
    finished_run(store, "r1", [video("a")], [video("b")])
    rows = _answer(store, "select video_id, corpus, run_date from predictions order by 1")
    assert rows == [("a", "films", RUN_DATE), ("b", "films", RUN_DATE)]
    assert _answer(store, "select corpus from runs") == [("films",)]


def test_the_arrow_data_set_holds_the_same_rows_with_partitions(store: Store):
    finished_run(store, "r1", [video("a")], [video("b")])
    table = read_predictions(store.root).to_table(columns=["video_id", "run_date", "model_version"])
    assert table.to_pylist() == [
        {"video_id": name, "run_date": RUN_DATE, "model_version": MODEL_VERSION} for name in ("a", "b")
    ]


def test_the_arrow_data_set_of_no_run_is_empty(store: Store):
    table: pa.Table = read_predictions(store.root).to_table()
    assert table.num_rows == 0
    assert table.schema == PREDICTION_SCHEMA
