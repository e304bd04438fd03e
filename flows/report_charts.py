"""Where the marks of a report's plots lie. Pure geometry: the template draws them, and escapes every text of theirs.

Coordinates are those of an SVG whose origin is its upper left corner; a timeline's horizontal ones are percent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cdmodel.types import ClipRecord
from flows import wording as words
from tasks.report_facts import ConfidenceBin, LabelShare, ReliabilityBin, RunPoint

PLOT_WIDTH, PLOT_HEIGHT = 360.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 8.0, 10.0, 36.0
"""Margins of a plot with axes."""
TREND_WIDTH, TREND_HEIGHT = 240.0, 64.0
TIMELINE_HEIGHT = 48.0
MAX_SEGMENTS = 120
"""Of a timeline: more clips than that are drawn together."""
ESCALATION_SCALES = (0.1, 0.25, 0.5, 1.0)
UNKNOWN_CONFIDENCE = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A bar or a point of a plot, and what it says when asked."""

    x: float
    y: float
    width: float
    height: float
    kind: str
    """Class of the drawing: ``student``, ``teacher`` ..."""
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """A line of the grid and its name."""

    at: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A plot with axes."""

    marks: tuple[Mark, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    """A figure over the last runs. Runs that did not measure it leave a gap."""

    name: str
    latest: str
    """Of the report's own run; a dash where that did not measure it."""
    path: str
    """Data of an SVG path; empty where no two neighbouring runs have the figure."""
    points: tuple[Mark, ...]
    intervals: tuple[Mark, ...]
    lowest: str
    highest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A stretch of a video's timeline: one clip, or a few of a long video."""

    mark: Mark
    start_seconds: float
    end_seconds: float
    clips: int
    clips_teacher: int
    label: str
    confidence: float | None
    """Of the one who counts; of several clips their mean."""


def confidence_plot(bins: Sequence[ConfidenceBin]) -> Plot:
    """Return a histogram of confidence: who decided without the teacher below, with it above."""
    highest = max((bin_.videos_student + bin_.videos_teacher for bin_ in bins), default=0)
    top = _round_up(max(highest, 1))
    marks = []
    for bin_ in bins:
        x, width = _x(bin_.low), _x(bin_.high) - _x(bin_.low) - 1
        title = (
            f"confidence {bin_.low:.2f} to {bin_.high:.2f}: {words.videos(bin_.videos_student)} by the student alone, "
            f"{words.count(bin_.videos_teacher)} with the teacher"
        )
        floor = 0
        for kind, videos in (("student", bin_.videos_student), ("teacher", bin_.videos_teacher)):
            if videos:
                upper, lower = _y((floor + videos) / top), _y(floor / top)
                # A single video among thousands is still to be seen.
                height = max(lower - upper, 1.5)
                marks.append(Mark(x=x, y=lower - height, width=width, height=height, kind=kind, title=title))
                floor += videos
    y_ticks = tuple(Tick(at=_y(share), text=words.count(round(top * share))) for share in (0, 0.5, 1))
    return Plot(marks=tuple(marks), x_ticks=_share_ticks(), y_ticks=y_ticks)


def reliability_plot(bins: Sequence[ReliabilityBin]) -> Plot:
    """Return agreement with the dense teacher against confidence: on the diagonal confidence means what it says."""
    most = max((bin_.videos for bin_ in bins), default=1)
    marks = []
    for bin_ in bins:
        radius = 3 + 6 * math.sqrt(bin_.videos / most)
        marks.append(
            Mark(
                x=_x(bin_.mean_confidence),
                y=_y(bin_.agreement),
                width=radius,
                height=radius,
                kind="audit",
                title=f"confidence {bin_.mean_confidence:.2f} on average, agreement {words.percent(bin_.agreement)}: "
                f"{words.videos(bin_.videos)}",
            )
        )
    y_ticks = tuple(Tick(at=_y(share), text=words.percent(share, 0)) for share in (0, 0.5, 1))
    return Plot(marks=tuple(marks), x_ticks=_share_ticks(), y_ticks=y_ticks)


def escalation_scale(labels: Sequence[LabelShare]) -> float:
    """Return the share of clips that a full bar stands for."""
    highest = max((label.clips_teacher / label.clips for label in labels if label.clips), default=0.0)
    return next((scale for scale in ESCALATION_SCALES if highest <= scale), 1.0)


def trends(history: Sequence[RunPoint]) -> tuple[Trend, ...]:
    """Return saving, agreement and failed share over the runs, oldest first; a figure that no run has is left out."""
    wanted = (
        _trend("compute saved", history, lambda run: run.saved_flops_share),
        _trend("agreement with the teacher", history, lambda run: run.agreement, _agreement_interval),
        _trend("videos failed", history, lambda run: run.videos_failed / run.videos if run.videos else None),
    )
    return tuple(trend for trend in wanted if trend is not None)


def timeline(
    clips: Sequence[ClipRecord], duration_seconds: float | None, label_names: Mapping[int, str]
) -> tuple[Segment, ...]:
    """Return the clips where they lie in the video, as high as the confidence of who counts."""
    ordered = sorted(clips, key=lambda clip: clip.clip_index)
    if not ordered:
        return ()
    length = max(duration_seconds or 0.0, max(clip.end_seconds for clip in ordered), 1e-6)
    each = math.ceil(len(ordered) / MAX_SEGMENTS)
    groups = [ordered[first : first + each] for first in range(0, len(ordered), each)]
    return tuple(_segment(group, length, label_names) for group in groups)


def _segment(clips: Sequence[ClipRecord], length_seconds: float, label_names: Mapping[int, str]) -> Segment:
    teacher = sum(clip.scored_by == "teacher" for clip in clips)
    start, end = clips[0].start_seconds, max(clip.end_seconds for clip in clips)
    known = [confidence for confidence in map(_confidence, clips) if confidence is not None]
    confidence = sum(known) / len(known) if known else None
    label = _label(clips[0], label_names) if len(clips) == 1 else words.clips(len(clips))
    height = max((confidence or 0.0) * TIMELINE_HEIGHT, 2.0)
    who = "teacher" if teacher else "student"
    shown = UNKNOWN_CONFIDENCE if confidence is None else f"{confidence:.2f}"
    by = f"scored by the {who}" if len(clips) == 1 else f"{teacher} of them scored by the teacher"
    return Segment(
        mark=Mark(
            x=100 * start / length_seconds,
            y=TIMELINE_HEIGHT - height,
            width=max(100 * (end - start) / length_seconds, 0.1),
            height=height,
            kind=who,
            title=f"{start:.1f} to {end:.1f} s: {label}, {by}, confidence {shown}",
        ),
        start_seconds=start,
        end_seconds=end,
        clips=len(clips),
        clips_teacher=teacher,
        label=label,
        confidence=confidence,
    )


def _confidence(clip: ClipRecord) -> float | None:
    return clip.teacher_confidence if clip.scored_by == "teacher" else clip.student_confidence


def _label(clip: ClipRecord, label_names: Mapping[int, str]) -> str:
    label_id = clip.teacher_label_id if clip.scored_by == "teacher" else clip.student_label_id
    if label_id is None:
        return "no label"
    return label_names.get(label_id, f"label {label_id}")


def _trend(
    name: str,
    history: Sequence[RunPoint],
    figure: Callable[[RunPoint], float | None],
    interval: Callable[[RunPoint], tuple[float, float] | None] = lambda run: None,
) -> Trend | None:
    measured = [(number, run, value) for number, run in enumerate(history) if (value := figure(run)) is not None]
    if not measured:
        return None
    ends = [end for _, run, _ in measured for end in interval(run) or ()]
    values = [value for _, _, value in measured] + ends
    low, high = min(values), max(values)
    middle = (low + high) / 2
    # At least two points of percent high: noise in the third digit is no trend.
    spread = max(high - low, 0.02)
    inner_height, pad = TREND_HEIGHT - 16, 8

    def x(number: int) -> float:
        return pad + (TREND_WIDTH - 2 * pad) * (number / (len(history) - 1) if len(history) > 1 else 0.5)

    def y(value: float) -> float:
        return pad + inner_height * (0.5 - (value - middle) / spread)

    points, intervals = [], []
    for number, run, value in measured:
        title = f"{words.moment(run.started_at)}, {run.run_id}: {words.percent(value)}"
        points.append(Mark(x=x(number), y=y(value), width=3, height=3, kind="point", title=title))
        if (band := interval(run)) is not None:
            intervals.append(
                Mark(x=x(number), y=y(band[1]), width=1, height=y(band[0]) - y(band[1]), kind="interval", title=title)
            )
    return Trend(
        name=name,
        latest=words.percent(figure(history[-1])),
        path=_path([number for number, _, _ in measured], points),
        points=tuple(points),
        intervals=tuple(intervals),
        lowest=words.percent(min(value for _, _, value in measured)),
        highest=words.percent(max(value for _, _, value in measured)),
    )


def _path(numbers: Sequence[int], points: Sequence[Mark]) -> str:
    """Return lines between the points of neighbouring runs: across a gap nothing is known."""
    return " ".join(
        f"M{before.x:.1f} {before.y:.1f} L{point.x:.1f} {point.y:.1f}"
        for (first, before), (second, point) in pairwise(zip(numbers, points, strict=True))
        if second == first + 1
    )


def _agreement_interval(run: RunPoint) -> tuple[float, float] | None:
    if run.agreement_low is None or run.agreement_high is None:
        return None
    return run.agreement_low, run.agreement_high


def _x(share: float) -> float:
    return LEFT + share * (PLOT_WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return TOP + (1 - share) * (PLOT_HEIGHT - TOP - BOTTOM)


def _share_ticks() -> tuple[Tick, ...]:
    return tuple(Tick(at=_x(share), text=f"{share:g}") for share in (0, 0.25, 0.5, 0.75, 1))


def _round_up(number: int) -> int:
    """Return the next of 2, 4, 6, 10, 20, 40, 60, 100 ... so that half of it is whole too."""
    power = 10 ** math.floor(math.log10(number))
    steps = (2, 4, 6, 10) if power == 1 else (power, 2 * power, 4 * power, 6 * power, 10 * power)
    return next(step for step in steps if number <= step)
