"""The report as one HTML file that asks nothing of anybody: no script, no request, pictures and style inside.

Every text of a run (labels, URIs, messages) is escaped by the template, and what could disguise itself is written out.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from cdmodel.alarms import Alarm
from flows import report_charts as charts
from flows import wording as words
from storage.uri import base_name
from tasks.audit_run import alarms_of
from tasks.report_costs import (
    AuditFacts,
    BudgetFacts,
    CostPair,
    StageSeconds,
    audit_facts,
    budget_facts,
    compare_costs,
    stage_seconds,
)
from tasks.report_facts import ReportFacts, RunRows, UncertainVideo
from tasks.report_thumbnails import NoThumbnail, Thumbnail

TEMPLATES = files("flows") / "templates"
LONGEST_TEXT = 600
"""Characters of a name or a message that are shown: a page has a size that can be mailed, whatever the labels are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoCard:
    """One of the least certain videos, ready to be drawn."""

    video: UncertainVideo
    name: str
    picture: Markup | None
    """A data URL, which needs no escaping."""
    no_picture: str
    """Why there is none."""
    picture_width: int
    picture_height: int
    at: str
    timeline: tuple[charts.Segment, ...]
    clips: int
    clips_teacher: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedRun:
    """What only a finished run has."""

    rows: RunRows
    costs: tuple[CostPair, ...]
    stages: tuple[StageSeconds, ...]
    work_seconds: float
    audit: AuditFacts
    budget: BudgetFacts | None
    alarms: tuple[Alarm, ...] | None
    videos_labeled: int
    """In full or in part."""
    saved_flops_share: float | None
    saved_seconds_share: float | None
    cost_usd: float | None
    escalated_share: float | None
    """Of the planned clips."""
    escalation_scale: float
    confidence: charts.Plot
    reliability: charts.Plot | None
    cards: tuple[VideoCard, ...]
    trends: tuple[charts.Trend, ...]
    figures: tuple[tuple[str, Any], ...]
    """The run's row, name by name."""


def render_report(
    facts: ReportFacts, thumbnails: Sequence[Thumbnail | NoThumbnail], *, out: str, made_at: datetime, version: str
) -> str:
    """Return the whole page.

    Args:
        facts: what is known of the run.
        thumbnails: one for each of the least certain videos, in their order; may be empty.
        out: named in commands that the page suggests.
        made_at: when the report was made.
        version: of this software.
    """
    environment = _environment()
    template = environment.from_string((TEMPLATES / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        facts=facts,
        run=None if facts.rows is None else _finished(facts, facts.rows, thumbnails),
        out=out,
        made_at=made_at,
        version=version,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        plot=charts,
    )


def _finished(facts: ReportFacts, rows: RunRows, thumbnails: Sequence[Thumbnail | NoThumbnail]) -> FinishedRun:
    record = facts.record
    assert record is not None, "a run that has rows has a row of its own"
    stages = stage_seconds(record)
    row = asdict(record)
    pictures = [*thumbnails, *[NoThumbnail(reason="")] * len(rows.uncertain)]
    return FinishedRun(
        rows=rows,
        costs=compare_costs(record),
        stages=stages,
        work_seconds=sum(stage.seconds for stage in stages),
        audit=audit_facts(record),
        budget=budget_facts(record),
        alarms=alarms_of(record),
        videos_labeled=record.videos_labeled + record.videos_partial,
        saved_flops_share=record.saved_flops_share,
        saved_seconds_share=record.saved_seconds_share,
        cost_usd=record.cost_usd,
        escalated_share=record.clips_teacher / record.clips_planned if record.clips_planned else None,
        escalation_scale=charts.escalation_scale(rows.labels),
        confidence=charts.confidence_plot(rows.confidence),
        reliability=charts.reliability_plot(rows.reliability) if rows.reliability else None,
        cards=tuple(
            _card(video, picture, rows.label_names) for video, picture in zip(rows.uncertain, pictures, strict=False)
        ),
        trends=charts.trends(facts.history) if len(facts.history) > 1 else (),
        figures=tuple((n, value) for n, value in row.items() if value is not None and not n.endswith("_json")),
    )


def _card(video: UncertainVideo, picture: Thumbnail | NoThumbnail, label_names: dict[int, str]) -> VideoCard:
    timeline = charts.timeline(video.clips, video.duration_seconds, label_names)
    shown = picture if isinstance(picture, Thumbnail) else None
    return VideoCard(
        video=video,
        name=base_name(video.video.uri) or video.video.uri,
        picture=None if shown is None else Markup("data:image/jpeg;base64," + base64.b64encode(shown.jpeg).decode()),
        no_picture="" if shown is not None or not isinstance(picture, NoThumbnail) else picture.reason,
        picture_width=shown.width if shown else 0,
        picture_height=shown.height if shown else 0,
        at=words.seconds(shown.at_seconds) if shown else "",
        timeline=timeline,
        clips=len(video.clips),
        clips_teacher=sum(clip.scored_by == "teacher" for clip in video.clips),
    )


def _environment() -> Environment:
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=_shown, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        {
            "percent": words.percent,
            "probability": words.probability,
            "flops": words.flops,
            "size": words.size,
            "seconds": words.seconds,
            "usd": words.usd,
            "count": words.count,
            "videos": words.videos,
            "clips": words.clips,
            "moment": words.moment,
            "cost": _cost,
            "budgeted": _budgeted,
        }
    )
    return environment


def _shown(value: object) -> object:
    """Return a value as the template shows it; runs before escaping."""
    if isinstance(value, Markup):
        return value
    if isinstance(value, datetime):
        return words.moment(value)
    if not isinstance(value, str):
        return value
    return words.plain_text(value if len(value) <= LONGEST_TEXT else value[:LONGEST_TEXT] + "\N{HORIZONTAL ELLIPSIS}")


def _cost(amount: float, measure: str) -> str:
    match measure:
        case "FLOPs":
            return words.flops(amount)
        case "seconds":
            return words.seconds(amount)
        case _:
            return words.usd(amount)


def _budgeted(amount: float | None, unit: str) -> str:
    if amount is None:
        return words.UNKNOWN
    match unit:
        case "teacher_flops":
            return words.flops(amount)
        case "usd":
            return words.usd(amount)
        case _:
            return words.seconds(amount)
