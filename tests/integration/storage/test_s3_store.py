from __future__ import annotations

import ast
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import fsspec
import pytest
from aimed_proxy import proxy_before
from s3_endpoint import IS_REAL

from cdmodel.errors import CommitStateUnknown, OutputError, SourceError, StorageUnavailable
from storage.corpus import CorpusRules, list_videos
from storage.filesystem import Store, open_store, probe
from storage.output import check_output, check_writable


@pytest.fixture
def store(bucket: str) -> Store:
    return open_store(f"{bucket}/out")


@pytest.fixture
def dead_endpoint(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    with closing(socket.socket()) as probe_socket:
        probe_socket.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{probe_socket.getsockname()[1]}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    return endpoint


@pytest.mark.parametrize("race", range(30 if IS_REAL else 1))
def test_of_many_threads_that_create_one_object_one_wins(race: int, store: Store):
    contents = [f"attempt {number:02d}".encode() for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        created = list(pool.map(lambda data: store.create("a/b", data), contents))
    assert created.count(True) == 1
    assert store.read("a/b") == contents[created.index(True)]
    assert [item.name for item in store.list()] == ["a/b"]


@pytest.mark.skipif(not IS_REAL, reason="a server of its own: make test-s3")
def test_of_many_processes_that_create_one_object_one_wins(store: Store):
    names = [f"a/{number}" for number in range(30)]
    script = (
        "import sys; from storage.filesystem import open_store; out, me, *names = sys.argv[1:]; "
        "print([open_store(out).create(name, me.encode()) for name in names])"
    )
    rivals = [
        subprocess.Popen(
            [sys.executable, "-c", script, store.root, f"process {number}", *names], stdout=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    created = [ast.literal_eval(rival.communicate(timeout=120)[0]) for rival in rivals]
    for name, outcomes in zip(names, zip(*created, strict=True), strict=True):
        assert outcomes.count(True) == 1
        assert store.read(name) == f"process {outcomes.index(True)}".encode()


@pytest.mark.parametrize("data", [b"", b"second"])
def test_what_stands_is_never_overwritten(store: Store, data: bytes):
    assert store.create("a", b"first")
    assert not store.create("a", data)
    assert store.read("a") == b"first"


def test_an_empty_object_is_created_only_once(store: Store):
    assert store.create("a", b"")
    assert not store.create("a", b"x")
    assert store.read("a") == b""


def test_a_repeated_create_of_the_same_bytes_counts_as_ours(store: Store):
    # A client that repeats a request whose answer was lost meets its own object.
    assert store.create("a", b"ours")
    assert store.create("a", b"ours")


def test_a_large_file_is_one_create_only_request(store: Store, tmp_path: Path):
    path = tmp_path / "large"
    path.write_bytes(bytes(120 * 2**20))
    assert store.create_from_file("large", path)
    path.write_bytes(b"other")
    assert not store.create_from_file("large", path)
    (large,) = store.list()
    assert large.size_bytes == 120 * 2**20
    # The etag of an upload in parts has a dash.
    assert "-" not in large.version


def test_objects_are_listed_below_a_folder_by_name(store: Store):
    for name in ("a/2", "a/1", "ab/3", "c"):
        store.create(name, name.encode())
    assert [item.name for item in store.list("a")] == ["a/1", "a/2"]
    assert store.children() == ("a", "ab", "c")
    assert store.children("a") == ("1", "2")
    assert store.list("missing") == ()
    assert store.children("missing") == ()


def test_a_new_object_is_seen_by_a_store_that_listed_before(store: Store):
    assert store.list() == ()
    assert not store.exists("a")
    open_store(store.root).create("a", b"1")
    assert store.exists("a")
    assert [item.name for item in store.list()] == ["a"]


def test_an_object_is_read_in_ranges(store: Store):
    store.create("a", bytes(range(256)))
    with store.open("a") as file:
        file.seek(100)
        assert file.read(3) == bytes([100, 101, 102])
        file.seek(-2, 2)
        assert file.read() == bytes([254, 255])


def test_a_missing_object_is_named(store: Store):
    for read in (store.read, store.open):
        with pytest.raises(StorageUnavailable, match="does not exist") as caught:
            read("gone")
        assert caught.value.subject == f"{store.root}/gone"
    store.delete("gone")


def test_create_only_writes_are_honoured_and_the_probe_leaves_nothing(store: Store):
    assert probe(store)
    assert store.list() == ()


def test_a_missing_bucket_is_named(s3_server: str):
    missing = open_store("s3://no-such-bucket/out")
    with pytest.raises(StorageUnavailable, match="does not exist"):
        missing.create("a", b"1")
    with pytest.raises(OutputError, match="does not exist"):
        check_output(missing)
    with pytest.raises(OutputError, match="does not exist"):
        check_writable(missing)
    with pytest.raises(SourceError, match="does not exist"):
        list_videos("s3://no-such-bucket/videos", CorpusRules())


def test_a_dead_endpoint_is_reported_soon_and_without_the_secret(dead_endpoint: str):
    store = open_store("s3://bucket/out")
    started = time.monotonic()
    with pytest.raises(OutputError) as caught:
        check_output(store)
    assert time.monotonic() - started < 15
    assert dead_endpoint in str(caught.value)
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value)
    with pytest.raises(SourceError):
        list_videos("s3://bucket/videos", CorpusRules())


def test_a_create_whose_outcome_cannot_be_seen_is_neither_success_nor_failure(dead_endpoint: str):
    with pytest.raises(CommitStateUnknown):
        open_store("s3://bucket/out").create("a", b"1")


@pytest.mark.skipif(not IS_REAL, reason="moto takes any secret: make test-s3")
def test_a_wrong_secret_is_refused_in_the_servers_words(bucket: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(OutputError, match=r"access denied \(SignatureDoesNotMatch\)") as caught:
        check_output(open_store(f"{bucket}/out"))
    assert "not-the-secret" not in str(caught.value)
    fsspec.filesystem("s3").clear_instance_cache()


def test_a_large_object_whose_answer_breaks_off_is_asked_for_again(
    bucket: str, s3_server: str, monkeypatch: pytest.MonkeyPatch
):
    with proxy_before(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        store = open_store(bucket)
        monkeypatch.setattr(store.filesystem, "default_block_size", 1000)
        store.create("large", bytes(range(250)) * 10)
        proxy.aim("cut", at=("get", "get range"), limit=1)
        assert store.read("large") == bytes(range(250)) * 10
        assert (proxy.seen["get"], proxy.seen["head"]) == (2, 0)


def test_out_in_a_bucket_may_be_new_or_ours_but_not_anothers(store: Store):
    check_output(store)
    store.create("runs/r/plan.parquet", b"")
    check_output(store)
    store.create("holiday.mp4", b"")
    with pytest.raises(OutputError, match=r"holiday\.mp4"):
        check_output(store)
