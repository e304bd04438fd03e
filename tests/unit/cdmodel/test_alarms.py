from __future__ import annotations

from dataclasses import fields, replace

import pytest

from cdmodel.alarms import AlarmSettings, RunFigures, check_alarms

FIGURES = RunFigures(
    audit_videos=100,
    audit_agreement_high=0.93,
    audit_ece=0.08,
    student_drift=0.3,
    teacher_drift=0.2,
    failed_share=0.05,
    saved_flops_share=0.6,
)
MET = AlarmSettings(
    min_audit_agreement=0.93,
    max_audit_ece=0.08,
    max_student_drift=0.3,
    max_teacher_drift=0.2,
    max_failed_share=0.05,
    min_saved_flops_share=0.6,
)
MISSED = AlarmSettings(
    min_audit_agreement=0.94,
    max_audit_ece=0.07,
    max_student_drift=0.25,
    max_teacher_drift=0.1,
    max_failed_share=0.0,
    min_saved_flops_share=0.7,
)


def test_a_figure_at_its_limit_is_silent_and_one_beyond_rings():
    assert check_alarms(MET, FIGURES, 30) == ()
    alarms = check_alarms(MISSED, FIGURES, 30)
    assert alarms is not None
    assert [alarm.name for alarm in alarms] == [
        "audit_agreement",
        "audit_ece",
        "student_drift",
        "teacher_drift",
        "failed_share",
        "saved_flops_share",
    ]
    assert (alarms[0].value, alarms[0].limit) == (0.93, 0.94)
    assert all(f"{alarm.value:g}" in alarm.message and f"{alarm.limit:g}" in alarm.message for alarm in alarms)


@pytest.mark.parametrize("name", [field.name for field in fields(AlarmSettings)])
def test_each_limit_rings_by_itself(name):
    one = replace(AlarmSettings(), **{name: getattr(MISSED, name)})
    alarms = check_alarms(one, FIGURES, 30)
    assert alarms is not None
    assert [alarm.name for alarm in alarms] == [name.partition("_")[2]]


def test_without_a_limit_or_without_a_figure_nothing_was_checked():
    nothing = RunFigures(
        audit_videos=0,
        audit_agreement_high=None,
        audit_ece=None,
        student_drift=None,
        teacher_drift=None,
        failed_share=None,
        saved_flops_share=None,
    )
    assert check_alarms(AlarmSettings(), FIGURES, 30) is None
    assert check_alarms(MISSED, nothing, 30) is None


def test_of_few_audited_videos_nothing_rings():
    few = replace(FIGURES, audit_videos=29)
    assert [alarm.name for alarm in check_alarms(MISSED, few, 30) or ()] == [
        "student_drift",
        "failed_share",
        "saved_flops_share",
    ]
    assert check_alarms(AlarmSettings(min_audit_agreement=1.0), few, 30) is None


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("min_audit_agreement", 1.01),
        ("min_audit_agreement", -0.1),
        ("min_audit_agreement", float("nan")),
        ("max_audit_ece", 2.0),
        ("max_student_drift", 0.0),
        ("max_teacher_drift", float("inf")),
        ("max_failed_share", -1.0),
        ("min_saved_flops_share", 1.5),
        ("min_saved_flops_share", float("-inf")),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_name(name, limit):
    with pytest.raises(ValueError, match=name):
        AlarmSettings(**{name: limit})
