"""``tables.md``: what a reader wants to see of an evaluation, as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from cdmodel.evaluation_details import COST_SHARES, LadderComparison, VideoSlice
from cdmodel.evaluation_points import DensePoint, ParityPoint, PolicyPoint
from tasks.evaluation_document import NO_RISK_ROLE, Report

Row = Sequence[str]
NOTHING = "-"


def to_tables(report: Report) -> str:
    """Return all tables, each under its heading."""
    parts = [
        f"# Evaluation of {report.model_version}",
        _describe_data(report),
        "## Headline\n",
        markdown(*headline(report)),
        "\n## Policies and baselines at the same cost\n",
        _explain_comparisons(report),
        *(_compare(report, aggregation) for aggregation in dict.fromkeys((report.aggregation, "mean"))),
        "\n## The default against every rival at its own cost\n",
        _rivals(report),
        "\n## Ablations\n",
        _ablations(report),
        "\n## Calibration\n",
        _calibration(report),
        "\n## Certificate\n",
        _certificate(report),
        "\n## Flips against the dense teacher\n",
        _flips(report),
        "\n## Who is escalated\n",
        _slices("class", report.details.by_class),
        "",
        _slices("clips", report.details.by_length),
        "\n## Requested and realised share of the teacher\n",
        _shares(report),
    ]
    return "\n".join(parts) + "\n"


def headline(report: Report) -> tuple[Row, list[Row]]:
    """Return header and rows of the table that is also printed."""
    evaluation = report.evaluation
    default, parity = evaluation.default, evaluation.at_parity
    costs = ("GFLOPs/video", "s/video", "FLOPs saved", "seconds saved", "escalated")
    header: Row = ("", _metric(report), "95 % interval", *costs)
    rows = [
        _dense_row("dense teacher", evaluation.dense_teacher, evaluation.dense_teacher, "100.0 %"),
        _dense_row("dense student", evaluation.dense_student, evaluation.dense_teacher, "0.0 %"),
        _point_row(f"default: {default.policy}, {default.aggregation}", default),
    ]
    if parity.policy is not None:
        rows.append(_parity_row(parity))
    if evaluation.metric == "accuracy_top1":
        return header, rows
    precision = [
        percent(point.mean_average_precision)
        for point in (evaluation.dense_teacher, evaluation.dense_student, default, parity)
    ]
    return (*header, "mean average precision"), [(*row, cell) for row, cell in zip(rows, precision, strict=False)]


def markdown(header: Row, rows: Iterable[Row]) -> str:
    """Return a table: the first column to the left, numbers to the right."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, rule, *rows))


def _describe_data(report: Report) -> str:
    cal, test = len(report.cal), len(report.test)
    groups = len({entry.video.group for entry in report.test})
    skipped = f"; {len(report.unreadable)} videos could not be read" if report.unreadable else ""
    metric = "top-1" if report.evaluation.metric == "accuracy_top1" else "hit at 1: the best label is a true one"
    return (
        f"\nMeasured on {test} videos of `test` in {groups} groups; settings chosen on {cal} videos of `cal`{skipped}. "
        f"Accuracy is {metric}. Intervals: bootstrap over groups.\n"
    )


def _metric(report: Report) -> str:
    return "accuracy" if report.evaluation.metric == "accuracy_top1" else "hit at 1"


def _dense_row(name: str, point: DensePoint, teacher: DensePoint, escalated: str) -> Row:
    return (
        name,
        percent(point.accuracy),
        "",
        f"{point.flops_per_video / 1e9:.4g}",
        f"{point.seconds_per_video:.3g}",
        percent(1 - point.flops_per_video / teacher.flops_per_video),
        percent(1 - point.seconds_per_video / teacher.seconds_per_video),
        escalated,
    )


def _point_row(name: str, point: PolicyPoint) -> Row:
    return (
        name,
        percent(point.accuracy),
        span(point.accuracy_ci95),
        f"{point.flops_per_video / 1e9:.4g}",
        f"{point.seconds_per_video:.3g}",
        percent(point.saved_flops_share),
        percent(point.saved_seconds_share),
        percent(point.escalated_clip_share),
    )


def _parity_row(point: ParityPoint) -> Row:
    return (
        f"cheapest within {point.tolerance_points:g} points on cal: {point.policy}",
        percent(point.accuracy),
        NOTHING if point.accuracy_minus_dense_ci95 is None else f"dense {span(point.accuracy_minus_dense_ci95)}",
        NOTHING,
        NOTHING,
        percent(point.saved_flops_share),
        percent(point.saved_seconds_share),
        NOTHING,
    )


def _explain_comparisons(report: Report) -> str:
    return (
        f"Accuracy where a policy spends this share of the dense teacher's FLOPs; `{NOTHING}`: its cheapest setting costs "
        "more. Area: mean accuracy over escalated shares from 0 to 1. Efficiency: that area above random escalation, as a "
        "share of what a greedy oracle reaches, plain mean only.\n"
    )


def _compare(report: Report, aggregation: str) -> str:
    header = ("policy", *(f"at {share:.0%}" for share in COST_SHARES), "area", "efficiency")
    ours = {point.policy for point in report.evaluation.policies}
    chosen = [c for c in report.comparisons if c.aggregation == aggregation]
    rows = [_comparison_row(c, c.policy in ours) for c in chosen]
    return f"Aggregation `{aggregation}`; policies of this project in bold:\n\n{markdown(header, rows)}\n"


def _comparison_row(comparison: LadderComparison, ours: bool) -> Row:  # noqa: FBT001 - only for its typeface
    return (
        f"**{comparison.policy}**" if ours else comparison.policy,
        *(percent(value) for value in comparison.accuracy_at_cost_share),
        percent(comparison.area_over_escalated_share),
        NOTHING if comparison.deferral_efficiency is None else f"{comparison.deferral_efficiency:.2f}",
    )


def _ablations(report: Report) -> str:
    ablations = report.evaluation.ablations
    if not ablations:
        return "No students were trained for the ablations."
    rows = [_ablation_row(name, facts) for name, facts in ablations.items()]
    return markdown(("", "route", "area, points", "95 % interval", "student alone"), rows)


def _ablation_row(name: str, facts: Mapping[str, object]) -> Row:
    digits = 2 if "_minus_" in name else 1
    area, low, high = (100 * number for number in _numbers([facts["auc_cost"], facts["ci95"]]))
    student = facts.get("student_accuracy")
    return (
        name,
        str(facts.get("meaning", "")),
        f"{area:.{digits}f}",
        f"{low:.{digits}f} to {high:.{digits}f}",
        percent(student if isinstance(student, float) else None),
    )


def _numbers(values: Iterable[object]) -> Iterator[float]:
    for value in values:
        if isinstance(value, float):
            yield value
        elif isinstance(value, Iterable):
            yield from _numbers(value)


def _calibration(report: Report) -> str:
    point = report.evaluation.calibration
    rows = [
        ("video confidence", f"{point.video_ece:.4f}", NOTHING),
        ("video confidence, debiased", f"{point.video_ece_debiased:.4f}", NOTHING),
        ("q_teacher", f"{point.q_teacher_ece:.4f}", _number(point.q_teacher_auroc)),
        ("q_student", f"{point.q_student_ece:.4f}", _number(point.q_student_auroc)),
        ("gain (teacher right, student wrong)", NOTHING, _number(point.gain_auroc)),
    ]
    return markdown(("", "ECE", "AUROC"), rows) + f"\n\nAUGRC of the video confidence: {point.augrc:.4f}."


def _certificate(report: Report) -> str:
    certified = report.evaluation.certified
    if certified is None:
        return f"Nothing can be certified: {NO_RISK_ROLE}."
    if certified.setting is None:
        return f"Nothing can be certified: {certified.reason} ({certified.groups} groups)."
    return (
        f"On {certified.groups} groups of `risk`: with probability {1 - certified.delta:.0%}, harm stays at or below "
        f"{certified.epsilon:.1%} where clips with a gain above {certified.setting:.4g} are escalated. On `test`: harm "
        f"{percent(certified.harm_on_test)}, FLOPs saved {percent(certified.saved_flops_share)}."
    )


def _flips(report: Report) -> str:
    flips = report.details.flips
    rows = [
        ("dense teacher right", str(flips.both_right), str(flips.harmful)),
        ("dense teacher wrong", str(flips.helpful), str(flips.both_wrong)),
    ]
    margin = report.evaluation.default_minus_dense_ci95
    return (
        markdown(("", "default right", "default wrong"), rows)
        + f"\n\nMcNemar, exact: p = {flips.mcnemar_p:.3g}. Default minus dense teacher, paired: {span(margin)} points."
    )


def _slices(title: str, slices: Sequence[VideoSlice]) -> str:
    rows = [
        (
            piece.name,
            str(piece.videos),
            percent(piece.escalated_clip_share),
            percent(piece.accuracy),
            percent(piece.dense_teacher_accuracy),
        )
        for piece in slices
    ]
    return markdown((title, "videos", "escalated", "accuracy", "dense teacher"), rows)


def _rivals(report: Report) -> str:
    rows = [
        (f"{rival.policy}, {rival.aggregation}", percent(rival.accuracy), span(rival.default_minus_rival_ci95))
        for rival in report.evaluation.at_default_cost
    ]
    return markdown(("at the default's cost", "accuracy", "default minus this, 95 % interval"), rows)


def _shares(report: Report) -> str:
    rows = [
        (percent(share["requested"]), percent(share["realised"])) for share in report.evaluation.requested_and_realised
    ]
    return markdown(("on cal", "on test"), rows)


def percent(value: float | None) -> str:
    """Return a share as per cent."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def span(ends: tuple[float, float]) -> str:
    """Return an interval of shares in points."""
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"
