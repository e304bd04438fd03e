"""An object that was cut, edited or replaced is refused by its name, the rest is kept, and deleting it heals the run."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_archive import Archive
from watched_disk import Crash, DiesAt, WatchedDisk, steps_of
from witness import Witness, contents_of

from cdmodel.errors import DamagedObject
from storage.attempt_log import open_attempt
from storage.filesystem import open_store
from storage.run_layout import plan_name, run_row_name, shard_name
from storage.run_record import RunRecord
from storage.run_store import RunHeader, iter_shards, list_runs, read_header
from storage.views import connect_views, read_predictions
from tasks.run_request import LabelingPlan, NothingToDo
from tasks.verify_output import verify_output

FLIPS = 6
"""Positions tried in each object, spread over all of it."""
_KEPT = ("video_id", "video_version", "status", "label", "student_confidence", "clips_planned")


@dataclass(frozen=True, slots=True)
class Run:
    """A run on disk, stopped somewhere."""

    archive: Archive
    header: RunHeader

    @property
    def run_id(self) -> str:
        return self.header.run_id

    def path(self, name: str) -> Path:
        return Path(self.archive.out) / name

    def objects(self) -> dict[str, bytes]:
        return contents_of(open_store(self.archive.out))

    def plan(self) -> Path:
        return self.path(plan_name(self.run_id))

    def decision(self) -> Path:
        return self.path(f"runs/{self.run_id}/decision")

    def marker(self) -> Path:
        return self.path(f"runs/{self.run_id}/_SUCCESS.json")

    def shard(self, number: int = 1) -> Path:
        shards = list(iter_shards(open_store(self.archive.out), self.run_id))
        return self.path(shard_name(self.run_id, shards[number].shard_id))

    def published(self, number: int = 1) -> Path:
        return sorted(self.path("predictions").rglob("*.parquet"))[number]

    def row(self) -> Path:
        return self.path(run_row_name(self.run_id))

    def copied(self, name: str) -> Run:
        return Run(self.archive.copied(name), self.header)


Find = Callable[[Run], Path]
Change = Callable[[bytes], bytes]


@pytest.fixture
def labeled(archive: Archive) -> Run:
    """All shards stand, nothing is published."""
    plan = archive.open()
    assert isinstance(plan, LabelingPlan)
    archive.label_pending(plan.header)
    return Run(archive, plan.header)


@pytest.fixture
def unmarked(labeled: Run) -> Run:
    """All is published, but the marker is not there yet."""
    labeled.archive.publish(labeled.run_id)
    labeled.marker().unlink()
    return labeled


@pytest.fixture
def finished(labeled: Run) -> Run:
    labeled.archive.publish(labeled.run_id)
    return labeled


def _cut(share: float) -> Change:
    return lambda data: data[: int(len(data) * share)]


def _flip(position: int) -> Change:
    return lambda data: data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


def _without_last(data: bytes) -> bytes:
    return data[:-1]


def _rows_edited(data: bytes) -> bytes:
    """Write the table anew, in good form, with other rows."""
    table = pq.read_table(pa.BufferReader(data))
    sink = pa.BufferOutputStream()
    pq.write_table(table.slice(0, table.num_rows - 1), sink)
    return bytes(sink.getvalue())


CUTS: dict[str, Change] = {
    "emptied": _cut(0),
    "cut to a quarter": _cut(0.25),
    "cut to a half": _cut(0.5),
    "cut by a byte": lambda data: data[:-1],
}
CHANGES: dict[str, Change] = {
    **CUTS,
    "text": lambda _: b"no table at all",
    "last byte flipped": lambda data: data[:-1] + b"!",
    "edited": _rows_edited,
}


def _tampered(run: Run, find: Find, changes: dict[str, Change]) -> Iterator[tuple[Run, Path]]:
    """Yield a copy of the run for each change, with that object changed."""
    for name, change in changes.items():
        one = run.copied(f"{find(run).name} {name}")
        path = find(one)
        path.write_bytes(change(path.read_bytes()))
        yield one, path


def _refused_and_healed(run: Run, path: Path) -> None:
    """Run the command on a tampered OUT, delete what it names, and run it again."""
    before = run.objects()
    with pytest.raises(DamagedObject) as caught:
        run.archive.label()
    assert caught.value.subject == str(path)
    assert "restore or delete" in caught.value.reason
    after = run.objects()
    assert {name: after[name] for name in before} == before, "what stood is not kept"
    path.unlink()
    witness = Witness(run.archive)
    run.archive.label_until_done()
    assert len(witness.look_at_the_end().rows) == 4
    assert set(before) <= set(run.objects())


@pytest.mark.parametrize("find", [Run.plan, Run.shard], ids=["plan", "shard"])
def test_a_tampered_object_of_a_labeled_run_is_refused_and_deleting_it_heals(labeled: Run, find: Find):
    for one, path in _tampered(labeled, find, CHANGES):
        _refused_and_healed(one, path)


def test_a_tampered_decision_is_refused_and_deleting_it_heals(labeled: Run):
    contents = (b"", b"ope", b"open\n", b"OPEN", b"withdrawn.")
    changes: dict[str, Change] = {repr(content): lambda _, to=content: to for content in contents}
    for one, path in _tampered(labeled, Run.decision, changes):
        _refused_and_healed(one, path)


@pytest.mark.parametrize("find", [Run.published, Run.row], ids=["published", "row"])
def test_a_tampered_table_of_a_run_that_is_not_closed_is_refused_and_deleting_it_heals(unmarked: Run, find: Find):
    for one, path in _tampered(unmarked, find, CHANGES):
        _refused_and_healed(one, path)


def test_the_shard_of_another_run_under_the_name_of_ours_is_refused(finished: Run):
    """The same videos under the same work have the same shard id in every run that labels them."""
    archive = finished.archive
    again = replace(archive, request=replace(archive.request, relabel=True))
    plan = again.open()
    assert isinstance(plan, LabelingPlan)
    again.label_pending(plan.header)
    second = Run(again, plan.header)
    ours, theirs = second.shard(), finished.shard()
    assert ours.name == theirs.name
    ours.write_bytes(theirs.read_bytes())
    with pytest.raises(DamagedObject, match=f"receipt of run {finished.run_id}") as caught:
        again.publish(second.run_id)
    assert caught.value.subject == str(ours)
    ours.unlink()
    again.label_pending(plan.header)
    assert again.publish(second.run_id).videos_planned == 4
    assert verify_output(again.out) == ()


def test_a_plan_of_another_run_under_the_name_of_ours_is_refused(labeled: Run, tmp_path: Path):
    other = labeled.archive.at(str(tmp_path / "other"))
    other.add("d")
    other.label()
    (theirs,) = list_runs(open_store(other.out))
    (Path(other.films) / "d.mp4").unlink()
    labeled.plan().write_bytes((Path(other.out) / plan_name(theirs.header.run_id)).read_bytes())
    _refused_and_healed(labeled, labeled.plan())


def test_a_tampered_log_of_attempts_costs_its_figure_and_not_the_run(labeled: Run):
    store = open_store(labeled.archive.out)
    shard_id = labeled.shard().stem
    for attempt_id in ("lost", "torn"):
        open_attempt(store, labeled.run_id, shard_id, launch_id="launch", attempt_id=attempt_id)
    torn = next(item.name for item in store.list(f"runs/{labeled.run_id}/attempts") if "torn" in item.name)
    for content in (b"", b'{"launch_id": 7}', b"\xff\xfe"):
        labeled.path(torn).write_bytes(content)
        one = labeled.copied(f"torn-{len(content)}")
        assert isinstance(one.archive.label(), RunRecord)
        Witness(one.archive).look_at_the_end()


def test_an_edited_configuration_stops_nobody(labeled: Run):
    labeled.path(f"runs/{labeled.run_id}/config.toml").write_bytes(b"\xff not = toml")
    assert isinstance(labeled.archive.label(), RunRecord)
    Witness(labeled.archive).look_at_the_end()


def test_a_tampered_marker_is_refused_by_everybody_and_deleting_it_closes_the_run_again(finished: Run):
    contents = (b"", b"{", b"[]", b'{"run_id": "x", "rows": 1, "files": [{}]}', b"\xff")
    intact = finished.marker().read_bytes()
    changes: dict[str, Change] = {repr(content)[:8]: lambda _, to=content: to for content in contents}
    for one, path in _tampered(finished, Run.marker, changes):
        store = open_store(one.archive.out)
        for reader in (connect_views, lambda store: read_predictions(store.root)):
            with pytest.raises(DamagedObject) as caught:
                reader(store)
            assert caught.value.subject == str(path)
        assert [problem.path for problem in verify_output(store.root)][:1] == [str(path)]
        _refused_and_healed(one, path)
        assert path.read_bytes() == intact


def test_a_tampered_table_of_a_closed_run_is_named_and_publishing_again_restores_it(finished: Run):
    intact = finished.published().read_bytes()
    for one, path in _tampered(finished, Run.published, CHANGES):
        (named,) = [problem.path for problem in verify_output(one.archive.out) if problem.kind == "damaged_file"]
        assert str(path).endswith(str(named))
        path.unlink()
        one.marker().unlink()
        one.archive.label_until_done()
        assert path.read_bytes() == intact
        Witness(one.archive).look_at_the_end()


def test_a_cut_row_of_a_closed_run_is_named_by_the_views_and_by_verify(finished: Run):
    for one, path in _tampered(finished, Run.row, CUTS):
        with pytest.raises(DamagedObject) as caught:
            connect_views(open_store(one.archive.out))
        assert caught.value.subject == str(path)
        (problem,) = verify_output(one.archive.out)
        assert str(path).endswith(str(problem.path))
        assert isinstance(one.archive.label(), NothingToDo)


def test_the_shards_of_a_closed_run_are_needed_by_nobody(finished: Run):
    finished.shard(0).unlink()
    finished.shard(1).write_bytes(b"")
    assert verify_output(finished.archive.out) == ()
    assert isinstance(finished.archive.label(), NothingToDo)


@pytest.mark.parametrize("find", [Run.plan, Run.shard, Run.published, Run.row], ids=["plan", "shard", "table", "row"])
def test_a_bit_flipped_anywhere_is_refused_by_name_or_changes_no_row(unmarked: Run, find: Find):
    """Whatever the position hits: pages, their headers, the footer. No other error, no other row."""
    intact = unmarked.copied("intact")
    assert _refused_subject(intact) is None
    expected = _rows(intact)
    size = find(unmarked).stat().st_size
    draws = random.Random(size)
    refused = 0
    length_of_footer = size - 6
    for position in [*(int(size * (share + draws.random()) / FLIPS) for share in range(FLIPS)), length_of_footer]:
        one = unmarked.copied(f"flipped-{position}")
        path = find(one)
        path.write_bytes(_flip(position)(path.read_bytes()))
        try:
            subject = _refused_subject(one)
        except Exception as error:
            error.add_note(f"byte {position} of {size} in {path}")
            raise
        refused += subject is not None
        assert subject == str(path) or (subject is None and _rows(one) == expected), position
    assert refused > 0


def test_a_bit_flipped_anywhere_in_what_a_plan_says_of_its_run_is_refused(labeled: Run):
    """A plan of other settings is somebody else's work: the run would be left for good, and its videos with it."""
    path, said = labeled.plan(), labeled.header
    whole = path.read_bytes()
    footer_bytes = int.from_bytes(whole[-8:-4], "little")
    taken = []
    for position in range(len(whole) - 8 - footer_bytes, len(whole) - 8, 5):
        path.write_bytes(_flip(position)(whole))
        with suppress(DamagedObject):
            taken.append(read_header(open_store(labeled.archive.out), labeled.run_id))
    assert set(taken) <= {said}
    assert len(taken) < footer_bytes / 5


def _refused_subject(run: Run) -> str | None:
    """Return what the command refuses; None where it completes the run."""
    try:
        assert isinstance(run.archive.label(), RunRecord)
    except DamagedObject as error:
        return error.subject
    return None


def _rows(run: Run) -> list[dict[str, object]]:
    table = read_predictions(run.archive.out).to_table(columns=list(_KEPT))
    return sorted(table.to_pylist(), key=lambda row: str(row["video_id"]))


@pytest.mark.parametrize("strike", range(3))
def test_tampering_between_a_crash_and_the_next_command_is_found_as_well(
    archive: Archive, disk: WatchedDisk, strike: int
):
    steps = steps_of(disk, archive.at(f"{archive.out}-undisturbed").label)
    tables = ("/shards/", "/predictions/")
    links = [step for step in steps if step.kind == "link" and any(name in step.subject for name in tables)]
    number = links[strike].number
    with disk.process(DiesAt(number, "after")), pytest.raises(Crash):
        archive.label()
    newest = max(Path(archive.out).rglob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    newest.write_bytes(newest.read_bytes()[:-4])
    (run,) = list_runs(open_store(archive.out))
    _refused_and_healed(Run(archive, run.header), newest)
