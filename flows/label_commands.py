"""Commands that label: ``label`` and ``demo``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.command import (
    EXIT_SOME_VIDEOS_FAILED,
    Assignments,
    ConfigFile,
    Debug,
    Json,
    Models,
    OutOption,
    Profile,
    Relabel,
    RunId,
    Scheduler,
    Source,
    Strict,
    Workers,
    one_line_errors,
    say,
    show,
)

if TYPE_CHECKING:
    from flows.config import LabelRunConfig
    from storage.run_record import RunRecord
    from tasks.run_request import LabelingPlan, NothingToDo

DEMO_VIDEOS, DEMO_SEED = 48, 2026
DEMO_QUERIES = (
    (
        "Labels:",
        "select label, count(*) as videos, round(avg(confidence), 2) as confidence from latest group by 1 order by 1",
    ),
    (
        "Who decided, and what it cost against the teacher on every clip:",
        "select decided_by, count(*) as videos, round(sum(student_flops + teacher_flops) / sum(dense_teacher_flops), 3) "
        "as share_of_dense_cost from predictions group by 1 order by 1",
    ),
)


@one_line_errors
def label(
    source: Source,
    out: OutOption,
    models: Models = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    scheduler: Scheduler = None,
    workers: Workers = None,
    run_id: RunId = None,
    relabel: Relabel = False,
    profile: Profile = None,
    strict: Strict = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Label the videos of SOURCE that have no row yet. An unfinished run goes on where it stopped."""
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
        profile=profile,
    )
    show_record(settings, run_label(settings, debug), strict, json_output)


@one_line_errors
def demo(
    folder: Annotated[Path, typer.Argument(help="Where demo-videos and demo-out are put.")] = Path(),
    debug: Debug = False,
) -> None:
    """Generate a small corpus, label it, and show the labels, the savings receipt and a query. Safe to repeat."""
    from flows.bars import count_bar
    from flows.receipt import savings_receipt
    from flows.tables import as_text
    from storage.filesystem import open_store
    from storage.views import run_query
    from tasks.generate_corpus import LABELS_NAME, generate_corpus

    videos, out = folder / "demo-videos", folder / "demo-out"
    if not (videos / LABELS_NAME).exists():
        say(f"generating {DEMO_VIDEOS} videos in {videos}")
        with count_bar("generate", DEMO_VIDEOS, "videos") as advance:
            generate_corpus(str(videos), videos=DEMO_VIDEOS, seed=DEMO_SEED, distractors=0.5, on_progress=advance)
    settings = label_config(str(videos), str(out), workers=2)
    record = run_label(settings, debug)
    store = open_store(str(out))
    for title, sql in DEMO_QUERIES:
        answer = run_query(store, sql)
        typer.echo(f"\n{title}\n{as_text(answer.columns, answer.rows)}")
    if record is not None:
        typer.echo(f"\nThe savings receipt:\n{savings_receipt(record)}")
    typer.echo(f'\nYour turn: cdlabel query {out} "{DEMO_QUERIES[-1][1]}"')


def run_label(settings: LabelRunConfig, debug: bool) -> RunRecord | None:
    """Run the flow, unless there is nothing to do: finding that out needs no Prefect. None means nothing was done."""
    from flows.profile import profiling

    with profiling(settings.profile):
        return _run_label(settings, debug)


def _run_label(settings: LabelRunConfig, debug: bool) -> RunRecord | None:
    from cdmodel.stretches import stretch
    from flows.bars import busy_bar
    from flows.config import to_request
    from flows.dispatch import check_scheduler
    from flows.local_price import require_local_price
    from tasks.plan_run import open_run
    from tasks.run_request import NothingToDo

    check_scheduler(settings.cluster)
    if settings.prices is not None and settings.cluster.scheduler is None:
        require_local_price(settings.prices)
    if settings.models.bundle is None:
        say("no --models: labeling with the demo bundle, which knows kinetic scenes only")
    with busy_bar("plan"), stretch("driver", "plan"):
        plan = open_run(to_request(settings))
    if isinstance(plan, NothingToDo):
        say(explain_nothing(settings, plan))
        return None
    header = plan.header
    say(_opening(plan))
    from flows.embedded_prefect import reporting_server, use_embedded_prefect

    use_embedded_prefect("INFO" if debug else "CRITICAL")
    with reporting_server() as wait_for_server:
        with stretch("driver", "load Prefect"):
            from flows.label import label_corpus

            wait_for_server()
        with stretch("driver", "flow"):
            record = label_corpus(settings.model_copy(update={"run_id": header.run_id}))
    # The plan was not finished a moment ago; another process may have been faster since.
    return None if isinstance(record, NothingToDo) else record


def show_record(settings: LabelRunConfig, record: RunRecord | None, strict: bool, json_output: bool) -> None:
    """Print what a run came to, if anything was done, and end as ``--strict`` demands."""
    from flows.receipt import savings_receipt
    from tasks.audit_run import alarms_of

    if record is None:
        show({"videos_planned": 0, "out": settings.out}, "", json_output)
        return
    show(asdict(record), savings_receipt(record), json_output)
    alarms = alarms_of(record) or ()
    for alarm in alarms:
        say(f"alarm {alarm.name}: {alarm.message}")
    if strict and (record.videos_failed or alarms):
        raise typer.Exit(EXIT_SOME_VIDEOS_FAILED)


def _opening(plan: LabelingPlan) -> str:
    header = plan.header
    verb = "going on with" if plan.resumed else "starting"
    notes = [f"{header.videos_skipped - header.videos_quarantined} done before"]
    if plan.videos_tried_again:
        notes.append(f"{plan.videos_tried_again} failed before and are tried again")
    if header.videos_quarantined:
        notes.append(f"{header.videos_quarantined} quarantined")
    if header.bundle_asked is not None:
        notes.append(f"with {header.model_version}, which {header.bundle_asked} meant when it was planned")
    return f"{verb} run {header.run_id}: {header.videos} videos in {header.shards} shards ({', '.join(notes)})"


def explain_nothing(settings: LabelRunConfig, plan: NothingToDo) -> str:
    """Return why there is nothing to label."""
    if plan.finished_run_id is not None:
        return f"nothing to label: run {plan.finished_run_id} is finished"
    if settings.retry is not None and not plan.videos_skipped:
        kinds = f" as {' or '.join(settings.retry.reasons)}" if settings.retry.reasons else ""
        return f"nothing to retry: no video's latest row says that it failed{kinds}"
    text = f"nothing to label: all {plan.videos_skipped} videos have a row under today's models and settings"
    if plan.videos_quarantined:
        text += (
            f" ({plan.videos_quarantined} failed and are quarantined; cdlabel retry {settings.out} tries them again)"
        )
    if plan.planned_by:
        return f"{text}, or are planned by an unfinished run: finish it with --run-id {plan.planned_by[0]}"
    return f"{text}; --relabel labels them again"


def label_config(
    source: str,
    out: str,
    *,
    models: str | None = None,
    config: Path | None = None,
    assignments: list[str] | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    run_id: str | None = None,
    relabel: bool = False,
    profile: str | None = None,
) -> LabelRunConfig:
    """Compose the settings of a run from a file, assignments and the options of a command; None means not given."""
    from flows.config import load_config

    return load_config(
        config,
        assignments or [],
        {
            "source": source,
            "out": out,
            "models.bundle": models,
            "cluster.scheduler": scheduler,
            "cluster.workers": workers,
            "run_id": run_id,
            "relabel": True if relabel else None,
            "profile": profile,
        },
    )
