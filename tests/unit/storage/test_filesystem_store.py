from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import pytest

from cdmodel.errors import OutputError, StorageUnavailable, UsageError
from storage.filesystem import STAGING, Store, open_store, probe
from storage.local_files import create_durably
from storage.output import check_output, check_writable

THREADS = 16


def _everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def test_of_many_threads_that_create_one_object_one_wins(store: Store):
    contents = [f"attempt {number}".encode() * 1000 for number in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        won = list(pool.map(lambda data: store.create("runs/r/shard.parquet", data), contents))
    assert won.count(True) == 1
    assert store.read("runs/r/shard.parquet") == contents[won.index(True)]


def test_the_losers_of_a_race_leave_nothing_behind(store: Store):
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: store.create("object", bytes([number])), range(THREADS)))
    assert _everything(Path(store.root)) == ["object"]


def test_what_stands_is_never_overwritten(store: Store):
    assert store.create("object", b"first")
    assert not store.create("object", b"second")
    assert store.read("object") == b"first"


def test_a_write_that_breaks_off_leaves_nothing_visible(tmp_path: Path):
    def write(file: BinaryIO) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(StorageUnavailable, match="No space left"):
        create_durably(tmp_path / "table" / "object", tmp_path / STAGING, write)
    assert _everything(tmp_path) == []


def test_an_object_below_another_object_cannot_be_created_and_says_so(store: Store):
    store.create("object", b"bytes")
    with pytest.raises(StorageUnavailable, match="cannot be written"):
        store.create("object/below", b"bytes")
    assert [item.name for item in store.list()] == ["object"]


def test_a_file_is_created_with_its_bytes(store: Store, tmp_path: Path):
    origin = tmp_path / "origin"
    origin.write_bytes(b"bytes")
    assert store.create_from_file("copy", origin)
    assert not store.create_from_file("copy", origin)
    assert store.read("copy") == b"bytes"


def test_objects_are_listed_below_a_folder_by_name_with_their_size(store: Store):
    for name, data in (("a/2", b"22"), ("a/1", b"1"), ("b/1", b"333")):
        store.create(name, data)
    assert [(item.name, item.size_bytes) for item in store.list("a")] == [("a/1", 1), ("a/2", 2)]
    assert store.list("nowhere") == ()


def test_children_are_files_and_folders_directly_below(store: Store):
    store.create("a/b/c", b"")
    store.create("a/d", b"")
    assert store.children("a") == ("b", "d")
    assert store.children("nowhere") == ()


def test_names_with_quotes_and_brackets_are_plain_names(tmp_path: Path):
    store = open_store(str(tmp_path / "it's [odd] * {x} #1"))
    assert store.create("a b", b"bytes")
    assert store.read("a b") == b"bytes"
    assert store.exists("a b")
    assert [item.name for item in store.list()] == ["a b"]
    assert store.children() == (STAGING, "a b")


def test_a_missing_object_is_named(store: Store):
    with pytest.raises(StorageUnavailable) as caught:
        store.read("missing")
    assert caught.value.subject == f"{store.root}/missing"
    assert not store.exists("missing")


def test_a_folder_is_no_object(store: Store):
    store.create("folder/object", b"")
    assert not store.exists("folder")


def test_deleting_twice_is_fine(store: Store):
    store.create("object", b"")
    store.delete("object")
    store.delete("object")
    assert not store.exists("object")


def test_an_object_is_read_in_ranges(store: Store):
    store.create("object", bytes(range(100)))
    with store.open("object") as file:
        file.seek(90)
        assert file.read(5) == bytes(range(90, 95))


def test_a_child_store_sees_what_lies_below(store: Store):
    store.child("runs").create("object", b"bytes")
    assert store.read("runs/object") == b"bytes"


def test_a_disk_honours_create_only_writes(store: Store):
    assert probe(store)
    assert check_writable(store)


def test_an_unknown_protocol_is_refused_by_name():
    with pytest.raises(UsageError, match="nosuch://"):
        open_store("nosuch://bucket/out")


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_an_empty_name_is_refused(empty: str):
    with pytest.raises(UsageError, match="empty name"):
        open_store(empty)


def test_a_bucket_without_a_name_is_refused():
    with pytest.raises(UsageError, match="names no bucket"):
        open_store("s3://")


def test_a_new_folder_an_empty_one_and_our_own_can_be_out(tmp_path: Path):
    check_output(open_store(str(tmp_path / "new")))
    check_output(open_store(str(tmp_path)))
    for name in ("predictions", "runs", "runs_table", STAGING):
        (tmp_path / name).mkdir()
    check_output(open_store(str(tmp_path)))


def test_out_that_holds_something_else_is_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "holiday.mp4").write_bytes(b"")
    with pytest.raises(OutputError, match=r"holiday\.mp4"):
        check_output(open_store(str(tmp_path)))
    assert _everything(tmp_path) == ["holiday.mp4"]


def test_a_file_cannot_be_out(tmp_path: Path):
    file = tmp_path / "file"
    file.write_bytes(b"")
    with pytest.raises(OutputError, match=str(file)):
        check_output(open_store(str(file)))


def test_a_folder_below_a_file_cannot_be_out(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot"):
        check_writable_or_refuse(open_store(str(tmp_path / "file" / "out")))


def check_writable_or_refuse(store: Store) -> None:
    check_output(store)
    check_writable(store)
