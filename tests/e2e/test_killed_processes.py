"""Processes that die while a run labels and publishes: it goes on, or the same command does."""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CORPUS_VIDEOS
from killed_runs import (
    WORKERS,
    CommittedObjects,
    LabelRun,
    assert_complete,
    file_is_published,
    files_under_way,
    lost_attempts,
    shards_stand,
)

from cdmodel.bundle import DEMO_BUNDLE, read_manifest, write_manifest
from storage.filesystem import open_store
from storage.views import run_query
from tasks.move_alias import Mover, promote_bundle

VIDEOS = CORPUS_VIDEOS + 1
"""The fixture ``corpus`` has a broken one beside those generated."""
LOCAL = ("--workers", str(WORKERS))


def test_ctrl_c_and_sigterm_end_the_command_in_one_line_with_all_that_it_started(
    corpus: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    first = LabelRun(corpus, out, environment, "--workers", "1")
    first.wait_for(shards_stand(1))
    first.signal(signal.SIGINT, group=True)
    ended = first.end(within=20)
    assert (ended.exit_code, ended.stderr.count("interrupted")) == (130, 1)
    stood = CommittedObjects(out)
    second = LabelRun(corpus, out, environment, "--workers", "1")
    second.wait_for_workers(1)
    second.signal(signal.SIGTERM)
    ended = second.end(within=20)
    assert "going on with" in ended.stderr
    assert (ended.exit_code, ended.stderr.count("interrupted")) == (143, 1)
    stood.assert_unchanged()
    assert files_under_way(out) == []


@pytest.mark.matrix  # most of a minute of CPU: make test-faults
def test_a_run_that_was_killed_keeps_its_bundle_though_the_alias_has_moved(
    corpus: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out, models = tmp_path / "out", str(tmp_path / "models")
    old = read_manifest(DEMO_BUNDLE)
    shutil.copytree(DEMO_BUNDLE, tmp_path / "bundle")
    write_manifest(tmp_path / "bundle", replace(old, provenance={**old.provenance, "note": "the next one"}))
    first = promote_bundle(models, str(DEMO_BUNDLE), "production", Mover(moved_by="me")).model_version
    command = (*LOCAL, "--models", f"{models}@production")
    run = LabelRun(corpus, out, environment, *command)
    run.wait_for(shards_stand(2))
    run.signal(signal.SIGKILL)
    assert run.end().exit_code == -signal.SIGKILL
    second = promote_bundle(models, str(tmp_path / "bundle"), "production", Mover(moved_by="me")).model_version
    ended = LabelRun(corpus, out, environment, *command).end()
    assert (ended.exit_code, "going on with" in ended.stderr) == (0, True)
    assert_complete(out, videos=VIDEOS)
    assert _versions(out) == [(first, VIDEOS)]
    assert LabelRun(corpus, out, environment, *command).end().exit_code == 0
    assert _versions(out) == [(first, VIDEOS), (second, VIDEOS)]


def _versions(out: Path) -> list[tuple[object, ...]]:
    sql = "select model_version, count(*) from predictions group by all order by min(labeled_at)"
    return list(run_query(open_store(str(out)), sql).rows)


@pytest.mark.matrix  # a minute and a half of CPU: make test-faults
def test_dead_workers_are_replaced_and_a_run_killed_while_publishing_is_published_by_the_same_command(
    corpus: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run = LabelRun(corpus, out, environment, *LOCAL)
    run.wait_for(shards_stand(2))
    run.wait_for_workers(WORKERS)[0].kill()
    run.wait_for(shards_stand(5))
    for worker in run.wait_for_workers(WORKERS):
        worker.kill()
    run.wait_for(shards_stand(6))
    stood = CommittedObjects(out)
    run.wait_for(file_is_published)
    run.signal(signal.SIGKILL)
    assert run.end().exit_code == -signal.SIGKILL
    assert not list(out.glob("runs/*/_SUCCESS.json"))
    published = CommittedObjects(out)
    ended = LabelRun(corpus, out, environment, *LOCAL).end()
    assert (ended.exit_code, "going on with" in ended.stderr) == (0, True)
    assert_complete(out, videos=VIDEOS)
    stood.assert_unchanged()
    published.assert_unchanged()
    assert sum(lost_attempts(out).values()) <= 1 + WORKERS
