from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from run_builders import NOON, commit, finished_run, plan_run, shards_of, video

from cdmodel.errors import StorageUnavailable
from storage.compaction import compact_runs
from storage.filesystem import STAGING, Store, open_store
from storage.generations import newest_generation
from storage.publish import PublishedRun, publish_run
from storage.run_layout import COMPACTED, attempts_folder, config_name, run_row_name, shards_folder
from storage.views import run_query
from tasks.collect_garbage import Garbage, collect_garbage
from tasks.read_status import read_status
from tasks.verify_output import verify_output

DAY = timedelta(hours=24)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def _age(store: Store, hours: float, below: str = "") -> None:
    then = datetime.now(UTC).timestamp() - hours * 3600
    for item in store.list(below):
        os.utime(Path(store.root) / item.name, (then, then))


def _kinds(garbage: Garbage) -> dict[str, int]:
    return {found.kind: found.objects for found in garbage.found}


def _names(store: Store) -> list[str]:
    return [item.name for item in store.list()]


def _rows(store: Store) -> tuple[tuple[object, ...], ...]:
    return run_query(store, "from predictions order by video_id, run_id").rows


def _all_kinds(store: Store) -> PublishedRun:
    """One of everything that may be garbage, and an unfinished run."""
    published = finished_run(store, "r1", [video("a")], [video("b fails")])
    compact_runs(store)
    finished_run(store, "r2", [video("c")], at=NOON + timedelta(hours=1))
    compact_runs(store)
    store.create(f"{attempts_folder('r1')}/log", b"attempt")
    store.create(published.files[0].name.replace("-00000", "-00001"), b"of a publisher that cut differently")
    store.create(config_name("never"), b"# settings")
    store.create(f"{STAGING}/left-over", b"half")
    (shard, _) = shards = shards_of([video("d")], [video("e")])
    plan_run(store, "open", shards)
    commit(store, "open", shard)
    store.create(f"{attempts_folder('open')}/log", b"attempt")
    return published


def test_nothing_is_there_to_delete_before_the_first_run(store: Store):
    assert collect_garbage(store.root).found == ()
    assert not Path(store.root).exists()


def test_everything_of_no_use_goes_and_everything_else_stays(store: Store):
    _all_kinds(store)
    before, unfinished = _rows(store), [name for name in _names(store) if name.startswith("runs/open/")]
    _age(store, 25)
    garbage = collect_garbage(store.root)
    assert _kinds(garbage) == {
        "staging": 1,
        "unplanned_run": 1,
        "attempts": 1,
        "shards": 3,
        "orphans": 1,
        "superseded_generation": 3,
    }
    assert garbage.kept == ()
    assert _rows(store) == before
    assert [name for name in _names(store) if name.startswith("runs/open/")] == unfinished
    assert verify_output(store.root) == ()
    assert collect_garbage(store.root).found == ()


def test_a_dry_run_tells_the_same_and_deletes_nothing(store: Store):
    _all_kinds(store)
    _age(store, 25)
    before = store.list()
    told = collect_garbage(store.root, dry_run=True)
    assert store.list() == before
    assert collect_garbage(store.root).found == told.found


def test_what_is_young_stays(store: Store):
    _all_kinds(store)
    _age(store, 23)
    before = _names(store)
    assert collect_garbage(store.root).found == ()
    assert _names(store) == before


def test_a_finished_run_answers_for_its_status_without_shards(store: Store):
    finished_run(store, "r1", [video("a")], [video("b fails")])
    before = read_status(store.root, None)
    assert (before.videos_labeled, before.videos_failed, before.shards_done) == (1, 1, 2)
    _age(store, 25)
    assert _kinds(collect_garbage(store.root)) == {"shards": 2}
    assert store.list(shards_folder("r1")) == ()
    assert read_status(store.root, "r1") == before


@pytest.mark.parametrize("harm", ["cut", "gone", "no row", "no marker", "no plan"])
def test_shards_stay_while_what_was_published_from_them_is_not_intact(store: Store, harm: str):
    published = finished_run(store, "r1", [video("a")])
    finished_run(store, "r2", [video("b")], at=NOON + timedelta(hours=1))
    root = Path(store.root)
    match harm:
        case "cut":
            path = root / published.files[0].name
            path.write_bytes(path.read_bytes()[:-9])
        case "gone":
            (root / published.files[0].name).unlink()
        case "no row":
            (root / run_row_name("r1")).unlink()
        case "no marker":
            (root / "runs/r1/_SUCCESS.json").write_text("no marker")
        case _:
            (root / "runs/r1/plan.parquet").write_text("no plan")
    _age(store, 25)
    garbage = collect_garbage(store.root)
    assert _kinds(garbage) == {"shards": 1}, "those of the other run"
    assert [kept.path for kept in garbage.kept] == ["runs/r1"]
    assert len(store.list(shards_folder("r1"))) == 1


def test_a_run_that_is_being_published_is_left_alone_however_old(store: Store):
    shards = shards_of([video("a")])
    plan_run(store, "r1", shards)
    commit(store, "r1", shards[0])
    publish_run(store, "r1")
    _age(store, 1000)
    before = _names(store)
    assert collect_garbage(store.root).found == ()
    assert _names(store) == before


def test_files_that_are_not_ours_are_left_for_verify_to_name(store: Store):
    """And so is a table whose folder of runs was deleted by hand: it may be the only copy."""
    published = finished_run(store, "r1", [video("a")])
    store.create("predictions/notes.txt", b"mine")
    store.create(published.files[0].name.replace("r1-", "lost-"), b"rows of a run whose record is gone")
    _age(store, 1000)
    assert _kinds(collect_garbage(store.root)) == {"shards": 1}
    assert [problem.kind for problem in verify_output(store.root)] == ["stray_file", "stray_file"]


def test_a_folder_that_lost_its_plan_is_not_taken_for_one_that_never_had_one(store: Store):
    shards = shards_of([video("a")])
    plan_run(store, "r1", shards)
    commit(store, "r1", shards[0])
    (Path(store.root) / "runs/r1/plan.parquet").unlink()
    _age(store, 1000)
    assert collect_garbage(store.root).found == ()


def test_a_generation_that_is_being_written_is_left_alone(store: Store):
    finished_run(store, "r1", [video("a")])
    compact_runs(store)
    store.create(f"{COMPACTED}/00000002-0123456789ab/predictions/part", b"of a compaction under way")
    _age(store, 1000)
    collect_garbage(store.root)
    assert store.exists(f"{COMPACTED}/00000002-0123456789ab/predictions/part")


def test_a_generation_that_a_reader_may_still_read_outlives_its_successor(store: Store):
    finished_run(store, "r1", [video("a")])
    first = compact_runs(store)
    _age(store, 1000)
    finished_run(store, "r2", [video("b")], at=NOON + timedelta(hours=1))
    second = compact_runs(store)
    assert first is not None
    assert second is not None
    assert "superseded_generation" not in _kinds(collect_garbage(store.root)), "it is old, but not long superseded"
    assert store.exists(first.files[0].name)
    _age(store, 25, f"{COMPACTED}/{second.generation}")
    assert _kinds(collect_garbage(store.root))["superseded_generation"] == 3
    assert newest_generation(store) == second


def test_a_clock_that_was_set_back_does_not_make_the_young_look_old(store: Store):
    """What was written while the clock was wrong bears an old date; what it belongs to does not."""
    finished_run(store, "r1", [video("a")])
    first = compact_runs(store)
    _age(store, 23)
    finished_run(store, "r2", [video("b")], at=NOON + timedelta(hours=1))
    second = compact_runs(store)
    assert first is not None
    assert second is not None
    _age(store, 1000, f"{COMPACTED}/{second.generation}")
    assert collect_garbage(store.root).found == ()
    assert store.exists(first.files[0].name)


def test_our_clock_alone_makes_nothing_old_or_young(store: Store):
    _all_kinds(store)
    before = _names(store)
    ahead = collect_garbage(store.root, clock=lambda: datetime.now(UTC) + 1000 * DAY)
    assert ahead.found == (), "the store's clock says that all of it is young"
    _age(store, 25)
    behind = collect_garbage(store.root, clock=lambda: datetime.now(UTC) - 1000 * DAY)
    assert behind.found == ()
    assert _names(store) == before


def test_a_death_at_any_deletion_is_made_good_by_running_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    reference = open_store(str(tmp_path / "reference"))
    _all_kinds(reference)
    _age(reference, 25)
    rows = _rows(reference)
    deletions = sum(_kinds(collect_garbage(reference.root)).values())
    delete = Store.delete

    def dying(limit: int) -> Callable[[Store, str], None]:
        done = [0]

        def delete_or_die(self: Store, name: str) -> None:
            if not name.startswith(f"{STAGING}/clock-"):
                done[0] += 1
                if done[0] > limit:
                    raise StorageUnavailable(name, "the process died here")
            delete(self, name)

        return delete_or_die

    store = open_store(str(tmp_path / "out"))
    _all_kinds(store)
    _age(store, 25)
    for _ in range(0, deletions, 3):
        with monkeypatch.context() as patched:
            patched.setattr(Store, "delete", dying(3))
            with suppress(StorageUnavailable):
                collect_garbage(store.root)
        assert _rows(store) == rows
    collect_garbage(store.root)
    assert _names(store) == _names(reference)
    assert verify_output(store.root) == ()


def test_a_reader_sees_the_same_rows_at_every_step_of_compaction_and_cleaning(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    finished_run(store, "r0", [video("z")])
    compact_runs(store)
    _age(store, 1000)
    for number in range(1, 4):
        finished_run(store, f"r{number}", [video(f"v{number}"), video(f"w{number}")], at=NOON + timedelta(hours=number))
    rows = _rows(store)
    seen: list[bool] = []

    def watched(step: Callable[..., object]) -> Callable[..., object]:
        def read_afterwards(*arguments: object) -> object:
            answer = step(*arguments)
            seen.append(_rows(store) == rows)
            return answer

        return read_afterwards

    with monkeypatch.context() as patched:
        for step in ("create", "create_from_file", "delete"):
            patched.setattr(Store, step, watched(getattr(Store, step)))
        compact_runs(store)
        _age(store, 25)
        collect_garbage(store.root)
    assert len(seen) > 10
    assert all(seen)
    assert verify_output(store.root) == ()
