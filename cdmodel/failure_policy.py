"""Whether a video that failed is worth another attempt. Pure: what is known of past attempts in, a verdict out.

Knows nothing of tables, runs or decoders; the caller says which decoder is today's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar, get_args

from cdmodel.errors import ErrorKind
from cdmodel.setting_groups import FORBID_UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class FailurePolicy:
    """Which failed videos the next run tries again. No part of the fingerprint: it changes no answer."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    retry_kinds: tuple[ErrorKind, ...] = ("not_found", "storage_error", "decode_timeout")
    """Failures that may come from the moment and not from the video: a file that was not there yet, a store that did not
    answer, a clock that a busy machine or a slow store ran out. All other kinds would come out the same."""
    attempts: int = 3
    """Times that a version of a video may fail in these ways before it is left alone too. A run is one attempt."""

    def __post_init__(self) -> None:
        known = get_args(ErrorKind)
        for kind in self.retry_kinds:
            if kind not in known:
                raise ValueError(f"retry_kinds must be of {', '.join(known)}; got {kind}")
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PastFailure:
    """One failed attempt at a version of a video, as its row tells it."""

    error_kind: str
    """An ``ErrorKind``, or one that a later version of this project has added."""
    decoder: str
    failed_at: datetime


def is_worth_another_attempt(failures: Sequence[PastFailure], decoder: str, policy: FailurePolicy) -> bool:
    """Tell whether the next run takes a video up that failed before; otherwise it is quarantined.

    ``failures`` are those of one version of a video under one fingerprint, in any order; never empty. ``decoder`` is
    today's: what another one could not read says nothing about this one.
    """
    ours = [failure for failure in failures if failure.decoder == decoder]
    if not ours:
        return True
    latest = max(ours, key=lambda failure: failure.failed_at)
    if latest.error_kind not in policy.retry_kinds:
        return False
    return sum(failure.error_kind in policy.retry_kinds for failure in ours) < policy.attempts
