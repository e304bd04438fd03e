from __future__ import annotations

from collections import Counter

from cdmodel.splits import split_groups


def test_shares_are_about_50_20_15_15():
    roles = Counter(split_groups((f"g{index}" for index in range(100)), seed=0).values())
    assert roles == {"train": 50, "conf": 20, "cal": 15, "test": 15}


def test_order_and_repeats_do_not_matter_but_the_seed_does():
    names = [f"g{index}" for index in range(30)]
    assert split_groups(names, seed=1) == split_groups([*reversed(names), *names], seed=1)
    assert split_groups(names, seed=1) != split_groups(names, seed=2)


def test_four_groups_are_enough_for_every_role():
    assert sorted(split_groups("abcd", seed=0).values()) == ["cal", "conf", "test", "train"]


def test_with_too_few_groups_train_comes_first():
    assert split_groups("a", seed=0) == {"a": "train"}
