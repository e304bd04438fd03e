"""The plots of an evaluation, as PNG and SVG bytes. One colour and one name per policy in all of them.

Figures are made directly: no display, no global state of pyplot.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from cdmodel.ablation import ESCALATED_SHARES, FULL_METHOD, REFERENCE
from cdmodel.evaluation_details import EvaluationDetails, VideoSlice
from cdmodel.evaluation_points import DensePoint, Evaluation, PolicyPoint
from cdmodel.intervals import wilson
from tasks.evaluation_document import Report

DOTS_PER_INCH = 130
CURVE_POINTS = 300
MOST_CLASSES = 24
"""With more classes their escalated shares are drawn in order, without names."""
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#e4e4e4"
TEACHER, STUDENT = "#111111", "#8a8a8a"
Cost = Literal["flops", "seconds"]


@dataclass(frozen=True, slots=True)
class Look:
    """How one policy is drawn, wherever it appears."""

    label: str
    colour: str
    style: str = "-"
    marker: str = "o"


POLICY_LOOKS: Mapping[str, Look] = {
    "gain": Look("gain", "#0072b2"),
    "video_gain": Look("gain in an unsure video", "#56b4e9", marker="s"),
    "video_rank": Look("rank in an unsure video", "#332288", marker="p"),
    "sequential": Look("sequential", "#009e73", marker="D"),
    "max_prob": Look("max. probability", "#d55e00", "--", "^"),
    "self_confidence": Look("P(student right)", "#e69f00", "--", "v"),
    "top_saliency": Look("SCSampler saliency", "#cc79a7", "--", "P"),
    "uniform": Look("uniform clips", "#7a5195", ":", "X"),
    "early_exit": Look("early exit", "#8c6d31", ":", "*"),
    "random_mix": Look("random escalation", "#9a9a9a", ":", "."),
}
"""Policies and baselines that are drawn; all others stand in the tables."""
BANDED = ("gain", "video_rank", "sequential", "max_prob", "uniform")
"""Whose intervals are drawn: more bands would hide each other. All intervals stand in the document."""
ORACLE_LOOKS: Mapping[str, Look] = {
    "oracle_clip": Look("oracle, clips", "#b8860b", marker="p"),
    "oracle_subset": Look("oracle, best subset", "#b8860b", marker="h"),
}
ABLATION_LOOKS: Mapping[str, Look] = {
    "A0": Look("A0 labels only, max. prob.", "#9a9a9a", ":"),
    "A2": Look("A2 distilled, max. prob.", "#d55e00", "--"),
    "A3": Look("A3 distilled, P(student right)", "#e69f00", "--"),
    "A4": Look("A4 placebo", "#cc79a7", ":"),
    "A6": Look("A6 in-sample targets", "#7a5195", ":"),
    "A7": Look("A7 P(teacher right)", "#56b4e9"),
    "A8": Look("A8 gain: full method", "#0072b2"),
    "A9": Look("A9 Gatekeeper", "#8c6d31", "--"),
    "A10": Look("A10 post hoc", "#009e73", "--"),
}
CURVE_LOOKS: Mapping[str, Look] = {
    "default": Look("bundle's default", "#0072b2"),
    "dense_teacher": Look("dense teacher", TEACHER, "--"),
    "dense_student": Look("dense student", STUDENT, ":"),
}


def plot_evaluation(report: Report) -> dict[str, bytes]:
    """Return the plots under their file names, each as PNG and as SVG."""
    plots = {}
    for name, figure in _figures(report):
        plots[f"{name}.png"] = _render(figure, "png")
        figure.set_layout_engine("none")  # what the first drawing arranged stays, and need not be found again
        plots[f"{name}.svg"] = _render(figure, "svg")
    return plots


def _figures(report: Report) -> Iterator[tuple[str, Figure]]:
    evaluation, details = report.evaluation, report.details
    yield "accuracy_cost", draw_costs(evaluation, report.aggregation)
    if report.aggregation != "mean":
        yield "accuracy_cost_plain_mean", draw_costs(evaluation, "mean")
    yield "reliability", draw_reliability(evaluation, details)
    yield "risk_coverage", draw_risk_coverage(details)
    yield "escalated_share", draw_escalated_share(details)
    if evaluation.ablations:
        yield "ablations", draw_ablations(evaluation)


def draw_costs(evaluation: Evaluation, aggregation: str) -> Figure:
    """Draw accuracy against FLOPs and against seconds, all policies under one aggregation."""
    figure = _new_figure(10.6, 4.3)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_cost_panel(left, evaluation, aggregation, "flops")
    _draw_cost_panel(right, evaluation, aggregation, "seconds")
    left.set_ylabel("accuracy on test")
    left.set_xlabel("GFLOPs per video (log scale)")
    right.set_xlabel("seconds per video, decoding included (log scale)")
    floor = _floor(evaluation)
    cut = left.get_ylim()[0] < floor
    if cut:
        left.set_ylim(bottom=floor)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8.5, handlelength=2.6)
    title = "plain mean of the clips" if aggregation == "mean" else f"clips aggregated by {aggregation}"
    below = "; what lies lower stands in tables.md" if cut else ""
    figure.suptitle(f"{title}; bands: 95 % intervals over groups{below}", x=0.01, ha="left", fontsize=10, color=INK)
    return figure


def draw_reliability(evaluation: Evaluation, details: EvaluationDetails) -> Figure:
    """Draw what was said against what came true, in bins of equal mass."""
    point = evaluation.calibration
    panels = (
        ("video_confidence", "confidence in the video", point.video_ece, "#0072b2"),
        ("q_teacher", "P(teacher right), per clip", point.q_teacher_ece, "#009e73"),
        ("q_student", "P(student right), per clip", point.q_student_ece, "#e69f00"),
    )
    figure = _new_figure(10.0, 3.5)
    for axes, (name, title, error, colour) in zip(figure.subplots(1, 3, sharey=True), panels, strict=True):
        bins = details.reliability[name]
        intervals = [
            wilson(round(share * count), int(count))
            for share, count in zip(bins.right_share_B.tolist(), bins.count_B.tolist(), strict=True)
        ]
        below = [max(share - i.low, 0.0) for share, i in zip(bins.right_share_B, intervals, strict=True)]
        above = [max(i.high - share, 0.0) for share, i in zip(bins.right_share_B, intervals, strict=True)]
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        axes.errorbar(
            bins.confidence_B,
            bins.right_share_B,
            yerr=[below, above],
            fmt="o-",
            color=colour,
            markersize=4.5,
            linewidth=1.3,
            elinewidth=0.9,
        )
        axes.text(0.05, 0.93, f"ECE {error:.3f}", transform=axes.transAxes, va="top", fontsize=9, color=INK)
        axes.set_xlabel(title)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
        _tidy(axes)
    figure.axes[0].set_ylabel("share that was right")
    return figure


def draw_risk_coverage(details: EvaluationDetails) -> Figure:
    """Draw the share of wrong answers among the most confident ones."""
    figure = _new_figure(5.6, 3.7)
    axes = figure.subplots()
    for name, curve in details.risk_coverage.items():
        look = CURVE_LOOKS[name]
        place = np.unique(np.linspace(0, len(curve.coverage_V) - 1, CURVE_POINTS).astype(int))
        axes.plot(
            curve.coverage_V[place],
            curve.selective_risk_V[place],
            color=look.colour,
            linestyle=look.style,
            linewidth=1.7,
            label=look.label,
        )
    axes.set_xlabel("coverage: share of videos accepted, most confident first")
    axes.set_ylabel("share wrong among accepted")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=0)
    _as_percent(axes.xaxis)
    _as_percent(axes.yaxis)
    figure.legend(loc="outside upper center", frameon=False, fontsize=9, ncols=len(CURVE_LOOKS))
    _tidy(axes)
    return figure


def draw_escalated_share(details: EvaluationDetails) -> Figure:
    """Draw how much of the clips the teacher was asked about, by class and by length."""
    classes = sorted(details.by_class, key=lambda piece: piece.escalated_clip_share)
    named = len(classes) <= MOST_CLASSES
    figure = _new_figure(9.0, max(3.4, 0.22 * len(classes) + 1.0) if named else 4.0)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    shares = [piece.escalated_clip_share for piece in classes]
    left.barh(range(len(classes)), shares, color="#0072b2", height=0.72 if named else 1.0)
    if named:
        left.set_yticks(range(len(classes)), [piece.name for piece in classes], fontsize=8.5)
    else:
        left.set_yticks([])
        left.set_ylabel(f"{len(classes)} classes, in order")
    left.set_ylim(-0.6, len(classes) - 0.4)
    left.set_xlabel("share of clips asked of the teacher")
    left.set_title("by class", loc="left", fontsize=10, color=INK)
    _as_percent(left.xaxis)
    _draw_lengths(right, details.by_length)
    _tidy(left, grid="x")
    _tidy(right, grid="y")
    return figure


def draw_ablations(evaluation: Evaluation) -> Figure:
    """Draw accuracy under the plain mean against the share of clips the teacher answers, one curve an ablation."""
    figure = _new_figure(7.6, 4.2)
    axes = figure.subplots()
    for name, look in ABLATION_LOOKS.items():
        facts = evaluation.ablations.get(name)
        if facts is not None:
            axes.plot(
                ESCALATED_SHARES,
                np.asarray(facts["accuracy_by_share"]),
                color=look.colour,
                linestyle=look.style,
                linewidth=2.2 if name in (FULL_METHOD, REFERENCE) else 1.2,
                zorder=3 if name in (FULL_METHOD, REFERENCE) else 2,
                label=look.label,
            )
    axes.set_xlabel("share of clips that the teacher answers")
    axes.set_ylabel("accuracy on test, plain mean")
    axes.set_xlim(0, 1)
    _as_percent(axes.xaxis)
    _as_percent(axes.yaxis)
    figure.legend(loc="outside right center", frameon=False, fontsize=8.5)
    _tidy(axes)
    return figure


def _draw_cost_panel(axes: Axes, evaluation: Evaluation, aggregation: str, cost: Cost) -> None:
    ladders = _ladders((*evaluation.policies, *evaluation.baselines), aggregation)
    for name, look in POLICY_LOOKS.items():
        if name in ladders:
            _draw_ladder(axes, ladders[name], look, cost, banded=name in BANDED)
    for name, look in ORACLE_LOOKS.items():
        for point in ladders.get(name, ()):
            _draw_mark(axes, _cost_of(point, cost), point.accuracy, look, size=60)
    if evaluation.default.aggregation == aggregation:
        _draw_ring(axes, evaluation.default, cost)
    _draw_dense(axes, "dense teacher", evaluation.dense_teacher, TEACHER, cost)
    _draw_dense(axes, "dense student", evaluation.dense_student, STUDENT, cost)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _as_percent(axes.yaxis)
    _tidy(axes)


def _floor(evaluation: Evaluation) -> float:
    """Return where the picture ends below: a baseline of one clip must not flatten everything of interest."""
    ends = (evaluation.dense_student.accuracy, evaluation.dense_teacher.accuracy)
    return max(min(ends) - max(1.2 * abs(ends[1] - ends[0]), 0.05), -0.02)


def _draw_ladder(axes: Axes, points: Sequence[PolicyPoint], look: Look, cost: Cost, *, banded: bool) -> None:
    ordered = sorted(points, key=lambda point: _cost_of(point, cost))
    costs = [_cost_of(point, cost) for point in ordered]
    if banded:
        low, high = zip(*(point.accuracy_ci95 for point in ordered), strict=True)
        axes.fill_between(costs, low, high, color=look.colour, alpha=0.1, linewidth=0)
    axes.plot(
        costs,
        [point.accuracy for point in ordered],
        color=look.colour,
        linestyle=look.style,
        marker=look.marker,
        markersize=3.6,
        linewidth=1.5,
        label=look.label,
        zorder=3,
    )


def _draw_ring(axes: Axes, default: PolicyPoint, cost: Cost) -> None:
    axes.plot(
        [_cost_of(default, cost)],
        [default.accuracy],
        marker="o",
        markersize=11,
        markerfacecolor="none",
        markeredgecolor=INK,
        markeredgewidth=1.5,
        linestyle="none",
        label="bundle's default",
        zorder=6,
    )


def _draw_dense(axes: Axes, name: str, point: DensePoint, colour: str, cost: Cost) -> None:
    axes.axhline(point.accuracy, color=colour, linewidth=0.9, linestyle=(0, (5, 3)), zorder=1)
    place = point.flops_per_video / 1e9 if cost == "flops" else point.seconds_per_video
    _draw_mark(axes, place, point.accuracy, Look(name, colour, marker="*"), size=110)


def _draw_mark(axes: Axes, cost: float, accuracy: float, look: Look, *, size: float) -> None:
    axes.scatter(
        [cost],
        [accuracy],
        s=size,
        color=look.colour,
        marker=look.marker,
        label=look.label,
        zorder=5,
        edgecolors="white",
    )


def _draw_lengths(axes: Axes, slices: Sequence[VideoSlice]) -> None:
    axes.bar(range(len(slices)), [piece.escalated_clip_share for piece in slices], color="#56b4e9", width=0.7)
    axes.set_xticks(range(len(slices)), [f"{piece.name}\n({piece.videos})" for piece in slices], fontsize=8.5)
    axes.set_xlabel("clips of the video (number of videos)")
    axes.set_title("by length of the video", loc="left", fontsize=10, color=INK)
    _as_percent(axes.yaxis)


def _ladders(points: Sequence[PolicyPoint], aggregation: str) -> dict[str, list[PolicyPoint]]:
    ladders: dict[str, list[PolicyPoint]] = {}
    for point in points:
        if point.aggregation == aggregation:
            ladders.setdefault(point.policy, []).append(point)
    return ladders


def _cost_of(point: PolicyPoint, cost: Cost) -> float:
    return point.flops_per_video / 1e9 if cost == "flops" else point.seconds_per_video


def _new_figure(width_inches: float, height_inches: float) -> Figure:
    return Figure(figsize=(width_inches, height_inches), dpi=DOTS_PER_INCH, layout="constrained")


def _tidy(axes: Axes, grid: Literal["x", "y", "both"] = "both") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(labelsize=8.5, color=MUTED, labelcolor=INK)
    axes.grid(visible=True, axis=grid, color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)


def _as_percent(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def _render(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    # Text stays text, and equal results give equal files.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cdlabel"}):
        figure.savefig(buffer, format=suffix, metadata={"Date": None} if suffix == "svg" else None)
    return buffer.getvalue()
