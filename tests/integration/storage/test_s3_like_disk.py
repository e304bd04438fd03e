"""A bucket answers as a disk does: same rows, same bytes, same errors."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from run_builders import finished_run, video

from cdmodel.errors import LabelingError, OutputError, SourceError, VideoStorageError
from cdmodel.types import VideoRef
from storage.corpus import CorpusRules, list_videos, open_video
from storage.filesystem import open_store
from storage.output import check_output, check_writable
from storage.read_ahead import MIB, ReadAhead
from storage.run_store import list_runs
from storage.views import read_predictions, run_query
from tasks.export_labels import ExportFormat, export_labels
from tasks.verify_output import verify_output

NO_RULES = CorpusRules()
PATIENCE_SECONDS = 20.0
MISSING = "s3://there-is-no-such-bucket"


@pytest.fixture
def refusing_endpoint(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """An endpoint where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return endpoint


def _ref(uri: str) -> VideoRef:
    return VideoRef(video_id="v", uri=uri, video_version="e", size_bytes=None)


def _error_of(action: Callable[[], object]) -> LabelingError:
    """Return what an action raises, which it has to do soon."""
    started = time.monotonic()
    with pytest.raises(LabelingError) as caught:
        action()
    assert time.monotonic() - started < PATIENCE_SECONDS
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_run_in_a_bucket_has_the_rows_of_a_run_on_disk(bucket: str, tmp_path: Path):
    remote, local = open_store(f"{bucket}/out"), open_store(str(tmp_path / "out"))
    for store in (remote, local):
        finished_run(store, "r1", [video("a"), video("b fails")], [video("c")])
    for view in ("predictions", "latest", "failures", "clips", "runs"):
        sql = f"select * from {view} order by all"
        assert run_query(remote, sql) == run_query(local, sql)
    assert read_predictions(remote.root).to_table().equals(read_predictions(local.root).to_table())
    assert {item.name: item.size_bytes for item in remote.list()} == {
        item.name: item.size_bytes for item in local.list()
    }
    assert list_runs(remote) == list_runs(local)


@pytest.mark.parametrize("export_format", ["csv", "huggingface", "fiftyone"])
def test_an_export_to_a_bucket_has_the_bytes_of_one_on_disk(bucket: str, tmp_path: Path, export_format: ExportFormat):
    store = open_store(f"{bucket}/out")
    finished_run(store, "r1", [video("a"), video("b fails")], [video("c")])
    remote = export_labels(store.root, f"{bucket}/exports/labels", export_format, None)
    local = export_labels(store.root, str(tmp_path / "labels"), export_format, None)
    assert (remote.rows, remote.bytes) == (local.rows, local.bytes)
    exports, disk = open_store(f"{bucket}/exports"), open_store(str(tmp_path))
    contents, expected = ({item.name: of.read(item.name) for item in of.list()} for of in (exports, disk))
    assert contents == expected
    with pytest.raises(OutputError, match="exists already"):
        export_labels(store.root, f"{bucket}/exports/labels", export_format, None)


def test_a_corpus_in_a_bucket_reads_as_it_does_on_disk(bucket: str, tmp_path: Path):
    store = open_store(f"{bucket}/films")
    for name in ("a.mp4", "deep/b c.mkv", "d'[1] #?.mp4", "a.srt", ".hidden/e.mp4"):
        content = os.urandom(1000)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
        store.create(name, content)
    remote, local = list_videos(f"{bucket}/films/", NO_RULES), list_videos(str(tmp_path), NO_RULES)
    # On disk a hidden folder is not even looked into.
    assert (remote.ignored_files, local.ignored_files) == (2, 1)
    contents: list[dict[str, bytes]] = []
    for listing in (remote, local):
        found: dict[str, bytes] = {}
        for of in listing.videos:
            with open_video(of) as file:
                found[of.uri.removeprefix(f"{listing.source}/")] = file.read()
                assert file.read_requests >= 1
                assert file.bytes_read == of.size_bytes == 1000
        contents.append(found)
    assert contents[0] == contents[1]


def test_the_ends_of_a_large_video_cost_two_requests_and_not_the_whole(bucket: str):
    content = os.urandom(3 * MIB)
    open_store(bucket).create("large.mp4", content)
    (large,) = list_videos(f"{bucket}/large.mp4", NO_RULES).videos
    with open_video(large, ReadAhead(whole_file_bytes=0, before_bytes=0)) as file:
        assert file.read(10) == content[:10]
        file.seek(-10, os.SEEK_END)
        assert file.read() == content[-10:]
        assert file.read_requests == 2
        assert file.bytes_read == MIB + 10


def test_a_small_video_costs_one_request_however_often_it_is_read(bucket: str):
    content = os.urandom(3 * MIB)
    open_store(bucket).create("small.mp4", content)
    (small,) = list_videos(bucket, NO_RULES).videos
    with open_video(small) as file:
        for offset in (2 * MIB, 0, MIB, 0):
            file.seek(offset)
            assert file.read() == content[offset:]
        assert (file.read_requests, file.bytes_read) == (1, 3 * MIB)


def test_a_replaced_object_is_another_version_of_the_same_video(bucket: str):
    store = open_store(bucket)
    store.create("a.mp4", b"first")
    (before,) = list_videos(bucket, NO_RULES).videos
    store.delete("a.mp4")
    store.create("a.mp4", b"other")
    (after,) = list_videos(bucket, NO_RULES).videos
    assert (before.video_id, before.size_bytes) == (after.video_id, after.size_bytes)
    assert before.video_version != after.video_version


def test_a_lost_and_a_stray_object_are_found(bucket: str):
    store = open_store(f"{bucket}/out")
    finished_run(store, "r1", [video("a")])
    assert verify_output(store.root) == ()
    (item,) = store.list("predictions")
    store.delete(item.name)
    store.create("predictions/notes.txt", b"")
    assert [(problem.kind, problem.path) for problem in verify_output(store.root)] == [
        ("damaged_file", item.name),
        ("stray_file", "predictions/notes.txt"),
    ]


@pytest.mark.usefixtures("s3_server")
@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda: list_videos(f"{MISSING}/films", NO_RULES), SourceError),
        (lambda: list_videos(f"{MISSING}/films/*.mp4", NO_RULES), SourceError),
        (lambda: list_videos(f"{MISSING}/list.csv", NO_RULES), SourceError),
        (lambda: check_output(open_store(f"{MISSING}/out")), OutputError),
        (lambda: check_writable(open_store(f"{MISSING}/out")), OutputError),
    ],
)
def test_a_missing_bucket_is_a_mistake_of_the_user_told_soon(action: Callable[[], object], kind: type[LabelingError]):
    error = _error_of(action)
    assert isinstance(error, kind)
    assert MISSING in str(error)


def test_a_server_that_refuses_is_told_soon_and_by_its_endpoint(refusing_endpoint: str):
    actions = (
        lambda: list_videos("s3://bucket/films", NO_RULES),
        lambda: check_output(open_store("s3://bucket/out")),
        lambda: open_video(_ref("s3://bucket/a.mp4")),
    )
    with ThreadPoolExecutor(len(actions)) as pool:
        errors = list(pool.map(_error_of, actions))
    assert [type(error) for error in errors] == [SourceError, OutputError, VideoStorageError]
    assert all(refusing_endpoint in str(error) for error in errors)
