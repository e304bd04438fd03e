"""The command line. Parses, calls, prints: results to stdout, everything else to stderr, errors as one line.

Imports what a command needs inside it, so that ``query`` or ``status`` need neither torch nor Prefect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import date
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer

from cdmodel.errors import LabelingError, UsageError

if TYPE_CHECKING:
    from flows.config import LabelRunConfig
    from storage.run_record import RunRecord
    from tasks.plan_run import NothingToDo
    from tasks.read_clips import SkippedVideo

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
INTERRUPTED = "interrupted; what is committed is kept, the same command goes on"
EXIT_FAILED, EXIT_USAGE, EXIT_SOME_VIDEOS_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130

app = typer.Typer(
    name="cdlabel",
    help="Label video archives with a cheap student that knows when its expensive teacher would be right.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
Parameters = ParamSpec("Parameters")

Source = Annotated[str, typer.Argument(help="Folder, glob, URL, or manifest (.csv, .parquet) with a column uri.")]
Out = Annotated[str, typer.Argument(help="Folder or URL that holds the tables.")]
OutOption = Annotated[str, typer.Option("--out", help="Folder or URL that receives the tables.")]
Models = Annotated[str | None, typer.Option(help="Model bundle: folder or URL. [default: the demo bundle]")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file, see docs/configuration.md.")]
Assignments = Annotated[list[str] | None, typer.Option("--set", help="A setting as key=value; repeatable.")]
Scheduler = Annotated[str | None, typer.Option(help="Address of a running Dask scheduler. [default: a local cluster]")]
Workers = Annotated[int | None, typer.Option(help="Local worker processes. [default: one per GPU or core]")]
LabeledData = Annotated[
    str, typer.Argument(help="Manifest with uri and label, a folder with one folder per class, or KIND:ANNOTATIONS.")
]
PublishedVideos = Annotated[
    str | None, typer.Option("--videos", help="Where the videos of a published data set (KIND:ANNOTATIONS) lie.")
]
RunId = Annotated[str | None, typer.Option(help="Name of the run, also to finish one. [default: date and content]")]
Relabel = Annotated[bool, typer.Option("--relabel", help="Label also what is labeled already.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")]


def one_line_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turn our errors into one line and an exit code; ``--debug`` lets them through with their traceback."""

    @wraps(command)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except LabelingError as error:
            if kwargs.get("debug"):
                raise
            _fail(f"{error.subject}: {error.reason}", EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)
        except Exception as error:
            if kwargs.get("debug") or not _was_interrupted(error):
                raise
            _fail(INTERRUPTED, EXIT_INTERRUPTED)
        except KeyboardInterrupt:
            _fail(INTERRUPTED, EXIT_INTERRUPTED)

    return guarded


@app.command()
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
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if a video failed.")] = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Label the videos of SOURCE that have no row yet. An unfinished run goes on where it stopped."""
    settings = _label_config(source, out, models, config, assignments, scheduler, workers, run_id, relabel)
    from flows.receipt import savings_receipt

    record = _run_label(settings, debug)
    if record is None:
        _print({"videos_planned": 0, "out": settings.out}, "", json_output)
        return
    _print(asdict(record), savings_receipt(record), json_output)
    if strict and record.videos_failed:
        raise typer.Exit(EXIT_SOME_VIDEOS_FAILED)


@app.command()
@one_line_errors
def plan(
    source: Source,
    out: OutOption,
    models: Models = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    run_id: RunId = None,
    relabel: Relabel = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Say what label would do, without doing it."""
    from flows.config import to_request
    from tasks.plan_run import NothingToDo, preview_run

    settings = _label_config(source, out, models, config, assignments, None, None, run_id, relabel)
    preview = preview_run(to_request(settings))
    facts: dict[str, object]
    if isinstance(preview, NothingToDo):
        facts = {"videos": 0, "videos_skipped": preview.videos_skipped, "shards": 0, "bytes": 0, "resumes_run": None}
    else:
        header = preview.header
        facts = {
            "videos": header.videos,
            "videos_skipped": header.videos_skipped,
            "shards": header.shards,
            "bytes": header.bytes,
            "resumes_run": header.run_id if preview.resumed else None,
        }
    _print(facts, _lines(facts), json_output)


@app.command()
@one_line_errors
def status(
    out: Out,
    run: Annotated[str | None, typer.Argument(help="Name of the run. [default: the latest]")] = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Say how far a run is: videos planned, labeled, partial, failed, pending, and the cost so far."""
    from tasks.read_status import read_status

    facts = asdict(read_status(out, run))
    facts |= facts.pop("cost")
    _print(facts, _lines(facts), json_output)


@app.command()
@one_line_errors
def verify(out: Out, json_output: Json = False, debug: Debug = False) -> None:
    """Check that every planned video has exactly one row and every file is intact; exit 1 and the list if not."""
    from tasks.verify_output import verify_output

    problems = verify_output(out)
    text = "\n".join(f"{p.kind} {p.video_id or p.path}: {p.detail}" for p in problems) or "ok"
    _print({"ok": not problems, "problems": [asdict(problem) for problem in problems]}, text, json_output)
    if problems:
        raise typer.Exit(EXIT_FAILED)


@app.command()
@one_line_errors
def query(
    out: Out,
    sql: Annotated[str, typer.Argument(help="DuckDB SQL over predictions, latest, clips, failures and runs.")],
    json_output: Json = False,
    csv_output: Annotated[bool, typer.Option("--csv", help="Print CSV with a header.")] = False,
    debug: Debug = False,
) -> None:
    """Answer a question about the labels, their cost, or what failed."""
    from flows.tables import as_csv, as_text
    from storage.filesystem import open_store
    from storage.views import run_query

    answer = run_query(open_store(out), sql)
    rows = [dict(zip(answer.columns, row, strict=True)) for row in answer.rows]
    _print(rows, (as_csv if csv_output else as_text)(answer.columns, answer.rows), json_output)


@app.command()
@one_line_errors
def generate(
    folder: Annotated[str, typer.Argument(help="New folder or URL that receives the videos and labels.csv.")],
    videos: Annotated[int, typer.Option(help="How many videos.", min=1)] = 60,
    seed: Annotated[int, typer.Option(help="Same seed, same bytes.", min=0)] = 0,
    distractors: Annotated[float, typer.Option(help="Share of clips without the action, 0 to 1.")] = 0.5,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Make a labeled corpus of kinetic scenes to try everything on."""
    from flows.bars import count_bar
    from tasks.generate_corpus import generate_corpus

    with count_bar("generate", videos, "videos") as advance:
        corpus = generate_corpus(folder, videos=videos, seed=seed, distractors=distractors, on_progress=advance)
    _print(asdict(corpus), _lines(asdict(corpus)), json_output)


@app.command()
@one_line_errors
def compose(
    dataset: Annotated[str, typer.Argument(help="Manifest with uri and label, or a folder with one folder per class.")],
    backgrounds: Annotated[str, typer.Option("--backgrounds", help="Folder, glob, URL or manifest of other videos.")],
    out: Annotated[str, typer.Option("--out", help="New folder or URL for videos, labels.csv and segments.csv.")],
    distractors: Annotated[float | None, typer.Option(help="Share without the class, 0 to 1. [default: 0.5]")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same bytes. [default: 0]")] = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Make untrimmed videos of trimmed, labeled ones: each once, at a random place among pieces of other videos."""
    from flows.bars import counted_bar
    from flows.config import load_settings
    from tasks.compose_corpus import compose_corpus
    from tasks.compose_settings import ComposeSettings

    settings = load_settings(ComposeSettings, config, assignments or [], {"distractors": distractors, "seed": seed})
    with counted_bar("compose", "videos") as on_progress:
        corpus = compose_corpus(dataset, backgrounds, out, settings, on_progress)
    facts = asdict(corpus)
    skipped = facts.pop("skipped")
    for video in skipped:
        _say(f"skipped {video['role']} {video['uri']}: {video['reason']}")
    text = _lines(facts | {"videos_skipped": len(skipped)})
    _print(facts | {"videos_skipped": skipped}, text, json_output)


@app.command()
@one_line_errors
def train(
    dataset: LabeledData,
    out: Annotated[str, typer.Option("--out", help="New folder for the bundle.")],
    videos: PublishedVideos = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Train a teacher and the student that knows when it is right, calibrate both, and write a bundle."""
    from cdmodel.train_settings import TrainSettings
    from flows.bars import training_bars
    from flows.config import load_dataset_settings
    from tasks.train_bundle import train_bundle

    settings, corpus = load_dataset_settings(TrainSettings, config, assignments or [])
    with training_bars() as on_progress:
        trained = train_bundle(dataset, out, settings, on_progress, videos=videos, corpus=corpus)
    facts = {
        "bundle": str(trained.folder),
        "model_version": trained.model_version,
        "labels": list(trained.labels),
        "videos_used": trained.videos_used,
    }
    _print_training(facts, trained.skipped, trained.warnings, dict(trained.metrics), json_output)


@app.command()
@one_line_errors
def ablate(
    dataset: LabeledData,
    out: Annotated[str, typer.Option("--out", help="New folder for the trained students.")],
    models: Models = None,
    videos: PublishedVideos = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Train the students that tell what confidence distillation itself brings; evaluate --arms compares them."""
    from flows.bars import training_bars
    from flows.config import load_dataset_settings
    from storage.bundles import local_bundle
    from tasks.arm_settings import ArmSettings
    from tasks.train_arms import train_arms

    settings, corpus = load_dataset_settings(ArmSettings, config, assignments or [])
    with training_bars() as on_progress:
        trained = train_arms(dataset, local_bundle(models), out, settings, on_progress, videos=videos, corpus=corpus)
    facts = {"folder": str(trained.folder), "networks": trained.networks, "videos_used": trained.videos_used}
    _print_training(facts, trained.skipped, trained.warnings, {}, json_output)


@app.command()
@one_line_errors
def evaluate(
    dataset: LabeledData,
    out: Annotated[str, typer.Option("--out", help="Folder or URL for evaluation.json, tables, plots and scores.")],
    models: Models = None,
    config: ConfigFile = None,
    assignments: Assignments = None,
    videos: PublishedVideos = None,
    arms: Annotated[Path | None, typer.Option(help="Folder of cdlabel ablate, to compare its students too.")] = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Replay every policy and baseline on labeled videos: accuracy, cost, calibration and what is certified."""
    from cdmodel.bundle import read_manifest
    from flows.bars import evaluation_bars
    from flows.config import load_dataset_settings
    from flows.tables import as_text
    from storage.bundles import local_bundle
    from storage.dataset import read_dataset
    from tasks.evaluate_bundle import evaluate_bundle
    from tasks.evaluation_settings import EvaluateSettings
    from tasks.evaluation_tables import headline

    settings, corpus = load_dataset_settings(EvaluateSettings, config, assignments or [])
    label_kind = read_manifest(local_bundle(models)).label_kind
    found = read_dataset(dataset, corpus, videos=videos, label_kind=label_kind)
    if found.missing:
        _say(f"{len(found.missing)} videos that the annotation names are not there, {found.missing[0]} for one")
    with evaluation_bars() as on_progress:
        evaluated = evaluate_bundle(dataset, found.videos, models, out, settings, on_progress, arms=arms)
    for video in evaluated.unreadable:
        _say(f"left out: {video.uri}: {video.reason}")
    text = f"{as_text(*headline(evaluated.report))}\n\nEverything else: {evaluated.out}"
    _print(evaluated.document, text, json_output)


@app.command()
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
        _say(f"generating {DEMO_VIDEOS} videos in {videos}")
        with count_bar("generate", DEMO_VIDEOS, "videos") as advance:
            generate_corpus(str(videos), videos=DEMO_VIDEOS, seed=DEMO_SEED, distractors=0.5, on_progress=advance)
    settings = _label_config(str(videos), str(out), None, None, ["cluster.workers=2"], None, None, None, False)
    record = _run_label(settings, debug)
    store = open_store(str(out))
    for title, sql in DEMO_QUERIES:
        answer = run_query(store, sql)
        typer.echo(f"\n{title}\n{as_text(answer.columns, answer.rows)}")
    if record is not None:
        typer.echo(f"\nThe savings receipt:\n{savings_receipt(record)}")
    typer.echo(f'\nYour turn: cdlabel query {out} "{DEMO_QUERIES[-1][1]}"')


@app.command()
@one_line_errors
def doctor(
    out: Annotated[str | None, typer.Option("--out", help="Also check this folder or bucket.")] = None,
    models: Models = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine: packages, models, GPU, decoder, and access to a bucket."""
    from tasks.check_environment import check_environment

    checks = check_environment(out, models)
    text = "\n".join(f"{'ok  ' if check.ok else 'FAIL'} {check.name}: {check.detail}" for check in checks)
    _print([asdict(check) for check in checks], text, json_output)
    if not all(check.ok for check in checks):
        raise typer.Exit(EXIT_FAILED)


def main() -> None:
    """Entry point of the console script."""
    app()


def _run_label(settings: LabelRunConfig, debug: bool) -> RunRecord | None:
    """Run the flow, unless there is nothing to do: finding that out needs no Prefect. None means nothing was done."""
    from flows.config import to_request
    from flows.dispatch import check_scheduler
    from tasks.plan_run import NothingToDo, open_run

    check_scheduler(settings.cluster)
    if settings.models.bundle is None:
        _say("no --models: labeling with the demo bundle, which knows kinetic scenes only")
    plan = open_run(to_request(settings))
    if isinstance(plan, NothingToDo):
        _say(_nothing(plan))
        return None
    header = plan.header
    verb = "going on with" if plan.resumed else "starting"
    _say(
        f"{verb} run {header.run_id}: {header.videos} videos in {header.shards} shards ({header.videos_skipped} done before)"
    )
    from flows.embedded_prefect import use_embedded_prefect

    use_embedded_prefect("INFO" if debug else "CRITICAL")
    from flows.label import label_corpus

    record = label_corpus(settings.model_copy(update={"run_id": header.run_id}))
    # The plan was not finished a moment ago; another process may have been faster since.
    return None if isinstance(record, NothingToDo) else record


def _nothing(plan: NothingToDo) -> str:
    if plan.finished_run_id is not None:
        return f"nothing to label: run {plan.finished_run_id} is finished"
    text = f"nothing to label: all {plan.videos_skipped} videos have a row under today's models and settings"
    if plan.planned_by:
        return f"{text}, or are planned by an unfinished run: finish it with --run-id {plan.planned_by[0]}"
    return f"{text}; --relabel labels them again"


def _was_interrupted(error: BaseException) -> bool:
    """Tell whether Ctrl-C stands at the start of this error, such as a server that ended before we could report to it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _print(facts: object, text: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts, default=_to_json))
    elif text:
        typer.echo(text)


def _print_training(
    facts: dict[str, object],
    skipped: Sequence[SkippedVideo],
    warnings: Sequence[str],
    metrics: dict[str, Any],
    as_json: bool,
) -> None:
    """Name on stderr what was left out and what a reader has to know; the JSON document holds it too."""
    for video in skipped:
        _say(f"left out: {video.uri}: {video.reason}")
    for warning in warnings:
        _say(f"warning: {warning}")
    document = {**facts, "videos_skipped": [asdict(video) for video in skipped], "warnings": list(warnings)}
    document |= {"metrics": metrics} if metrics else {}
    labels = facts.get("labels")
    shown = {"labels": ", ".join(map(str, labels))} if isinstance(labels, list) else {}
    _print(document, _lines({**facts, **shown, "videos_skipped": len(skipped), **metrics}), as_json)


def _lines(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def _to_json(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else str(value)


def _fail(message: str, exit_code: int) -> NoReturn:
    _say("cdlabel: " + " ".join(message.split()))
    raise typer.Exit(exit_code)


def _label_config(
    source: str,
    out: str,
    models: str | None,
    config: Path | None,
    assignments: list[str] | None,
    scheduler: str | None,
    workers: int | None,
    run_id: str | None,
    relabel: bool,
) -> LabelRunConfig:
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
        },
    )
