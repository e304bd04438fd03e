"""A reader who looks at OUT again and again, and remembers: what stands there may grow, never change or be half."""

from __future__ import annotations

import hashlib
import io
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
from attempt_rows import score_of
from small_archive import Archive

from storage.corpus import list_videos
from storage.filesystem import STAGING, Store, open_store
from storage.run_layout import PREDICTIONS, RUNS_TABLE
from storage.run_store import iter_shards, list_runs
from storage.views import connect_views, read_predictions
from tasks.verify_output import verify_output

_TABLE_NAMES = re.compile(
    rf"{PREDICTIONS}/run_date=\d{{4}}-\d\d-\d\d/model_version=m-[0-9a-f]{{12}}/(?P<run>[^/]+)-\d{{5}}\.parquet"
    rf"|{RUNS_TABLE}/(?P<row>[^/]+)\.parquet"
)
_OF_WORKERS = re.compile(r"^runs/[^/]+/(shards|attempts)/|/config\.toml$")
_ROWS = """select video_id, video_version, run_id, shard_id, attempt_id, status, student_confidence, labeled_at
           from predictions order by all"""
Row = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """One look."""

    rows: tuple[Row, ...]
    latest: frozenset[tuple[str, str]]
    """Id and version of each video's latest row."""
    runs: frozenset[str]


_seen: dict[str, Seen] = {}
"""Of each content of OUT: what the same objects say need not be asked of SQL a second time."""
_verified: set[str] = set()
_whole: set[str] = set()


@dataclass
class Witness:
    """Looks at one OUT. Every look asserts what must hold at any moment, whatever died a moment ago."""

    archive: Archive
    objects: dict[str, str] = field(default_factory=dict)
    """Every object ever seen, and the hash of its bytes."""
    rows: frozenset[Row] = frozenset()

    @property
    def standing(self) -> str:
        """What stood at the last look, folders included: whoever goes on from the same does the same."""
        root = Path(self.archive.out)
        folders = [str(path.relative_to(root)) for path in root.rglob("*") if path.is_dir()]
        return repr((sorted(self.objects.items()), sorted(folders)))

    def look(self) -> Seen:
        """Read as a reader of a store that somebody may be writing."""
        store = open_store(self.archive.out)
        contents = contents_of(store)
        hashes = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        changed = [name for name, known in self.objects.items() if hashes.get(name) != known]
        assert not changed, f"objects that stood are gone or changed: {changed}"
        self.objects = hashes
        _assert_whole_files(store, contents)
        # What attempts and shards say is for the publisher: no reader asks them.
        state = repr(sorted(item for item in hashes.items() if not _OF_WORKERS.search(item[0])))
        if state not in _seen:
            answer = _query(store)
            _assert_rows_of_finished_runs(store, answer)
            _seen[state] = answer
        seen = _seen[state]
        assert self.rows <= frozenset(seen.rows), "a row that was seen is gone or another one"
        self.rows = frozenset(seen.rows)
        return seen

    def look_at_the_end(self) -> Seen:
        """Read after a command came to its end: every video has its row, once, and OUT verifies."""
        seen = self.look()
        listed = list_videos(self.archive.request.source, self.archive.request.corpus_rules).videos
        assert seen.latest >= {(video.video_id, video.video_version) for video in listed}
        state = repr(sorted(self.objects.items()))
        if state not in _verified:
            assert verify_output(self.archive.out) == ()
            _verified.add(state)
        return seen


def contents_of(store: Store) -> dict[str, bytes]:
    """Return every object of OUT that is not staged."""
    names = [item.name for item in store.list()]
    return {name: store.read(name) for name in names if not name.startswith(f"{STAGING}/")}


def _assert_whole_files(store: Store, contents: dict[str, bytes]) -> None:
    planned = {run.header.run_id for run in list_runs(store)}
    for name, data in contents.items():
        if name.startswith((f"{PREDICTIONS}/", f"{RUNS_TABLE}/")):
            match = _TABLE_NAMES.fullmatch(name)
            assert match, f"{name} stands under a table and is none of its files"
            assert (match["run"] or match["row"]) in planned, f"{name} is of no run"
        digest = hashlib.sha256(data).hexdigest()
        if name.endswith(".parquet") and digest not in _whole:
            assert pq.read_table(io.BytesIO(data), page_checksum_verification=True).num_rows > 0, name
            _whole.add(digest)
    folders = set(store.children()) if contents else set()
    assert folders <= {PREDICTIONS, RUNS_TABLE, "runs", STAGING}, folders


def _query(store: Store) -> Seen:
    with connect_views(store) as connection:
        rows = tuple(connection.execute(_ROWS).fetchall())
        latest = connection.execute("select video_id, video_version from latest").fetchall()
        runs = [run_id for (run_id,) in connection.execute("select run_id from runs").fetchall()]
    assert len(runs) == len(set(runs)), "a run has two rows"
    assert read_predictions(store.root).count_rows() == len(rows), "Arrow and SQL disagree"
    return Seen(rows=rows, latest=frozenset(latest), runs=frozenset(runs))


def _assert_rows_of_finished_runs(store: Store, seen: Seen) -> None:
    """Rows are the plans of the finished runs, each video once but where it failed; a shard is one attempt's."""
    planned = [
        (video.video_id, video.video_version, run.header.run_id, shard.shard_id)
        for run in list_runs(store)
        if run.finished
        for shard in iter_shards(store, run.header.run_id)
        for video in shard.videos
    ]
    assert Counter(row[:4] for row in seen.rows) == Counter(planned)
    assert seen.runs == {run_id for _, _, run_id, _ in planned}
    labeled = Counter(row[:2] for row in seen.rows if row[5] != "failed")
    repeated = [key for key, times in labeled.items() if times > 1]
    assert not repeated, f"videos labeled twice in the same version: {repeated}"
    attempts = {(row[2], row[3]): row[4] for row in seen.rows}
    for _, _, run_id, shard_id, attempt_id, status, score, _ in seen.rows:
        assert attempt_id == attempts[run_id, shard_id], "a shard's rows come from two attempts"
        assert status == "failed" or score == score_of(int(str(attempt_id).removeprefix("attempt-")))
