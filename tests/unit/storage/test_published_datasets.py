"""Published data sets from end to end: annotation files and a small tree of real videos."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import numpy as np
import pytest

from cdmodel.decode import ClipReader
from cdmodel.encode import encode_mp4
from cdmodel.errors import SourceError
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.splits import assign_roles
from cdmodel.types import Dataset
from storage.corpus import open_video
from storage.dataset import read_dataset

HMDB_TAIL = "u_nm_np1_ba_goo_0.avi"


@pytest.fixture(scope="module")
def video() -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, size=(32, 32, 32, 3)).astype(np.uint8)
    return encode_mp4(frames, 16)


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def _write(folder: Path, texts: dict[str, str]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text)
    return folder


def _put(folder: Path, video: bytes, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(video)


def _ucf101(folder: Path, *, train: str | None = None, test: str | None = None) -> str:
    _write(
        folder / "ucf",
        {
            "classInd.txt": "1 Archery\n2 YoYo\n",
            "trainlist01.txt": train or "Archery/v_Archery_g08_c01.avi 1\nYoYo/v_YoYo_g08_c01.avi 2\n",
            "testlist01.txt": test or "Archery/v_Archery_g01_c01.avi\nYoYo/v_YoYo_g01_c01.avi\n",
        },
    )
    return f"ucf101:{folder}/ucf/trainlist01.txt"


def _refusal(source: str, videos: Path | None, **settings: str) -> SourceError:
    with pytest.raises(SourceError) as caught:
        read_dataset(source, videos=None if videos is None else str(videos), **settings)
    assert "\n" not in str(caught.value)
    return caught.value


def _rows(dataset: Dataset, folder: Path) -> list[tuple[str, str, str, str | None]]:
    return [
        (str(Path(row.video.uri).relative_to(folder)), "|".join(row.labels), row.group, row.split)
        for row in dataset.videos
    ]


def _assert_decodes(dataset: Dataset) -> None:
    geometry = ClipGeometry(frames=4, height=16, width=16)
    for row in dataset.videos:
        with open_video(row.video) as file:
            batches = list(ClipReader(file, row.video.uri, ClipSampling()).read_clips(geometry))
        assert sum(len(batch.pixels_NTCHW) for batch in batches) > 0


def test_ucf101_is_read_as_published(tmp_path, videos, video):
    _put(videos, video, "Archery/v_Archery_g08_c01.avi", "YoYo/v_YoYo_g08_c01.avi", "v_Archery_g01_c01.avi")
    dataset = read_dataset(_ucf101(tmp_path), videos=str(videos))
    assert _rows(dataset, videos) == [
        ("Archery/v_Archery_g08_c01.avi", "Archery", "Archery_g08", None),
        ("YoYo/v_YoYo_g08_c01.avi", "YoYo", "YoYo_g08", None),
        ("v_Archery_g01_c01.avi", "Archery", "Archery_g01", "test"),
    ]
    assert dataset.missing == ("YoYo/v_YoYo_g01_c01.avi",)
    _assert_decodes(dataset)
    assert [row.split for row in assign_roles(dataset.videos, seed=0)][2] == "test"


def test_the_number_of_the_training_list_picks_the_test_list(tmp_path, videos, video):
    _put(videos, video, "YoYo/v_YoYo_g01_c01.avi", "YoYo/v_YoYo_g08_c01.avi")
    _ucf101(tmp_path)
    _write(
        tmp_path / "ucf",
        {"trainlist02.txt": "YoYo/v_YoYo_g01_c01.avi 2\n", "testlist02.txt": "YoYo/v_YoYo_g08_c01.avi\n"},
    )
    dataset = read_dataset(f"ucf101:{tmp_path}/ucf/trainlist02.txt", videos=str(videos))
    assert [(row.group, row.split) for row in dataset.videos] == [("YoYo_g01", None), ("YoYo_g08", "test")]


def test_hmdb51_is_read_as_published(tmp_path, videos, video):
    _write(
        tmp_path / "splits",
        {
            "brush_hair_test_split1.txt": f"A_brush_hair_{HMDB_TAIL} 1 \nB_brush_hair_{HMDB_TAIL} 2 \n",
            "kick_test_split1.txt": f"B_kick_{HMDB_TAIL} 1 \nC_kick_{HMDB_TAIL} 0 \n",
            "kick_test_split2.txt": "of another split\n",
        },
    )
    _put(videos, video, f"brush_hair/A_brush_hair_{HMDB_TAIL}", f"brush_hair/B_brush_hair_{HMDB_TAIL}")
    _put(videos, video, f"B_kick_{HMDB_TAIL}", f"kick/C_kick_{HMDB_TAIL}")
    dataset = read_dataset(f"hmdb51:{tmp_path}/splits#1", videos=str(videos))
    assert _rows(dataset, videos) == [
        (f"brush_hair/A_brush_hair_{HMDB_TAIL}", "brush_hair", "A", None),
        (f"brush_hair/B_brush_hair_{HMDB_TAIL}", "brush_hair", "B (test)", "test"),
        (f"B_kick_{HMDB_TAIL}", "kick", "B", None),
    ]
    assert dataset.shared_sources == ("B",)
    assert dataset.missing == ()
    _assert_decodes(dataset)


def test_kinetics_is_read_from_one_file_or_a_folder_of_parts(tmp_path, videos, video):
    header = "label,youtube_id,time_start,time_end,split\n"
    train, validate = "air drumming,x,1,11,train\n", "clapping,y,2,12,validate\nclapping,gone,2,12,validate\n"
    _write(tmp_path / "parts", {"train.csv": header + train, "validate.csv": header + validate})
    _write(tmp_path, {"all.csv": header + train + validate})
    _put(videos, video, "air drumming/x_000001_000011.mp4", "y_000002_000012.mp4")
    dataset = read_dataset(f"kinetics:{tmp_path}/parts", videos=str(videos))
    assert _rows(dataset, videos) == [
        ("air drumming/x_000001_000011.mp4", "air drumming", "x", None),
        ("y_000002_000012.mp4", "clapping", "y", "test"),
    ]
    assert dataset.missing == ("clapping/gone_000002_000012.mp4",)
    assert read_dataset(f"kinetics:{tmp_path}/all.csv", videos=str(videos)) == dataset
    _assert_decodes(dataset)


def _activitynet(folder: Path, *labels: str) -> str:
    database = {
        "aaa": {"subset": "training", "annotations": [{"label": label, "segment": [0, 1]} for label in labels]},
        "bbb": {"subset": "validation", "annotations": [{"label": "Yoga", "segment": [0, 1]}]},
        "ccc": {"subset": "testing", "annotations": []},
    }
    _write(folder, {"activity_net.json": json.dumps({"database": database})})
    return f"activitynet:{folder}/activity_net.json"


def test_activitynet_is_read_as_published_with_one_label_or_several(tmp_path, videos, video):
    _put(videos, video, "v_aaa.mp4", "v_bbb.mkv", "v_ccc.mp4")
    dataset = read_dataset(_activitynet(tmp_path, "Yoga", "Surfing"), videos=str(videos), label_kind="multi")
    assert _rows(dataset, videos) == [("v_aaa.mp4", "Yoga|Surfing", "aaa", None), ("v_bbb.mkv", "Yoga", "bbb", "test")]
    _assert_decodes(dataset)
    single = read_dataset(_activitynet(tmp_path, "Yoga", "Yoga"), videos=str(videos))
    assert [row.labels for row in single.videos] == [("Yoga",), ("Yoga",)]


def test_several_labels_where_one_is_expected_are_refused_with_the_setting(tmp_path, videos, video):
    _put(videos, video, "v_aaa.mp4")
    refusal = _refusal(_activitynet(tmp_path, "Yoga", "Surfing"), videos)
    assert "v_aaa.mp4" in refusal.reason
    assert 'several labels (Yoga, Surfing); if that is meant, set label_kind = "multi"' in refusal.reason


def test_videos_are_looked_for_at_a_url_too(tmp_path, video):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/ucf-tree/YoYo/v_YoYo_g08_c01.avi", video)
    try:
        dataset = read_dataset(_ucf101(tmp_path), videos="memory://ucf-tree")
        assert [row.video.uri for row in dataset.videos] == ["memory://ucf-tree/YoYo/v_YoYo_g08_c01.avi"]
        assert len(dataset.missing) == 3
    finally:
        memory.rm("/ucf-tree", recursive=True)


def test_annotations_are_read_from_a_url_too(tmp_path, videos, video):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/hmdb-splits/clap_test_split1.txt", f"A_clap_{HMDB_TAIL} 1 \n".encode())
    _put(videos, video, f"clap/A_clap_{HMDB_TAIL}")
    try:
        dataset = read_dataset("hmdb51:memory://hmdb-splits/#1", videos=str(videos))
        assert [row.group for row in dataset.videos] == ["A"]
    finally:
        memory.rm("/hmdb-splits", recursive=True)


def test_no_video_at_all_is_refused_with_the_folder_and_a_path(tmp_path, videos):
    refusal = _refusal(_ucf101(tmp_path), videos)
    assert refusal.subject == str(videos)
    assert refusal.reason == (
        f"none of the 4 annotated videos is here; expected, say, {videos}/Archery/v_Archery_g08_c01.avi"
    )


def test_a_folder_of_videos_that_is_not_there_is_named(tmp_path, videos):
    refusal = _refusal(_ucf101(tmp_path), videos / "gone")
    assert (refusal.subject, refusal.reason) == (str(videos / "gone"), "does not exist")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("ucf:x", "'ucf' is no known kind of data set; use ucf101, hmdb51, kinetics, activitynet, or a plain path"),
        ("ucf101:", "names no annotation; write ucf101:ANNOTATIONS"),
        ("ucf101:{folder}/classInd.txt", "is no split of UCF101; name its training list"),
        ("ucf101:{folder}/trainlist01.txt", "classInd.txt: the annotation cannot be read: does not exist"),
        ("hmdb51:{folder}", "names no split; write hmdb51:FOLDER#1"),
        ("hmdb51:{folder}#one", "names no split; write hmdb51:FOLDER#1"),
        ("hmdb51:{folder}#4", "holds no split 4 of HMDB51: no file <class>_test_split4.txt"),
        ("kinetics:{folder}", "holds no annotation of Kinetics; expected train.csv"),
        ("kinetics:{folder}/train.csv", "the annotation cannot be read: does not exist"),
        ("activitynet:{folder}/a.json", "the annotation cannot be read: does not exist"),
    ],
)
def test_an_annotation_that_cannot_be_used_is_named(tmp_path, videos, source, said):
    assert said in str(_refusal(source.format(folder=tmp_path), videos))


def test_bytes_that_are_no_text_are_refused(tmp_path, videos):
    (tmp_path / "a.csv").write_bytes(b"label,\xff\xfe")
    assert _refusal(f"kinetics:{tmp_path}/a.csv", videos).reason == "is no UTF-8 text"


def test_an_annotation_without_any_video_is_refused(tmp_path, videos):
    _write(tmp_path, {"a.csv": "label,youtube_id,time_start,time_end,split\n"})
    assert "names no video" in _refusal(f"kinetics:{tmp_path}/a.csv", videos).reason


def test_a_video_in_both_lists_is_refused_with_both_places(tmp_path, videos):
    source = _ucf101(tmp_path, test="YoYo/v_YoYo_g01_c01.avi\nYoYo/v_YoYo_g08_c01.avi\n")
    said = "YoYo/v_YoYo_g08_c01.avi is to train and to test: trainlist01.txt, line 2; testlist01.txt, line 2"
    assert _refusal(source, videos).reason == said


def test_a_video_named_twice_is_refused_with_both_places(tmp_path, videos):
    source = _ucf101(tmp_path, test="YoYo/v_YoYo_g01_c01.avi\n" * 2)
    assert "is named twice: testlist01.txt, line 1; testlist01.txt, line 2" in _refusal(source, videos).reason


def test_one_file_for_two_rows_is_refused(tmp_path, videos, video):
    text = "label,youtube_id,time_start,time_end,split\na,x,1,11,train\nb,x,1,11,train\n"
    _write(tmp_path, {"a.csv": text})
    _put(videos, video, "x_000001_000011.mp4")
    assert (
        "is the video of two rows: a.csv, line 2; a.csv, line 3"
        in _refusal(f"kinetics:{tmp_path}/a.csv", videos).reason
    )


def test_a_group_in_both_lists_is_refused_by_name(tmp_path, videos, video):
    _put(videos, video, "YoYo/v_YoYo_g08_c01.avi", "YoYo/v_YoYo_g08_c02.avi")
    refusal = _refusal(_ucf101(tmp_path, test="YoYo/v_YoYo_g08_c02.avi\n"), videos)
    assert refusal.reason == "group 'YoYo_g08' lies both in the training part and in test; a group has one split"


@pytest.mark.parametrize(
    ("label", "youtube_id"), [("..", "secret"), ("a", "../../secret"), ("/etc", "passwd"), ("s3://other", "x")]
)
def test_a_name_that_leaves_the_folder_is_refused_with_its_row(tmp_path, videos, label, youtube_id):
    text = f"label,youtube_id,time_start,time_end,split\nok,y,1,11,train\n{label},{youtube_id},1,11,train\n"
    _write(tmp_path, {"a.csv": text})
    refusal = _refusal(f"kinetics:{tmp_path}/a.csv", videos)
    assert "a.csv, line 3:" in refusal.reason
    assert "lies outside the folder of the videos" in refusal.reason


def test_an_id_that_leaves_the_folder_is_refused_too(tmp_path, videos):
    _write(tmp_path, {"a.json": '{"database": {"/../x": {"subset": "training", "annotations": [{"label": "a"}]}}}'})
    assert "a.json, video /../x" in _refusal(f"activitynet:{tmp_path}/a.json", videos).reason


def test_published_annotations_need_the_folder_of_the_videos(tmp_path):
    assert "name it with --videos FOLDER" in _refusal(_ucf101(tmp_path), None).reason


def test_a_plain_data_set_takes_no_folder_of_videos(videos, video):
    _put(videos, video, "run/a.mp4")
    assert "--videos is for published annotations" in _refusal(str(videos), videos).reason


def test_a_place_on_disk_with_a_colon_in_its_name_is_a_place(tmp_path, monkeypatch, video):
    monkeypatch.chdir(tmp_path)
    _put(tmp_path, video, "take:2/run/a.mp4")
    assert [row.labels for row in read_dataset("take:2").videos] == [("run",)]
