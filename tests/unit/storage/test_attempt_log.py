from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from cdmodel.errors import StorageUnavailable
from storage import attempt_log
from storage.attempt_log import can_go_on, died_of, lost_seconds, open_attempt, read_attempts
from storage.filesystem import Store, open_store

VIDEOS = ("a", "b", "c")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(attempt_log.time, "monotonic", lambda: clock.seconds)
    return clock


class Clock:
    """A clock that goes when it is told to."""

    seconds = 100.0

    def advance(self, passed: timedelta) -> None:
        self.seconds += passed.total_seconds()


def _attempt(store: Store, attempt_id: str, *, dies_at: str | None, launch_id: str = "launch") -> list[str]:
    """Go through the videos until one kills the worker; return those that were tried."""
    log = open_attempt(store, "run", "shard", launch_id=launch_id, attempt_id=attempt_id)
    tried = []
    for video_id in VIDEOS:
        log.before_video(video_id)
        if video_id not in log.suspects:
            tried.append(video_id)
            if video_id == dies_at:
                return tried
        log.after_video()
    log.before_commit()
    return tried


def _died_of(store: Store, launch_id: str = "launch") -> frozenset[str] | None:
    return died_of(store, "run", "shard", launch_id)


def test_the_first_death_names_no_video_the_second_does_and_the_third_attempt_leaves_it_out(store: Store):
    assert _attempt(store, "1", dies_at="b") == ["a", "b"]
    assert _died_of(store) == frozenset()
    assert _attempt(store, "2", dies_at="b") == ["a", "b"]
    assert _died_of(store) == {"b"}
    assert _attempt(store, "3", dies_at="b") == ["a", "c"]


def test_every_further_death_may_name_one_more(store: Store):
    _attempt(store, "1", dies_at="b")
    _attempt(store, "2", dies_at="b")
    _attempt(store, "3", dies_at="c")
    assert _attempt(store, "4", dies_at=None) == ["a"]


def test_a_death_after_the_last_video_is_no_videos_fault(store: Store):
    _attempt(store, "1", dies_at="b")
    _attempt(store, "2", dies_at=None)
    assert _died_of(store) == frozenset()


def test_another_launch_may_be_alive_so_that_its_videos_are_not_suspected_but_written_down(store: Store):
    _attempt(store, "1", dies_at="a", launch_id="before")
    _attempt(store, "2", dies_at="a", launch_id="before")
    assert _died_of(store, "after") is None
    assert _attempt(store, "3", dies_at="a", launch_id="after") == ["a"]
    assert _died_of(store, "after") == {"a"}


def test_a_shard_goes_on_as_long_as_its_deaths_name_videos(store: Store):
    assert can_go_on(None, None)
    assert can_go_on(frozenset({"a"}), None)
    assert can_go_on(frozenset({"a", "b"}), frozenset({"a"}))
    assert not can_go_on(frozenset({"a"}), frozenset({"a"}))
    assert not can_go_on(frozenset(), None)


def test_what_dead_and_late_attempts_spent_is_lost_and_the_winners_time_is_not(store: Store, clock: Clock):
    dead = open_attempt(store, "run", "shard", launch_id="launch", attempt_id="dead")
    for video_id in VIDEOS:
        clock.advance(timedelta(seconds=6))
        dead.before_video(video_id)
    winner = open_attempt(store, "run", "shard", launch_id="launch", attempt_id="winner")
    late = open_attempt(store, "run", "shard", launch_id="launch", attempt_id="late")
    clock.advance(timedelta(seconds=100))
    winner.before_commit()
    late.lost()
    # The dead one told of 12 s: entries are 10 s apart, and what came after the last one is not known.
    assert lost_seconds(store, "run", {"shard": "winner"}) == 12.0 + 100.0
    assert lost_seconds(store, "run", {"shard": "dead"}) == 100.0 + 100.0


def test_a_run_without_attempts_has_lost_nothing(store: Store):
    assert lost_seconds(store, "run", {}) == 0.0


def test_a_healthy_attempt_costs_one_object_and_one_more_every_ten_seconds(store: Store, clock: Clock):
    log = open_attempt(store, "run", "shard", launch_id="launch", attempt_id="1")
    for _ in range(60):
        log.before_video("a")
        log.after_video()
        clock.advance(timedelta(seconds=0.5))
    log.before_commit()
    assert len(store.list("runs/run/attempts")) == 1 + 2
    [attempt] = read_attempts(store, "run", "shard")
    assert (attempt.last.videos_done, attempt.last.video_id) == (40, None)


def test_an_entry_that_was_changed_is_passed_over(store: Store):
    _attempt(store, "1", dies_at="a")
    [entry] = store.list("runs/run/attempts")
    (Path(store.root) / entry.name).write_text("changed")
    assert read_attempts(store, "run", "shard") == ()
    assert lost_seconds(store, "run", {}) == 0.0


def test_a_log_that_cannot_be_written_does_not_stop_the_work(store: Store, monkeypatch: pytest.MonkeyPatch):
    def refuse(self: Store, *_: object) -> bool:
        raise StorageUnavailable(self.root, "is gone")

    monkeypatch.setattr(Store, "create", refuse)
    monkeypatch.setattr(Store, "list", refuse)
    assert _attempt(store, "1", dies_at=None) == list(VIDEOS)
