"""The command ``plan``: what a run would do, and with a sample what it would take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.command import (
    Assignments,
    ConfigFile,
    Debug,
    Json,
    Models,
    OutOption,
    Relabel,
    RunId,
    Scheduler,
    Source,
    Workers,
    as_lines,
    one_line_errors,
    say,
    show,
)
from flows.label_commands import explain_nothing, label_config

if TYPE_CHECKING:
    from tasks.run_request import LabelingPlan, NothingToDo


@one_line_errors
def plan(
    source: Source,
    out: OutOption,
    sample: Annotated[
        int | None, typer.Option(help="Label so many of the videos, forget the labels, and estimate the whole run.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which videos are sampled.")] = 0,
    models: Models = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    run_id: RunId = None,
    relabel: Relabel = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Say what label would do, and with --sample what it would take, without doing it. Writes nothing."""
    from flows.bars import busy_bar
    from flows.config import to_request
    from tasks.plan_run import preview_run
    from tasks.run_request import NothingToDo

    settings = label_config(
        source,
        out,
        models=models,
        config=config,
        assignments=assignments,
        scheduler=scheduler,
        workers=workers,
        run_id=run_id,
        relabel=relabel,
    )
    with busy_bar("plan"):
        preview = preview_run(to_request(settings))
    if isinstance(preview, NothingToDo):
        say(explain_nothing(settings, preview))
        facts = _nothing(preview)
        show(facts, as_lines(facts), json_output)
        return
    facts = _facts(preview)
    if sample is None:
        show(facts, as_lines(facts), json_output)
        return
    from flows.estimate_text import estimate_text
    from flows.plan_sample import estimate_run_cost

    estimate = estimate_run_cost(settings, preview, sample, seed)
    text = f"{as_lines(facts)}\n\n{estimate_text(estimate)}"
    show({**facts, "estimate": estimate.to_json()}, text, json_output)


def _facts(plan: LabelingPlan) -> dict[str, Any]:
    header = plan.header
    return {
        "videos": header.videos,
        "videos_skipped": header.videos_skipped,
        "videos_quarantined": header.videos_quarantined,
        "videos_tried_again": None if plan.resumed else plan.videos_tried_again,
        "shards": header.shards,
        "bytes": header.bytes,
        "resumes_run": header.run_id if plan.resumed else None,
    }


def _nothing(plan: NothingToDo) -> dict[str, Any]:
    return {
        "videos": 0,
        "videos_skipped": plan.videos_skipped,
        "videos_quarantined": plan.videos_quarantined,
        "videos_tried_again": 0,
        "shards": 0,
        "bytes": 0,
        "resumes_run": None,
    }
