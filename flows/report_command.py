"""The command ``report``: the savings receipt on the console, and the whole report as one HTML file."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.command import Debug, Json, Out, as_lines, one_line_errors, say, show

if TYPE_CHECKING:
    from tasks.report_facts import ReportFacts


@one_line_errors
def report(
    out: Out,
    run: Annotated[str | None, typer.Argument(help="Name of the run. [default: the latest]")] = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Also write the report as this HTML file.")
    ] = None,
    pictures: Annotated[
        int, typer.Option("--pictures", min=0, max=60, help="How many of the least certain videos to show.")
    ] = 12,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Say what a run labeled, cost and saved; with --html as one page that can be passed on."""
    from tasks.report_facts import gather_report

    facts = gather_report(out, run, uncertain_videos=pictures)
    written = None if html is None else write_page(facts, out, html)
    show(_as_document(facts, written), _as_text(facts), json_output)
    if written is not None:
        say(f"the report stands in {written}")


def write_page(facts: ReportFacts, out: str, html: str) -> str:
    """Draw the page, pictures included, and write it; return its absolute name."""
    from datetime import UTC, datetime
    from importlib.metadata import version

    from flows.report_page import render_report
    from tasks.report_file import write_document
    from tasks.report_thumbnails import make_thumbnails

    thumbnails = () if facts.rows is None else make_thumbnails(facts.rows.uncertain)
    page = render_report(facts, thumbnails, out=out, made_at=datetime.now(UTC), version=version("cdlabel"))
    return write_document(html, page.encode("utf-8", "backslashreplace"))


def _as_document(facts: ReportFacts, written: str | None) -> dict[str, Any]:
    return {
        "status": asdict(facts.status),
        "run": None if facts.record is None else asdict(facts.record),
        "rows": None if facts.rows is None else asdict(facts.rows),
        "history": [asdict(run) for run in facts.history],
        "html": written,
    }


def _as_text(facts: ReportFacts) -> str:
    from flows.receipt import savings_receipt

    if facts.record is not None:
        return savings_receipt(facts.record)
    status = asdict(facts.status)
    status |= status.pop("cost")
    return f"run {facts.header.run_id} is not finished: nothing of it is published yet\n{as_lines(status)}"
