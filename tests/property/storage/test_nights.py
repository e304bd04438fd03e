"""Over several nights, no video is planned more often than the failure policy allows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from cdmodel.errors import ErrorKind
from cdmodel.failure_policy import FailurePolicy, PastFailure, is_worth_another_attempt

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NIGHTS = 12


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(get_args(ErrorKind)), min_size=NIGHTS, max_size=NIGHTS),
    decoders=st.lists(st.sampled_from(["pyav-1", "pyav-2"]), min_size=NIGHTS, max_size=NIGHTS),
    retry_kinds=st.sets(st.sampled_from(get_args(ErrorKind))),
    attempts=st.integers(1, 4),
)
def test_a_video_is_tried_at_most_as_often_as_the_policy_says(
    kinds: list[ErrorKind], decoders: list[str], retry_kinds: set[ErrorKind], attempts: int
):
    policy = FailurePolicy(retry_kinds=tuple(retry_kinds), attempts=attempts)
    past: list[PastFailure] = []
    for night, (kind, decoder) in enumerate(zip(kinds, decoders, strict=True)):
        if not past or is_worth_another_attempt(past, decoder, policy):
            past.append(PastFailure(error_kind=kind, decoder=decoder, failed_at=NOON + timedelta(days=night)))
    for decoder in ("pyav-1", "pyav-2"):
        tried = [failure.error_kind in retry_kinds for failure in past if failure.decoder == decoder]
        assert sum(tried) <= attempts
        assert all(tried[:-1]), "after a failure that is no passing one, nothing is tried"
