"""What is worth waking somebody for: figures of a run against limits. Pure: facts and limits in, alarms out.

Knows nothing of runs, tables or how an alarm is heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal

from pydantic import StrictFloat

from cdmodel.setting_groups import FORBID_UNKNOWN

AlarmName = Literal[
    "audit_agreement", "audit_ece", "student_drift", "teacher_drift", "failed_share", "saved_flops_share"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmSettings:
    """From which value on a figure of a run rings an alarm; one without a limit is silent."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    min_audit_agreement: StrictFloat | None = None
    """0 to 1. Rings where even the upper end of the 95 % interval lies below: chance does not explain it."""
    max_audit_ece: StrictFloat | None = None
    """0 to 1, of `confidence` against agreement with the teacher."""
    max_student_drift: StrictFloat | None = None
    """Above 0: population stability index of the student's confidence. 0.25 is the usual limit."""
    max_teacher_drift: StrictFloat | None = None
    """The same of the teacher's, on audited videos."""
    max_failed_share: StrictFloat | None = None
    """0 to 1, of the videos planned."""
    min_saved_flops_share: StrictFloat | None = None
    """At most 1, of the dense teacher's FLOPs, without those of the audit; below 0 more was spent than that."""

    def __post_init__(self) -> None:
        for name in ("min_audit_agreement", "max_audit_ece", "max_failed_share"):
            _require(name, getattr(self, name), lambda limit: 0 <= limit <= 1, "lie between 0 and 1")
        for name in ("max_student_drift", "max_teacher_drift"):
            _require(name, getattr(self, name), lambda limit: 0 < limit < float("inf"), "be a number above 0")
        name = "min_saved_flops_share"
        _require(name, self.min_saved_flops_share, lambda limit: float("-inf") < limit <= 1, "be a number up to 1")

    @property
    def is_silent(self) -> bool:
        """Whether no limit is set."""
        return all(getattr(self, field.name) is None for field in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFigures:
    """The figures of a run that a limit may be set for; None where one was not measured."""

    audit_videos: int
    audit_agreement_high: float | None
    """Upper end of the 95 % interval."""
    audit_ece: float | None
    student_drift: float | None
    teacher_drift: float | None
    failed_share: float | None
    saved_flops_share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One figure beyond its limit."""

    name: AlarmName
    """Its event is called ``cdlabel.alarm.<name>``."""
    value: float
    limit: float
    message: str
    """In words, without the name."""


def check_alarms(settings: AlarmSettings, figures: RunFigures, min_audit_videos: int) -> tuple[Alarm, ...] | None:
    """Return the alarms that ring; None where there was nothing to check: no limit is set, or no figure is there for one.

    What is known of fewer than ``min_audit_videos`` audited videos rings nothing and counts as not checked.
    """
    figures = figures if figures.audit_videos >= min_audit_videos else _without_audit(figures)
    checked = [check for check in _checks(settings, figures) if check.value is not None and check.limit is not None]
    if not checked:
        return None
    return tuple(alarm for check in checked if (alarm := _ring(check)) is not None)


@dataclass(frozen=True, slots=True)
class _Check:
    name: AlarmName
    words: str
    """What the value is."""
    value: float | None
    limit: float | None
    is_floor: bool


def _without_audit(figures: RunFigures) -> RunFigures:
    return replace(figures, audit_agreement_high=None, audit_ece=None, teacher_drift=None)


def _checks(limits: AlarmSettings, figures: RunFigures) -> Iterator[_Check]:
    agreement = "the cascade agrees with the dense teacher on a share of at most"
    yield _Check("audit_agreement", agreement, figures.audit_agreement_high, limits.min_audit_agreement, is_floor=True)
    ece = "confidence misses agreement with the dense teacher by"
    yield _Check("audit_ece", ece, figures.audit_ece, limits.max_audit_ece, is_floor=False)
    drifted = "confidence has drifted from the bundle's reference by"
    words, drift = f"the student's {drifted}", figures.student_drift
    yield _Check("student_drift", words, drift, limits.max_student_drift, is_floor=False)
    words, drift = f"the teacher's {drifted}", figures.teacher_drift
    yield _Check("teacher_drift", words, drift, limits.max_teacher_drift, is_floor=False)
    failed = "the share of videos that failed is"
    yield _Check("failed_share", failed, figures.failed_share, limits.max_failed_share, is_floor=False)
    saved = "the share of the dense teacher's FLOPs that was saved is"
    yield _Check("saved_flops_share", saved, figures.saved_flops_share, limits.min_saved_flops_share, is_floor=True)


def _ring(check: _Check) -> Alarm | None:
    assert check.value is not None
    assert check.limit is not None
    if check.value >= check.limit if check.is_floor else check.value <= check.limit:
        return None
    side = "below" if check.is_floor else "above"
    message = f"{check.words} {check.value:.4g}, {side} the limit of {check.limit:g}"
    return Alarm(name=check.name, value=check.value, limit=check.limit, message=message)


def _require(name: str, limit: float | None, holds: Callable[[float], bool], demand: str) -> None:
    # NaN holds nowhere.
    if limit is not None and not holds(limit):
        raise ValueError(f"{name} must {demand}, got {limit}")
