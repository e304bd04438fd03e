from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cdmodel.errors import SourceError, VideoNotFound, VideoUnreadable
from cdmodel.types import VideoRef
from storage.corpus import CorpusListing, CorpusRules, list_videos, open_video
from storage.dataset import read_dataset
from storage.uri import local_path, video_id_of

NO_RULES = CorpusRules()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def _write(path: Path, data: bytes = b"video") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _manifest(folder: Path, text: str, name: str = "manifest.csv") -> str:
    return str(_write(folder / name, text.encode()))


def _names(listing: CorpusListing) -> list[str]:
    return sorted(os.path.basename(local_path(video.uri)) for video in listing.videos)  # noqa: PTH119


def _ref(path: str) -> VideoRef:
    return VideoRef(video_id="v", uri=path, video_version="1-1", size_bytes=None)


def _refusal(source: str, rules: CorpusRules = NO_RULES) -> SourceError:
    with pytest.raises(SourceError) as caught:
        list_videos(source, rules)
    assert "\n" not in str(caught.value)
    return caught.value


def test_a_folder_is_listed_with_its_subfolders_by_id(folder: Path):
    for name in ("b.mp4", "deep/er/a.MKV", "no_suffix"):
        _write(folder / name, name.encode())
    listing = list_videos(str(folder), NO_RULES)
    ids = [video.video_id for video in listing.videos]
    assert _names(listing) == ["a.MKV", "b.mp4", "no_suffix"]
    assert ids == sorted(ids)
    assert {video.video_id for video in listing.videos} == {video_id_of(video.uri) for video in listing.videos}
    assert {video.size_bytes for video in listing.videos} == {5, 13, 9}


def test_sidecars_and_hidden_files_are_counted_and_ignored(folder: Path):
    for name in ("a.mp4", "a.srt", "a.JSON", ".hidden.mp4", "list.csv", ".cache/b.mp4"):
        _write(folder / name)
    listing = list_videos(str(folder), NO_RULES)
    assert _names(listing) == ["a.mp4"]
    assert listing.ignored_files == 4


def test_a_relative_folder_gets_an_absolute_name(folder: Path, monkeypatch: pytest.MonkeyPatch):
    _write(folder / "a.mp4")
    monkeypatch.chdir(folder.parent)
    listing = list_videos("videos/", NO_RULES)
    assert listing.source == str(folder)
    assert listing.videos[0].uri == str(folder / "a.mp4")


def test_a_pattern_takes_what_matches(folder: Path):
    for name in ("a.mp4", "b.mov", "deep/c.mp4"):
        _write(folder / name)
    assert _names(list_videos(f"{folder}/*.mp4", NO_RULES)) == ["a.mp4"]
    assert _names(list_videos(f"{folder}/**/*.mp4", NO_RULES)) == ["a.mp4", "c.mp4"]


def test_a_folder_whose_name_looks_like_a_pattern_means_itself(tmp_path: Path):
    _write(tmp_path / "take [1] *" / "a.mp4")
    assert _names(list_videos(str(tmp_path / "take [1] *"), NO_RULES)) == ["a.mp4"]


def test_a_single_file_is_a_corpus_of_one(folder: Path):
    file = _write(folder / "one [x].mp4")
    assert [video.uri for video in list_videos(str(file), NO_RULES).videos] == [str(file)]


@pytest.mark.parametrize(
    "name",
    [
        b"two words.mp4",
        b'it\'s "quoted".mp4',
        b"new\nline.mp4",
        b"not \xff\xfe utf-8.mp4",
        b"100%25 a%20b.mp4",
        b"#?.mp4",
    ],
)
def test_any_name_that_a_disk_allows_is_listed_and_read_back(folder: Path, name: bytes):
    path = os.path.join(os.fsencode(folder), name)  # noqa: PTH118
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"content")
    (video,) = list_videos(str(folder), NO_RULES).videos
    video.uri.encode("utf-8")
    assert os.fsencode(local_path(video.uri)) == path
    with open_video(video) as opened:
        assert opened.read() == b"content"


def test_a_changed_file_is_another_version_under_the_same_id(folder: Path):
    file = _write(folder / "a.mp4")
    (before,) = list_videos(str(folder), NO_RULES).videos
    file.write_bytes(b"longer than before")
    (after,) = list_videos(str(folder), NO_RULES).videos
    assert before.video_id == after.video_id
    assert before.video_version != after.video_version


def test_pipes_and_dangling_links_are_ignored(folder: Path):
    _write(folder / "a.mp4")
    os.mkfifo(folder / "pipe.mp4")
    (folder / "dangling.mp4").symlink_to(folder / "nowhere")
    listing = list_videos(str(folder), NO_RULES)
    assert _names(listing) == ["a.mp4"]
    assert listing.ignored_files == 2


def test_links_that_lead_back_up_end(folder: Path):
    _write(folder / "deep" / "a.mp4")
    (folder / "deep" / "up").symlink_to(folder)
    assert _names(list_videos(str(folder), NO_RULES)) == ["a.mp4"]


def test_a_folder_named_like_a_video_is_a_folder(folder: Path):
    _write(folder / "x.mp4" / "inside.mp4")
    assert _names(list_videos(str(folder), NO_RULES)) == ["inside.mp4"]
    assert _names(list_videos(f"{folder}/*/*.mp4", NO_RULES)) == ["inside.mp4"]


def test_opening_a_pipe_does_not_wait_for_a_writer(folder: Path):
    os.mkfifo(folder / "pipe.mp4")
    with pytest.raises(VideoUnreadable, match="not a regular file"):
        open_video(_ref(str(folder / "pipe.mp4")))


def test_opening_a_folder_fails_as_unreadable(folder: Path):
    (folder / "x.mp4").mkdir()
    with pytest.raises(VideoUnreadable, match="not a regular file"):
        open_video(_ref(str(folder / "x.mp4")))


def test_opening_what_is_gone_fails_as_not_found(folder: Path):
    with pytest.raises(VideoNotFound) as caught:
        open_video(_ref(str(folder / "gone.mp4")))
    assert caught.value.subject == str(folder / "gone.mp4")


def test_a_name_below_a_file_and_a_name_too_long_are_not_found(folder: Path):
    _write(folder / "a.mp4")
    for name in ("a.mp4/b.mp4", "x" * 300):
        with pytest.raises(VideoNotFound):
            open_video(_ref(str(folder / name)))


def test_a_link_that_leads_to_itself_is_unreadable(folder: Path):
    (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
    with pytest.raises(VideoUnreadable):
        open_video(_ref(str(folder / "loop.mp4")))


def test_reading_counts_bytes_and_requests(folder: Path):
    path = _write(folder / "a.mp4", bytes(1000))
    with open_video(_ref(str(path))) as file:
        file.seek(900)
        assert (file.bytes_read, file.read_requests) == (0, 0)
        file.read(50)
        file.read()
        assert (file.bytes_read, file.read_requests) == (100, 2)
        assert file.tell() == 1000


def test_a_csv_manifest_names_its_videos(folder: Path):
    _write(folder / "a b.mp4", b"12345")
    _write(folder / "new\nline.mp4")
    manifest = _manifest(folder, 'video_id,uri,size_bytes\n007,a b.mp4,\n008,"new\nline.mp4",99\n')
    first, second = list_videos(manifest, NO_RULES).videos
    assert (first.video_id, first.uri, first.size_bytes) == ("007", str(folder / "a b.mp4"), 5)
    assert (second.video_id, second.uri, second.size_bytes) == ("008", str(folder / "new\nline.mp4"), 99)


def test_a_parquet_manifest_names_its_videos(folder: Path):
    _write(folder / "a.mp4", b"12345")
    table = pa.table(
        {"uri": ["a.mp4", "b.mp4"], "etag": [None, '"e1"'], "video_id": ["x", "y"], "size_bytes": [None, 7]}
    )
    pq.write_table(table, folder / "m.PARQUET")
    first, second = list_videos(str(folder / "m.PARQUET"), NO_RULES).videos
    assert (first.video_id, first.size_bytes) == ("x", 5)
    assert (second.video_id, second.video_version, second.size_bytes) == ("y", "e1", 7)


def test_a_manifest_may_say_which_recording_a_video_is_of(folder: Path):
    _write(folder / "a.mp4")
    first, second = list_videos(_manifest(folder, "video_id,uri,group\n1,a.mp4,tape 7\n2,b.mp4,\n"), NO_RULES).videos
    assert (first.group, second.group) == ("tape 7", None)


def test_a_video_that_a_manifest_names_and_nobody_has_is_kept_for_later(folder: Path):
    (video,) = list_videos(_manifest(folder, "uri\ngone.mp4\n"), NO_RULES).videos
    assert (video.video_version, video.size_bytes) == ("unknown", None)


def test_a_manifest_may_name_videos_in_trusted_roots(folder: Path, tmp_path: Path):
    elsewhere = _write(tmp_path / "elsewhere" / "a.mp4")
    manifest = _manifest(folder, f"uri\n{elsewhere}\n")
    listing = list_videos(manifest, CorpusRules(roots=(str(tmp_path / "elsewhere"),)))
    assert listing.videos[0].uri == str(elsewhere)


def test_a_missing_source_is_named(tmp_path: Path):
    for name in ("missing", "missing.csv", "missing.mp4"):
        assert str(tmp_path / name) in str(_refusal(str(tmp_path / name)))


def test_an_empty_folder_and_one_without_videos_are_named(folder: Path):
    assert _refusal(str(folder)).subject == str(folder)
    _write(folder / "a.txt")
    assert "only 1 files" in _refusal(str(folder)).reason


def test_a_pattern_that_matches_nothing_is_named(folder: Path):
    assert _refusal(f"{folder}/*.mp4").subject == f"{folder}/*.mp4"


def test_an_empty_source_is_refused():
    assert "empty name" in _refusal("").reason


def test_chained_urls_are_refused_wherever_they_stand(folder: Path):
    chained = "simplecache::s3://bucket/a.mp4"
    assert _refusal(chained).subject == chained
    refusal = _refusal(_manifest(folder, f"uri\na.mp4\n{chained}\n"))
    assert refusal.reason.startswith(f"row 2: {chained}: chained URLs")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,label\na.mp4,x\n", "has no column uri; its columns are name, label"),
        ("uri\n", "lists no videos"),
        ("uri,label\na.mp4,x\n,y\n", "row 2 has no uri"),
        ("uri,video_id\na.mp4,same\nb.mp4,same\n", "rows 1 and 2 have the same video_id, same"),
        ("uri\na.mp4\n./a.mp4\n", "rows 1 and 2 name the same video"),
        ("uri\nsub/../../other/a.mp4\n", "row 1: sub/../../other/a.mp4 climbs out"),
        ("uri\n/etc/passwd\n", "row 1: /etc/passwd lies outside"),
        ("uri\nfile:///etc/passwd\n", "row 1: file:///etc/passwd lies outside"),
        ("uri\ns3://bucket/a.mp4\n", "row 1: s3://bucket/a.mp4 lies outside"),
        ("uri,size_bytes\na.mp4,big\n", "row 1: size_bytes is no whole number, 'big'"),
        ("uri,label\na.mp4\n", "cannot be read as a table"),
        ("", "cannot be read as a table"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_named_with_what_is_wrong(folder: Path, text: str, said: str):
    manifest = _manifest(folder, text)
    refusal = _refusal(manifest)
    assert refusal.subject == manifest
    assert said in refusal.reason


def test_an_absolute_name_may_not_climb_out_of_the_folder_either(folder: Path):
    assert "lies outside" in _refusal(_manifest(folder, f"uri\n{folder}/../other.mp4\n")).reason


def test_a_sibling_folder_whose_name_begins_alike_is_outside(folder: Path, tmp_path: Path):
    _write(tmp_path / "videos2" / "a.mp4")
    assert "lies outside" in _refusal(_manifest(folder, f"uri\n{tmp_path}/videos2/a.mp4\n")).reason


def test_a_parquet_manifest_that_is_not_parquet_is_named(folder: Path):
    refusal = _refusal(_manifest(folder, "uri\na.mp4\n", "m.parquet"))
    assert refusal.subject == str(folder / "m.parquet")


def test_a_data_set_is_read_from_class_folders(folder: Path):
    for name in ("run/a.mp4", "sit/deep/b.mp4"):
        _write(folder / name)
    rows = read_dataset(str(folder)).videos
    assert {(Path(row.video.uri).name, *row.labels) for row in rows} == {("a.mp4", "run"), ("b.mp4", "sit")}
    assert all(row.group == row.video.uri and row.split is None for row in rows)


def test_class_folders_of_a_bucket_are_read_like_those_of_a_disk():
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/class-folders/run/a.mp4", b"video")
    try:
        assert [row.labels for row in read_dataset("memory://class-folders").videos] == [("run",)]
    finally:
        memory.rm("/class-folders", recursive=True)


def test_a_data_set_is_read_from_a_manifest_in_its_order(folder: Path):
    for name in ("b.mp4", "a.mp4"):
        _write(folder / name)
    manifest = _manifest(folder, "uri,label,group,split\nb.mp4,run,g1,train\na.mp4,sit,,test\n")
    rows = read_dataset(manifest).videos
    assert [(*row.labels, row.group, row.split) for row in rows] == [
        ("run", "g1", "train"),
        ("sit", str(folder / "a.mp4"), "test"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uri\na.mp4\n", "has no column label"),
        ("uri,label\na.mp4,\n", "row 1 has no label"),
        ("uri,label,split\na.mp4,x,train\nb.mp4,x,holdout\n", "row 2: split 'holdout' is unknown; use train"),
        ("uri,label,split\na.mp4,x,train\nb.mp4,x,\n", "column split is filled in some rows only"),
        ("uri,label,group,split\na.mp4,x,g,train\nb.mp4,x,g,test\n", "group 'g' lies both in train and in test"),
    ],
)
def test_a_data_set_that_cannot_be_used_is_named_with_what_is_wrong(folder: Path, text: str, said: str):
    manifest = _manifest(folder, text)
    with pytest.raises(SourceError) as caught:
        read_dataset(manifest)
    assert caught.value.subject == manifest
    assert said in caught.value.reason


def test_a_video_beside_the_class_folders_is_refused_by_name(folder: Path):
    _write(folder / "run" / "a.mp4")
    _write(folder / "stray.mp4")
    with pytest.raises(SourceError, match=r"stray\.mp4 lies in no class folder"):
        read_dataset(str(folder))
