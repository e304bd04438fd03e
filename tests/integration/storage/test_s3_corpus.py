from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdmodel.errors import SourceError, VideoNotFound, VideoStorageError, VideoUnreadable
from cdmodel.types import VideoRef
from storage.corpus import CorpusRules, list_videos, open_video
from storage.filesystem import Store, open_store
from storage.read_ahead import MIB, ReadAhead

RANGES = ReadAhead(whole_file_bytes=0)


@pytest.fixture
def store(bucket: str) -> Store:
    return open_store(f"{bucket}/videos")


def _ref(uri: str) -> VideoRef:
    return VideoRef(video_id="v", uri=uri, video_version="e", size_bytes=None)


def test_a_prefix_is_listed_with_etags_as_versions(store: Store):
    for name in ("a.mp4", "deep/b c.mkv", "notes.txt", ".hidden/c.mp4"):
        store.create(name, name.encode())
    listing = list_videos(store.root + "/", CorpusRules())
    assert listing.source == store.root
    assert sorted(video.uri for video in listing.videos) == [f"{store.root}/a.mp4", f"{store.root}/deep/b c.mkv"]
    assert listing.ignored_files == 2
    assert {(len(video.video_version), video.size_bytes) for video in listing.videos} == {(32, 5), (32, 12)}


def test_a_pattern_in_a_bucket_takes_what_matches(store: Store):
    for name in ("a.mp4", "b.mov", "deep/c.mp4"):
        store.create(name, b"1")
    assert [video.uri for video in list_videos(f"{store.root}/*.mp4", CorpusRules()).videos] == [f"{store.root}/a.mp4"]


def test_one_object_is_a_corpus_of_one(store: Store):
    store.create("a.mp4", b"1")
    assert [video.uri for video in list_videos(f"{store.root}/a.mp4", CorpusRules()).videos] == [f"{store.root}/a.mp4"]


def test_an_empty_prefix_is_refused(store: Store):
    with pytest.raises(SourceError, match="no videos found"):
        list_videos(store.root, CorpusRules())


def test_a_manifest_in_a_bucket_names_what_lies_beside_it(store: Store):
    store.create("a.mp4", b"12345")
    table = pa.table({"uri": ["a.mp4", f"{store.root}/gone.mp4"]})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    store.create("m.parquet", sink.getvalue().to_pybytes())
    videos = {video.uri: video for video in list_videos(f"{store.root}/m.parquet", CorpusRules()).videos}
    assert videos[f"{store.root}/a.mp4"].size_bytes == 5
    assert videos[f"{store.root}/gone.mp4"].video_version == "unknown"


@pytest.mark.parametrize(
    "uri", ["/etc/passwd", "../other/a.mp4", "s3://other/a.mp4", "file:///etc/passwd", "http://127.0.0.1/a.mp4"]
)
def test_a_manifest_in_a_bucket_names_nothing_else(store: Store, uri: str):
    store.create("m.csv", f"uri\n{uri}\n".encode())
    with pytest.raises(SourceError, match="row 1"):
        list_videos(f"{store.root}/m.csv", CorpusRules())


def test_a_listing_and_a_manifest_give_a_video_the_same_identity(store: Store):
    store.create("a.mp4", b"12345")
    store.create("m.csv", b"uri\na.mp4\n")
    (listed,) = list_videos(store.root, CorpusRules()).videos
    (named,) = list_videos(f"{store.root}/m.csv", CorpusRules()).videos
    assert listed == named


def test_reading_counts_requests_and_their_bytes(store: Store):
    content = bytes(range(256)) * (8 * MIB // 256)
    store.create("a.mp4", content)
    with open_video(_ref(f"{store.root}/a.mp4"), RANGES) as file:
        # Nothing is known of it: one request looks it up.
        assert (file.read_requests, file.bytes_read) == (1, 0)
        assert b"".join(iter(lambda: file.read(32768), b"")) == content
        # 1, 2, then 4 MiB and the rest of 1.
        assert (file.read_requests, file.bytes_read) == (4, len(content))
        file.seek(0)
        assert file.read() == content
        assert (file.read_requests, file.bytes_read) == (4, len(content))


def test_a_listed_video_is_not_looked_up_again(store: Store):
    store.create("a.mp4", b"12345")
    (listed,) = list_videos(store.root, CorpusRules()).videos
    with open_video(listed) as file:
        assert file.read_requests == 0
        assert file.read() == b"12345"
        assert (file.read_requests, file.bytes_read) == (1, 5)


def test_a_video_that_went_away_since_it_was_listed_is_not_found(store: Store):
    store.create("a.mp4", b"12345")
    (listed,) = list_videos(store.root, CorpusRules()).videos
    store.delete("a.mp4")
    with open_video(listed) as file, pytest.raises(VideoNotFound):
        file.read()


def test_a_video_that_was_replaced_since_it_was_listed_is_not_read(store: Store):
    store.create("a.mp4", b"12345")
    (listed,) = list_videos(store.root, CorpusRules()).videos
    for other in (b"54321", b"1234", b"123456"):
        store.delete("a.mp4")
        store.create("a.mp4", other)
        with open_video(listed) as file, pytest.raises(VideoStorageError, match="changed"):
            file.read()


def test_a_video_is_read_wherever_a_decoder_seeks(store: Store):
    content = bytes(range(256)) * (3 * MIB // 256)
    store.create("a.mp4", content)
    with open_video(_ref(f"{store.root}/a.mp4"), RANGES) as file:
        for offset in (0, 2 * MIB + 5, MIB - 3, 3 * MIB - 10):
            file.seek(offset)
            assert file.read(100) == content[offset : offset + 100]
        assert file.seek(0, 2) == len(content)
        assert file.read(10) == b""


def test_an_empty_object_reads_as_empty(store: Store):
    store.create("a.mp4", b"")
    with open_video(_ref(f"{store.root}/a.mp4")) as file:
        assert file.read(10) == b""


def test_what_is_gone_is_not_found_and_a_prefix_is_unreadable(store: Store):
    store.create("deep/a.mp4", b"1")
    for uri in (f"{store.root}/gone.mp4", "s3://no-such-bucket/a.mp4"):
        with pytest.raises(VideoNotFound):
            open_video(_ref(uri))
    with pytest.raises(VideoUnreadable, match="folder"):
        open_video(_ref(f"{store.root}/deep"))


def test_a_video_that_is_replaced_while_it_is_read_is_not_mixed(store: Store):
    store.create("a.mp4", bytes(4 * MIB))
    with open_video(_ref(f"{store.root}/a.mp4"), RANGES) as file:
        file.read(10)
        store.delete("a.mp4")
        store.create("a.mp4", b"\x01" * (4 * MIB))
        file.seek(3 * MIB)
        with pytest.raises(VideoStorageError, match="changed"):
            file.read(10)
