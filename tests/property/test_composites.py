from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmodel.composites import class_clips_range, divide_groups, draw_background_clips, draw_piece_clips

ROLES = ("train", "conf", "cal", "test", "risk")
shares = st.floats(0, 0.95)


@given(shares, st.integers(1, 30), st.integers(0, 30), st.integers(0, 1000))
def test_a_composite_is_never_longer_than_the_longest(distractors, longest, shortest, seed):
    random = np.random.default_rng(seed)
    fewest, most = class_clips_range(min(shortest, longest), longest, distractors)
    assert fewest <= most
    for clips in range(1, most + 1):
        assert clips + draw_background_clips(clips, distractors, random) <= longest


@given(shares, st.integers(1, 20), st.integers(0, 1000))
def test_the_share_of_one_composite_is_off_by_less_than_a_clip(distractors, clips, seed):
    background = draw_background_clips(clips, distractors, np.random.default_rng(seed))
    assert abs(background - clips * distractors / (1 - distractors)) < 1


@pytest.mark.parametrize("distractors", [0.3, 0.45, 0.65])
def test_the_share_of_many_composites_holds_where_one_cannot_give_it(distractors):
    random = np.random.default_rng(0)
    background = sum(draw_background_clips(1, distractors, random) for _ in range(4000))
    assert background / (4000 + background) == pytest.approx(distractors, abs=0.02)


@given(st.integers(1, 100), st.integers(0, 1000))
def test_a_piece_is_never_longer_than_what_is_left(clips_left, seed):
    assert 1 <= draw_piece_clips(clips_left, np.random.default_rng(seed)) <= clips_left


names = st.lists(st.text("abcdef", min_size=1, max_size=3), min_size=1, max_size=40)
demands = st.dictionaries(st.sampled_from(ROLES), st.integers(1, 50), min_size=1)


@given(names, demands, st.integers(0, 1000))
def test_every_role_gets_groups_while_there_are_enough_whatever_their_order(groups, demand, seed):
    roles = divide_groups(groups, demand, {}, seed)
    assert roles == divide_groups(list(reversed(groups)) * 2, demand, {}, seed)
    assert roles.keys() == set(groups)
    assert len(set(roles.values())) == min(len(demand), len(roles))


@given(names, demands, st.integers(0, 1000))
def test_a_group_whose_recording_has_a_role_keeps_it(groups, demand, seed):
    role = max(demand)
    settled = {groups[0]: role, "elsewhere": role}
    roles = divide_groups(groups, demand, settled, seed)
    assert roles[groups[0]] == role
    assert "elsewhere" not in roles


def test_roles_get_groups_by_what_they_need():
    roles = divide_groups([f"g{number}" for number in range(100)], {"train": 60, "test": 30, "cal": 10}, {}, 0)
    counts = {role: list(roles.values()).count(role) for role in ("train", "test", "cal")}
    assert counts == pytest.approx({"train": 60, "test": 30, "cal": 10}, abs=2)
