"""Figures in words, and where the marks of plots lie."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdmodel.types import ClipRecord
from flows import report_charts as charts
from flows import wording as words
from tasks.report_facts import ConfidenceBin, ReliabilityBin, RunPoint


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (words.percent(0.89654), "89.7 %"),
        (words.percent(0.99999), "> 99.9 %"),
        (words.percent(1.0), "100.0 %"),
        (words.percent(0.00001), "< 0.1 %"),
        (words.percent(0.0), "0.0 %"),
        (words.percent(-0.25), "-25.0 %"),
        (words.percent(None), words.UNKNOWN),
        (words.probability(0.9999), "> 0.99"),
        (words.probability(1.0), "1.00"),
        (words.flops(24_407_972_608), "24.4 GFLOPs"),
        (words.flops(999_900_000_000), "1.00 TFLOPs"),
        (words.flops(0), "0 FLOPs"),
        (words.size(512), "512 B"),
        (words.seconds(0.0), "0.0 s"),
        (words.seconds(0.0123), "0.012 s"),
        (words.seconds(119.9), "119.9 s"),
        (words.seconds(5400), "90.0 min"),
        (words.seconds(90_000), "25.0 h"),
        (words.usd(0.000298), "$0.00030"),
        (words.usd(1234.5), "$1,234.50"),
        (words.videos(1), "1 video"),
        (words.clips(1200), "1,200 clips"),
    ],
)
def test_figures_read_as_people_write_them(told: str, expected: str):
    assert told.replace("\N{NO-BREAK SPACE}", " ") == expected


@settings(max_examples=40)
@given(st.text())
def test_plain_text_never_hides_or_turns_anything(text: str):
    shown = words.plain_text(text)
    assert not any(character in shown for character in "\n\r\t\0\x1b\x7f\x85\u202e\u2066\u2028")
    if text.isprintable() and not any(character in text for character in "\u202e\u200f"):
        assert shown == text


def _clip(index: int, *, teacher: bool, confidence: float | None) -> ClipRecord:
    return ClipRecord(
        clip_index=index,
        start_seconds=float(index),
        end_seconds=index + 1.0,
        scored_by="teacher" if teacher else "student",
        student_label_id=1,
        student_confidence=0.5 if teacher else confidence,
        q_teacher=None,
        q_student=None,
        teacher_label_id=2 if teacher else None,
        teacher_confidence=confidence if teacher else None,
        weight=0.1,
    )


def test_a_timeline_shows_who_scored_which_clip_and_how_sure_it_was():
    clips = [_clip(1, teacher=True, confidence=0.75), _clip(0, teacher=False, confidence=0.25)]
    first, second = charts.timeline(clips, 4.0, {1: "run"})
    assert (first.mark.kind, first.mark.x, first.mark.width) == ("student", 0.0, 25.0)
    assert (second.mark.kind, second.mark.x, second.mark.width) == ("teacher", 25.0, 25.0)
    assert second.mark.height == 3 * first.mark.height
    assert first.mark.title == "0.0 to 1.0 s: run, scored by the student, confidence 0.25"
    assert second.label == "label 2", "a label that no row names is told by its number"
    assert charts.timeline([], 4.0, {}) == ()


def test_a_long_video_is_drawn_in_few_pieces_that_still_cover_all_of_it():
    clips = [_clip(index, teacher=index == 2000, confidence=None if index == 5 else 0.5) for index in range(3601)]
    segments = charts.timeline(clips, None, {})
    assert len(segments) <= charts.MAX_SEGMENTS
    assert sum(segment.clips for segment in segments) == 3601
    assert sum(segment.clips_teacher for segment in segments) == 1
    assert [segment.mark.kind for segment in segments].count("teacher") == 1
    assert segments[-1].mark.x + segments[-1].mark.width == pytest.approx(100)


def test_a_single_video_among_thousands_is_still_to_be_seen():
    bins = [
        ConfidenceBin(low=0.0, high=0.5, videos_student=1, videos_teacher=0),
        ConfidenceBin(low=0.5, high=1.0, videos_student=90_000, videos_teacher=9_000),
    ]
    plot = charts.confidence_plot(bins)
    assert [mark.kind for mark in plot.marks] == ["student", "student", "teacher"]
    assert min(mark.height for mark in plot.marks) >= 1.5
    assert all(charts.TOP <= mark.y <= charts.PLOT_HEIGHT - charts.BOTTOM - mark.height for mark in plot.marks)
    assert [tick.text for tick in plot.y_ticks] == ["0", "50,000", "100,000"]


def test_perfect_calibration_lies_on_the_diagonal():
    bins = [
        ReliabilityBin(low=x / 10, high=(x + 1) / 10, videos=x, mean_confidence=x / 10, agreement=x / 10)
        for x in (2, 8)
    ]
    low, high = charts.reliability_plot(bins).marks
    width, height = charts.PLOT_WIDTH - charts.LEFT - charts.RIGHT, charts.PLOT_HEIGHT - charts.TOP - charts.BOTTOM
    assert (high.x - low.x) / width == pytest.approx((low.y - high.y) / height) == pytest.approx(0.6)
    assert high.width > low.width


def _point(saved: float | None, agreement: float | None = None) -> RunPoint:
    return RunPoint(
        run_id="r",
        started_at=datetime(2026, 1, 1, tzinfo=UTC),
        model_version="m",
        videos=10,
        videos_failed=1,
        saved_flops_share=saved,
        saved_seconds_share=None,
        agreement=agreement,
        agreement_low=None if agreement is None else agreement - 0.1,
        agreement_high=None if agreement is None else agreement + 0.1,
        cost_usd=None,
        alarms=None,
    )


def test_a_trend_has_gaps_where_a_run_did_not_measure_and_is_left_out_where_none_did():
    saved, failed = charts.trends([_point(0.5), _point(None), _point(0.75)])
    assert (saved.name, len(saved.points), saved.lowest) == ("compute saved", 2, words.percent(0.5))
    assert saved.points[1].y < saved.points[0].y
    assert saved.points[1].x - saved.points[0].x > charts.TREND_WIDTH / 2
    assert (saved.path, failed.path.count("L")) == ("", 2), "lines join neighbours only"
    assert charts.trends([_point(0.5), _point(0.6), _point(None)])[0].latest == words.UNKNOWN
    assert failed.name == "videos failed"
    agreement = charts.trends([_point(None, 0.5), _point(None, 0.8)])[0]
    assert len(agreement.intervals) == 2
    assert all(band.y >= 0 and band.y + band.height <= charts.TREND_HEIGHT for band in agreement.intervals)
