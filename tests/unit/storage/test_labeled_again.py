"""What ``verify`` calls a duplicate across runs, and what was only tried again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from run_builders import NOON, context, failure, header, prediction, publish_and_finish, shards_of, video

from cdmodel.types import Damage, VideoOutcome
from storage.filesystem import Store, open_store
from storage.run_store import commit_shard, create_plan
from tasks.verify_output import verify_output

LABELED = prediction(video("a"))
PARTIAL = prediction(video("a"), Damage(error_kind="storage_error", message="reset"))
FAILED = failure(video("a"))
CHANGED = prediction(video("a", version="10-2"))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _answered(store: Store, outcome: VideoOutcome, *, relabel: bool = False, fingerprint: str = "f0") -> None:
    number = len(store.children("runs"))
    # Names descend while time goes on: the order is that of planning.
    run_id, at = f"r{9 - number}", NOON + timedelta(hours=number)
    (shard,) = shards = shards_of([outcome.video], fingerprint=fingerprint)
    plan = replace(header(run_id, shards, at=at, fingerprint=fingerprint), relabel=relabel)
    assert create_plan(store, plan, shards, "")
    commit_shard(store, [replace(outcome, labeled_at=at)], context(run_id, shard.shard_id, fingerprint=fingerprint), at)
    publish_and_finish(store, run_id, at)


def _duplicates(store: Store) -> list[tuple[str | None, str | None]]:
    problems = verify_output(store.root)
    assert all(problem.kind == "duplicate_row" for problem in problems)
    return [(problem.video_id, problem.path) for problem in problems]


@pytest.mark.parametrize("second", [LABELED, PARTIAL])
def test_a_labeled_video_that_another_run_answers_again_is_a_duplicate(store: Store, second: VideoOutcome):
    _answered(store, LABELED)
    _answered(store, second)
    assert _duplicates(store) == [("a", "runs/r8/plan.parquet")]


@pytest.mark.parametrize(
    "outcomes",
    [(FAILED, LABELED), (FAILED, FAILED, LABELED), (PARTIAL, LABELED), (LABELED, FAILED), (LABELED, CHANGED)],
    ids=["failed", "failed twice", "partial", "failed later", "changed"],
)
def test_what_was_tried_again_or_has_changed_is_none(store: Store, outcomes: Sequence[VideoOutcome]):
    for outcome in outcomes:
        _answered(store, outcome)
    assert _duplicates(store) == []


def test_other_models_and_runs_that_were_to_label_again_make_none(store: Store):
    _answered(store, LABELED)
    _answered(store, LABELED, fingerprint="f1")
    _answered(store, LABELED, relabel=True)
    assert _duplicates(store) == []
    _answered(store, LABELED)
    assert _duplicates(store) == [("a", "runs/r6/plan.parquet")]
