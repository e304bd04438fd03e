"""Stretches of time: recorded only where somebody listens, and bounded however long a video is."""

from __future__ import annotations

import pytest

from cdmodel.stage_clock import clocked, stage
from cdmodel.stretches import MOST_PER_VIDEO, StretchRecorder, recorded, stretch


def test_nothing_is_recorded_where_nobody_listens() -> None:
    with stretch("commit", "before"):
        pass
    with recorded() as recorder, stretch("commit", "within") as facts:
        facts["bytes"] = 3
    with stretch("commit", "after"):
        pass
    assert [(one.name, one.facts) for one in recorder.stretches] == [("within", {"bytes": 3})]


def test_a_stretch_that_ends_with_an_error_is_recorded_too() -> None:
    with recorded() as recorder, pytest.raises(ValueError, match="broken"), stretch("video", "v1"):
        raise ValueError("broken")
    assert [one.name for one in recorder.stretches] == ["v1"]


def test_the_clock_and_the_recorder_tell_the_same_seconds() -> None:
    with recorded() as recorder, clocked() as clock:
        for _ in range(2 * MOST_PER_VIDEO):
            with stage("student"):
                pass
    assert sum(one.busy_ns for one in recorder.stretches) / 1e9 == pytest.approx(clock.seconds["student"])


def test_stretches_of_a_long_video_are_joined_and_those_of_the_next_one_are_not() -> None:
    recorder = StretchRecorder()
    batches = MOST_PER_VIDEO + 5
    for batch in range(batches):
        recorder.note("teacher", "teacher", 10 * batch, 10 * batch + 4)
    recorder.note("video", "long", 0, 10 * batches)
    recorder.note("teacher", "teacher", 10 * batches, 10 * batches + 4)
    teacher = [one for one in recorder.stretches if one.track == "teacher"]
    assert [one.joined for one in teacher] == [1] * (MOST_PER_VIDEO - 1) + [6, 1]
    assert sum(one.busy_ns for one in teacher) == 4 * (batches + 1)
    joined = teacher[-2]
    assert (joined.busy_ns, joined.duration_ns) == (24, 54)
    assert joined.ended_ns <= teacher[-1].began_ns


def test_stretches_that_hold_others_are_never_joined() -> None:
    recorder = StretchRecorder()
    for number in range(3 * MOST_PER_VIDEO):
        recorder.note("driver", "plan", number, number + 1)
    assert len(recorder.stretches) == 3 * MOST_PER_VIDEO
