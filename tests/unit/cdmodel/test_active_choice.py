"""Which videos to label next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdmodel.active_choice import REDUNDANCY, Contender, choose_next


def contender(name: str, worth: float, label: str = "run", group: str | None = None) -> Contender:
    return Contender(video_id=name, group=group or name, worth=worth, probabilities={label: 0.6, "sit": 0.4})


def test_the_most_worth_comes_first_and_then_what_is_not_like_it() -> None:
    found = choose_next([contender("a", 1.0), contender("b", 0.9), contender("c", 0.5, "jump")], 3)
    assert found == [0, 2, 1], "b would tell what a tells; c is another class"


def test_one_recording_is_asked_about_once_while_others_are_worth_more() -> None:
    films = [contender("a", 1.0, "run", "film"), contender("b", 0.99, "jump", "film"), contender("c", 0.5, "swim")]
    assert choose_next(films, 2) == [0, 2]
    assert 0.99 * (1 - REDUNDANCY) < 0.5 * (1 - REDUNDANCY * 0.4)


def test_equal_ones_go_by_name_and_all_are_chosen_where_there_are_not_so_many() -> None:
    assert choose_next([contender("b", 1.0, "x"), contender("a", 1.0, "y")], 9) == [1, 0]
    assert choose_next([], 3) == []


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30), st.integers(1, 30))
def test_no_video_is_chosen_twice_and_the_first_is_the_most_worth(worths: list[float], count: int) -> None:
    found = choose_next([contender(f"{place:02d}", worth) for place, worth in enumerate(worths)], count)
    assert len(found) == len(set(found)) == min(count, len(worths))
    assert worths[found[0]] == pytest.approx(max(worths))
