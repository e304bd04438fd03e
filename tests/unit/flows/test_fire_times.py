"""When a cron fires, and whether a night was missed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.fire_times import last_fire, next_fires, why_catch_up

NOON = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
TWO = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)
NIGHT = timedelta(days=1)


def test_the_next_fires_are_in_the_zone_and_after_now() -> None:
    fires = next_fires("0 2 * * *", "Europe/Berlin", NOON, 2)
    assert [fire.isoformat() for fire in fires] == ["2026-11-26T02:00:00+01:00", "2026-11-27T02:00:00+01:00"]


def test_hours_are_those_of_the_wall_clock_on_both_sides_of_a_change_of_the_clocks() -> None:
    fires = next_fires("30 6 * * *", "Europe/Berlin", datetime(2026, 10, 24, 12, 0, tzinfo=UTC), 1)
    assert fires[0].isoformat() == "2026-10-25T06:30:00+01:00"
    assert (
        last_fire("30 6 * * *", "Europe/Berlin", fires[0] - timedelta(hours=1)).isoformat().endswith("06:30:00+02:00")
    )


def test_a_time_at_which_it_fires_is_the_last_one() -> None:
    assert last_fire("0 2 * * *", "UTC", TWO) == TWO
    assert last_fire("0 2 * * *", "UTC", TWO - timedelta(seconds=1)) == TWO - NIGHT


@settings(deadline=None)
@given(st.integers(0, 59), st.integers(0, 23), st.integers(0, 10**8))
def test_the_last_fire_and_the_next_one_stand_around_now(minute: int, hour: int, seconds: int) -> None:
    now, cron = NOON + timedelta(seconds=seconds), f"{minute} {hour} * * *"
    last, (following,) = last_fire(cron, "UTC", now), next_fires(cron, "UTC", now, 1)
    assert last <= now < following
    assert following - last == NIGHT


@pytest.mark.parametrize("cron", ["0 0 31 2 *", "0 0 30 2 *"])
def test_a_cron_that_never_fires_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="never fires"):
        next_fires(cron, "UTC", NOON, 1)


@pytest.mark.parametrize(
    "cron", ["", "nightly", "61 * * * *", "0 2 * *", "0 2 * * * *", "@daily", "r 2 * * *", "0 25 * * *"]
)
def test_what_is_no_cron_of_five_fields_is_refused(cron: str) -> None:
    with pytest.raises(ValueError, match="is none"):
        next_fires(cron, "UTC", NOON, 1)


@pytest.mark.parametrize(
    ("last_run", "served_since", "unfinished", "why"),
    [
        (TWO + timedelta(minutes=5), TWO - 9 * NIGHT, False, None),
        (TWO - NIGHT, TWO - 9 * NIGHT, False, "missed"),
        (TWO - 5 * NIGHT, TWO - 9 * NIGHT, False, "missed"),
        (None, TWO - 9 * NIGHT, False, "missed"),
        (None, TWO + timedelta(hours=1), False, None),
        (TWO - NIGHT, None, False, "missed"),
        (None, None, False, None),
        (TWO + timedelta(minutes=5), TWO - 9 * NIGHT, True, "unfinished"),
        (None, None, True, "unfinished"),
    ],
    ids=[
        "tonight's run was made",
        "it was not",
        "nor those before",
        "none was ever made",
        "it is served since this morning",
        "another server has it now",
        "it is served for the first time",
        "tonight's run was cut short",
        "the first one was",
    ],
)
def test_one_run_makes_good_for_what_was_missed(
    last_run: datetime | None, served_since: datetime | None, unfinished: bool, why: str | None
) -> None:
    assert (
        why_catch_up(
            last_due=last_fire("0 2 * * *", "UTC", NOON),
            last_run=last_run,
            served_since=served_since,
            unfinished=unfinished,
        )
        == why
    )
