from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from storage.lookahead import map_ahead


def test_answers_come_in_the_order_of_the_items():
    first_may_end = threading.Event()

    def answer(item: int) -> int:
        if item == 0:
            assert first_may_end.wait(10)
        else:
            first_may_end.set()
        return item * item

    assert list(map_ahead(answer, range(20), ahead=4)) == [item * item for item in range(20)]


def test_items_are_taken_only_a_little_ahead_of_the_answers():
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(100):
            taken.append(item)
            yield item

    answers = map_ahead(lambda item: item, items(), ahead=3)
    assert next(answers) == 0
    assert len(taken) == 3
    answers.close()  # type: ignore[attr-defined]
    assert len(taken) == 3


def test_an_error_is_raised_in_its_place():
    answers = map_ahead(lambda item: 10 // item, [5, 2, 0, 1], ahead=4)
    assert [next(answers), next(answers)] == [2, 5]
    with pytest.raises(ZeroDivisionError):
        next(answers)


def test_no_items_are_no_answers():
    assert list(map_ahead(lambda item: item, [])) == []
