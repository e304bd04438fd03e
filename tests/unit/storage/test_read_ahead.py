from __future__ import annotations

import pytest

from storage.read_ahead import MIB, Hole, PlannedFetch, ReadAhead, plan_fetch

LARGE = 1000 * MIB
SETTINGS = ReadAhead(
    first_bytes=MIB, before_bytes=MIB // 2, most_bytes=16 * MIB, whole_file_bytes=32 * MIB, kept_bytes=64 * MIB
)


def _hole(start_mib: float, end_mib: float, read_ahead_mib: int) -> Hole:
    return Hole(start=int(start_mib * MIB), end=int(end_mib * MIB), read_ahead_bytes=read_ahead_mib * MIB)


@pytest.mark.parametrize(
    ("why", "start_mib", "hole", "expected_start_mib", "expected_end_mib", "expected_read_ahead_mib"),
    [
        ("the first look takes little", 0, _hole(0, 1000, 0), 0, 1, 1),
        ("going on takes twice as much", 1, _hole(1, 1000, 1), 1, 3, 2),
        ("and again", 7, _hole(7, 1000, 4), 7, 15, 8),
        ("up to the most", 31, _hole(31, 1000, 16), 31, 47, 16),
        ("stepping over a little goes on", 2, _hole(1, 1000, 1), 2, 4, 2),
        ("a jump ahead starts over, a little before", 2.5, _hole(1, 1000, 16), 2, 3.5, 1),
        ("a jump back to what nothing was kept before starts over", 5, _hole(0, 90, 0), 4.5, 6, 1),
        ("what is kept before a jump is not fetched again", 2.25, _hole(2, 90, 0), 2, 3.25, 1),
        ("what is kept is not fetched again", 1, _hole(1, 2.5, 16), 1, 2.5, 16),
        ("the rest of a hole comes along", 1, _hole(1, 3.75, 1), 1, 3.75, 2),
        ("the rest of the file comes along", 998.25, _hole(1, 1000, 16), 997.75, 1000, 1),
    ],
)
def test_how_much_the_next_request_takes(
    why: str,
    start_mib: float,
    hole: Hole,
    expected_start_mib: float,
    expected_end_mib: float,
    expected_read_ahead_mib: int,
):
    start = int(start_mib * MIB)
    planned = plan_fetch(start, start + 100, hole, LARGE, SETTINGS)
    assert planned == PlannedFetch(
        start=int(expected_start_mib * MIB),
        end=int(expected_end_mib * MIB),
        read_ahead_bytes=expected_read_ahead_mib * MIB,
    ), why


@pytest.mark.parametrize(("wanted_mib", "taken_mib"), [(1, 1), (5, 5), (16, 16), (400, 16)])
def test_what_is_wanted_at_once_comes_at_once_up_to_the_most(wanted_mib: int, taken_mib: int):
    planned = plan_fetch(0, wanted_mib * MIB, _hole(0, 1000, 0), LARGE, SETTINGS)
    assert (planned.start, planned.end) == (0, taken_mib * MIB)


@pytest.mark.parametrize(("file_bytes", "whole"), [(1, True), (32 * MIB, True), (32 * MIB + 1, False)])
def test_a_small_file_comes_whole_wherever_it_is_read_first(file_bytes: int, whole: bool):
    hole = Hole(start=0, end=file_bytes, read_ahead_bytes=0)
    planned = plan_fetch(file_bytes - 1, file_bytes, hole, file_bytes, SETTINGS)
    assert ((planned.start, planned.end) == (0, file_bytes)) == whole


def test_no_request_is_larger_than_what_may_be_kept():
    for read_ahead_mib in (0, 1, 8, 16):
        for wanted in (1, 20 * MIB, LARGE):
            planned = plan_fetch(MIB, MIB + wanted, _hole(1, 1000, read_ahead_mib), LARGE, SETTINGS)
            assert planned.end - planned.start <= SETTINGS.most_request_bytes <= SETTINGS.kept_bytes


@pytest.mark.parametrize(
    "wrong", [{"first_bytes": 0}, {"before_bytes": -1}, {"first_bytes": 17 * MIB}, {"kept_bytes": 16 * MIB}]
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict[str, int]):
    with pytest.raises(ValueError, match="_bytes must"):
        ReadAhead(**wrong)
