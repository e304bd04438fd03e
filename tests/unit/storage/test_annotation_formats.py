"""The four formats as text, each line as its publisher writes it."""

from __future__ import annotations

import json

import pytest

from cdmodel.errors import SourceError
from storage.activitynet import parse_database
from storage.annotation import AnnotatedVideo
from storage.hmdb51 import keep_shared_movies_apart, parse_class_list, source_movie
from storage.kinetics import parse_rows, to_videos
from storage.ucf101 import parse_classes, parse_list

CLASSES = {"ApplyEyeMakeup": 1, "HandstandPushups": 37}
KINETICS_HEADER = "label,youtube_id,time_start,time_end,split\n"


def _facts(video: AnnotatedVideo) -> tuple[str, tuple[str, ...], str, str | None]:
    return video.name, video.labels, video.group, video.split


def test_ucf101_lines_are_read_with_their_group():
    (video,) = parse_list("trainlist01.txt", "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n", CLASSES, None)
    name = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi"
    assert _facts(video) == (name, ("ApplyEyeMakeup",), "ApplyEyeMakeup_g08", None)
    assert list(video.names()) == [name, "v_ApplyEyeMakeup_g08_c01.avi"]


def test_a_ucf101_test_list_needs_no_numbers_and_a_file_may_spell_its_class_otherwise():
    text = "HandstandPushups/v_HandStandPushups_g01_c04.avi\n\n"
    (video,) = parse_list("testlist01.txt", text, CLASSES, "test")
    assert (video.labels, video.group, video.split) == (("HandstandPushups",), "HandstandPushups_g01", "test")


def test_ucf101_groups_of_two_classes_are_two_groups():
    text = "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\nHandstandPushups/v_HandStandPushups_g08_c01.avi 37\n"
    assert len({video.group for video in parse_list("trainlist01.txt", text, CLASSES, None)}) == 2


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("v_ApplyEyeMakeup_g08_c01.avi 1", "expected Class/v_Class_g01_c01.avi"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup.avi 1", "expected Class/v_Class_g01_c01.avi"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi one", "expected Class/v_Class_g01_c01.avi"),
        ("/etc/v_x_g08_c01.avi 1", "expected Class/v_Class_g01_c01.avi"),
        ("Yodel/v_Yodel_g08_c01.avi 1", "class 'Yodel' is not in classInd.txt"),
        ("ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 37", "has the number 37, in classInd.txt 1"),
    ],
)
def test_a_ucf101_line_that_is_wrong_is_named(line: str, said: str):
    text = f"ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\n\n{line}\n"
    with pytest.raises(SourceError) as caught:
        parse_list("trainlist01.txt", text, CLASSES, None)
    assert caught.value.subject == "trainlist01.txt, line 3"
    assert said in caught.value.reason


def test_ucf101_classes_are_numbered_lines():
    assert parse_classes("1 ApplyEyeMakeup\n2 ApplyLipstick\n") == {"ApplyEyeMakeup": 1, "ApplyLipstick": 2}
    with pytest.raises(SourceError, match=r"classInd\.txt, line 2: expected a number and a class, got 'Lipstick'"):
        parse_classes("1 ApplyEyeMakeup\nLipstick\n")


@pytest.mark.parametrize(
    ("file", "label", "movie"),
    [
        ("April_09_brush_hair_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09"),
        (
            "brush_my_hair_without_glasses_brush_hair_u_nm_np1_fr_goo_0.avi",
            "brush_hair",
            "brush_my_hair_without_glasses",
        ),
        ("kick__Best_kick_to_the_nuts!_kick_f_cm_np1_ba_med_2.avi", "kick", "kick__Best_kick_to_the_nuts!"),
        ("How_to_kick_a_ball_kick_ball_l_nm_np1_ba_bad_0.avi", "kick_ball", "How_to_kick_a_ball"),
        ("kiss_mix_kiss_f_cm_np2_le_med_0.avi", "kiss", "kiss_mix"),
        ("Amazing_Soccer_#2_kick_ball_f_cm_np1_fr_bad_1.avi", "kick_ball", "Amazing_Soccer_#2"),
        ("long_hair_Christa__brush_hair_u_nm_np1_le_goo_0.avi", "brush_hair", "long_hair_Christa_"),
        # Under another class than its own, the six fields at the end still tell where the movie's name ends.
        ("April_09_wave_u_nm_np1_ba_goo_0.avi", "brush_hair", "April_09_wave"),
    ],
)
def test_an_hmdb51_movie_ends_where_the_class_begins(file: str, label: str, movie: str):
    assert source_movie(file, label) == movie


def test_hmdb51_uses_are_training_test_and_neither():
    text = "\n".join(f"Movie{use}_clap_u_nm_np1_ba_goo_0.avi {use} " for use in (0, 1, 2))
    videos = parse_class_list("clap_test_split1.txt", "clap", text)
    assert [_facts(video) for video in videos] == [
        ("clap/Movie1_clap_u_nm_np1_ba_goo_0.avi", ("clap",), "Movie1", None),
        ("clap/Movie2_clap_u_nm_np1_ba_goo_0.avi", ("clap",), "Movie2", "test"),
    ]


def test_an_hmdb51_movie_on_both_sides_is_told_and_its_test_clips_are_a_group_of_their_own():
    kick = parse_class_list("kick_test_split1.txt", "kick", "Troy_kick_u_nm_np1_ba_goo_0.avi 1")
    hug = parse_class_list(
        "hug_test_split1.txt", "hug", "Troy_hug_u_nm_np1_ba_goo_1.avi 2\nHer_hug_u_nm_np1_ba_goo_0.avi 2"
    )
    videos, shared = keep_shared_movies_apart([*kick, *hug])
    assert shared == ("Troy",)
    assert [(video.group, video.split) for video in videos] == [
        ("Troy", None),
        ("Troy (test)", "test"),
        ("Her", "test"),
    ]


@pytest.mark.parametrize("line", ["a.avi", "a.avi 3", "a b.avi 1", "1"])
def test_an_hmdb51_line_that_is_wrong_is_named(line: str):
    with pytest.raises(SourceError, match=r"^clap_test_split1\.txt, line 1: expected a file name and 0, 1 or 2"):
        parse_class_list("clap_test_split1.txt", "clap", line)


def test_kinetics_validates_where_test_has_no_labels():
    text = KINETICS_HEADER + "air drumming,--nQbRBEz2s,104,114,train\nclapping,-3B32lodo2M,59,69,val\n,abc,0,10,test\n"
    videos = to_videos(parse_rows("all.csv", text))
    assert [_facts(video) for video in videos] == [
        ("air drumming/--nQbRBEz2s_000104_000114.mp4", ("air drumming",), "--nQbRBEz2s", None),
        ("clapping/-3B32lodo2M_000059_000069.mp4", ("clapping",), "-3B32lodo2M", "test"),
    ]


def test_kinetics_tests_where_test_has_labels_and_validate_joins_the_training_part():
    text = KINETICS_HEADER + "a,x,0,10,train\nb,y,0,10,validate\na,z,0,10,test\n"
    assert [video.split for video in to_videos(parse_rows("all.csv", text))] == [None, None, "test"]


def test_a_kinetics_test_file_may_lack_the_column_label():
    assert parse_rows("test.csv", "youtube_id,time_start,time_end,split\nabc,0,10,test\n") == ()


def test_kinetics_clips_are_looked_for_where_downloaders_put_them():
    (video,) = to_videos(parse_rows("val.csv", KINETICS_HEADER + '"air drumming",x,1,11,val\n'))
    names = list(video.names())
    assert names[0] == "air drumming/x_000001_000011.mp4"
    assert {"air_drumming/x_000001_000011.mkv", "x_000001_000011.webm", "val/x_000001_000011.mp4"} < set(names)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("label,id\na,b\n", "train.csv: has no column youtube_id, time_start, time_end, split"),
        ("", "train.csv: has no column"),
        (KINETICS_HEADER + "a,x,0,10,train\na,y,0,10,holdout\n", "train.csv, line 3: split 'holdout' is unknown"),
        (KINETICS_HEADER + "a,x,zero,10,train\n", "train.csv, line 2: time_start and time_end must be seconds"),
        (KINETICS_HEADER + "a,x,nan,10,train\n", "train.csv, line 2: time_start and time_end must be seconds"),
        (KINETICS_HEADER + "a,x\n", "train.csv, line 2: split '' is unknown"),
        (KINETICS_HEADER + ",x,0,10,train\n", "train.csv, line 2: has no label"),
        (KINETICS_HEADER + "a,,0,10,train\n", "train.csv, line 2: has no youtube_id"),
    ],
)
def test_a_kinetics_row_that_is_wrong_is_named(text: str, said: str):
    with pytest.raises(SourceError) as caught:
        parse_rows("train.csv", text)
    assert said in str(caught.value)


def test_activitynet_labels_are_those_of_the_segments():
    database = {
        "aaa": {
            "subset": "training",
            "annotations": [{"label": "Surfing", "segment": [0, 1.5]}] * 2,
            "url": "https://x",
        },
        "bbb": {"subset": "validation", "annotations": [{"label": "Yoga"}, {"label": "Surfing"}, {"label": "Yoga"}]},
        "ccc": {"subset": "testing", "annotations": []},
    }
    videos = parse_database("activity_net.json", json.dumps({"version": "1.3", "taxonomy": [], "database": database}))
    assert [_facts(video) for video in videos] == [
        ("v_aaa.mp4", ("Surfing",), "aaa", None),
        ("v_bbb.mp4", ("Yoga", "Surfing"), "bbb", "test"),
    ]
    assert list(videos[0].names()) == ["v_aaa.mp4", "v_aaa.mkv", "v_aaa.webm"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is no annotation of ActivityNet: the document: Invalid JSON"),
        ('{"videos": {}}', "is no annotation of ActivityNet: database: Field required"),
        ('{"database": {"aaa": {"subset": "extra"}}}', "database > aaa > subset"),
        (
            '{"database": {"aaa": {"subset": "training", "annotations": [{}]}}}',
            "database > aaa > annotations > 0 > label",
        ),
        ('{"database": {"aaa": {"subset": "training"}}}', "video aaa: has no label, though it is in training"),
    ],
)
def test_an_activitynet_document_that_is_wrong_is_named(text: str, said: str):
    with pytest.raises(SourceError) as caught:
        parse_database("a.json", text)
    assert str(caught.value).startswith("a.json")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
