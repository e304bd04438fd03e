from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmodel.errors import SourceError
from cdmodel.splits import SPLIT_SHARES, absent_classes, assign_roles, check_classes, split_groups
from cdmodel.types import LabeledVideo, Split, VideoRef

ROLES = [role for role, _ in SPLIT_SHARES]


def _video(name: str, group: str, split: Split | None = None, labels: tuple[str, ...] = ("run",)) -> LabeledVideo:
    ref = VideoRef(video_id=name, uri=f"/{name}.mp4", video_version="1", size_bytes=1)
    return LabeledVideo(video=ref, labels=labels, group=group, split=split)


def test_the_shares_are_a_whole():
    assert sum(share for _, share in SPLIT_SHARES) == pytest.approx(1)


def test_a_hundred_groups_are_divided_in_these_shares():
    roles = Counter(split_groups((f"g{index}" for index in range(100)), seed=0).values())
    assert roles == {"train": 45, "conf": 15, "cal": 12, "risk": 13, "test": 15}


def test_order_and_repeats_do_not_matter_but_the_seed_does():
    names = [f"g{index}" for index in range(30)]
    assert split_groups(names, seed=1) == split_groups([*reversed(names), *names], seed=1)
    assert split_groups(names, seed=1) != split_groups(names, seed=2)


@pytest.mark.parametrize("count", range(1, 8))
def test_with_few_groups_the_first_roles_are_served_first(count: int):
    assert set(split_groups("abcdefg"[:count], seed=0).values()) == set(ROLES[:count])


def test_only_the_roles_asked_for_are_given():
    roles = Counter(split_groups((f"g{index}" for index in range(85)), 0, ["risk", "cal", "train", "conf"]).values())
    assert roles == {"train": 45, "conf": 15, "cal": 12, "risk": 13}


def test_a_published_test_part_stays_and_the_rest_is_divided_among_the_other_roles():
    tested = [_video(f"t{index}", f"t{index // 2}", "test") for index in range(20)]
    rest = [_video(f"v{index}", f"g{index // 2}") for index in range(170)]
    videos = assign_roles([*tested, *rest], seed=3)
    assert [video.video for video in videos] == [video.video for video in [*tested, *rest]]
    assert videos[:20] == tuple(tested)
    assert Counter(video.split for video in videos[20:]) == {"train": 90, "conf": 30, "cal": 24, "risk": 26}


def test_a_data_set_that_gives_all_roles_is_left_alone():
    videos = tuple(_video(role, role, role) for role in ROLES)
    assert assign_roles(videos, seed=0) == videos


def test_without_any_role_all_five_are_given():
    assert {video.split for video in assign_roles([_video(name, name) for name in "abcde"], seed=0)} == set(ROLES)


def test_where_every_role_is_taken_the_rest_trains():
    videos = [*(_video(role, role, role) for role in ROLES), _video("late", "late")]
    assert assign_roles(videos, seed=0)[-1].split == "train"


@settings(deadline=None, max_examples=60)
@given(
    groups=st.lists(st.integers(0, 12), min_size=1, max_size=60),
    roles=st.dictionaries(st.integers(0, 12), st.sampled_from(ROLES)),
    seed=st.integers(0, 5),
)
def test_no_group_is_ever_divided_and_no_given_role_changed(groups, roles, seed):
    # Every second video of a group that has a role comes without it.
    videos = [
        _video(str(number), str(group), roles.get(group) if number % 2 else None) for number, group in enumerate(groups)
    ]
    assigned = assign_roles(videos, seed)
    assert all(new.split is not None for new in assigned)
    assert all(new.split == old.split for old, new in zip(videos, assigned, strict=True) if old.split)
    assert len({(video.group, video.split) for video in assigned}) == len({video.group for video in assigned})


def test_classes_come_sorted():
    videos = [_video("a", "a", "train", ("sit", "run")), _video("b", "b", "test")]
    assert check_classes("data", videos) == ("run", "sit")


def test_one_class_only_is_refused_by_name():
    with pytest.raises(SourceError, match="at least two classes, found run"):
        check_classes("data", [_video("a", "a", "train")])


def test_a_class_that_a_role_lacks_is_refused_only_where_the_role_must_be_complete():
    videos = [_video("a", "a", "train", ("run",)), _video("b", "b", "train", ("sit",)), _video("c", "c", "test")]
    assert absent_classes(videos, "test") == ("sit",)
    assert check_classes("data", videos) == ("run", "sit")
    with pytest.raises(SourceError, match="no video in test shows sit"):
        check_classes("data", videos, complete=("train", "test"))


def test_of_many_absent_classes_ten_are_named():
    videos = [_video("a", "a", "test", tuple(f"c{index:02d}" for index in range(13)))]
    with pytest.raises(SourceError, match=r"shows c00, .*c09 and 3 more$"):
        check_classes("data", videos)
