from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest

from cdmodel.errors import ErrorKind
from cdmodel.failure_policy import FailurePolicy, PastFailure, is_worth_another_attempt

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
TODAY, BEFORE = "pyav-18.1.0", "pyav-17.0.0"
TRIED_AGAIN = {
    "not_found": True,
    "unreadable": False,
    "no_video_stream": False,
    "no_frames": False,
    "unsupported_codec": False,
    "decode_error": False,
    "decode_timeout": True,
    "decoder_crashed": False,
    "too_large": False,
    "storage_error": True,
    "worker_killed": False,
}


def _nights(*kinds: str, decoder: str = TODAY) -> list[PastFailure]:
    """Return one failure per night, the last one last."""
    return [
        PastFailure(error_kind=kind, decoder=decoder, failed_at=NOON + timedelta(days=night))
        for night, kind in enumerate(kinds)
    ]


def test_the_table_knows_every_kind():
    assert set(TRIED_AGAIN) == set(get_args(ErrorKind))


@pytest.mark.parametrize(("kind", "again"), TRIED_AGAIN.items())
def test_after_one_failure_only_passing_kinds_are_tried_again(kind: str, again: bool):
    assert is_worth_another_attempt(_nights(kind), TODAY, FailurePolicy()) is again


@pytest.mark.parametrize("kind", TRIED_AGAIN)
def test_another_decoder_tries_everything_again(kind: str):
    assert is_worth_another_attempt(_nights(*[kind] * 9, decoder=BEFORE), TODAY, FailurePolicy())


@pytest.mark.parametrize("kind", [kind for kind, again in TRIED_AGAIN.items() if again])
def test_the_third_night_is_the_last(kind: str):
    verdicts = [is_worth_another_attempt(_nights(*[kind] * nights), TODAY, FailurePolicy()) for nights in (1, 2, 3, 4)]
    assert verdicts == [True, True, False, False]


@pytest.mark.parametrize(
    ("nights", "again"),
    [
        (["not_found", "storage_error"], True),
        (["not_found", "storage_error", "decode_timeout"], False),
        (["not_found", "unreadable"], False),
        # Somebody asked for another attempt at the poison, and the store failed.
        (["unreadable", "storage_error"], True),
        (["unreadable", "storage_error", "storage_error"], True),
        (["of a later version"], False),
    ],
)
def test_the_latest_failure_decides_and_all_passing_ones_count(nights: list[str], again: bool):
    assert is_worth_another_attempt(_nights(*nights), TODAY, FailurePolicy()) is again
    assert is_worth_another_attempt(_nights(*nights)[::-1], TODAY, FailurePolicy()) is again


def test_what_failed_under_another_decoder_does_not_count():
    failures = _nights("storage_error", "storage_error", decoder=BEFORE) + _nights("storage_error")
    assert is_worth_another_attempt(failures, TODAY, FailurePolicy())


def test_a_policy_may_try_nothing_again_or_once():
    assert not is_worth_another_attempt(_nights("not_found"), TODAY, FailurePolicy(retry_kinds=()))
    assert not is_worth_another_attempt(_nights("not_found"), TODAY, FailurePolicy(attempts=1))


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"retry_kinds": ("sunspots",)}])
def test_a_policy_that_cannot_be_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValueError, match=r"attempts|sunspots"):
        FailurePolicy(**wrong)  # type: ignore[arg-type]
