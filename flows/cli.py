"""The command line. Parses, calls, prints: results to stdout, everything else to stderr, errors as one line.

Imports what a command needs inside it, so that ``query`` or ``status`` need neither torch nor Prefect.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, is_dataclass
from datetime import date, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer

from cdmodel.errors import LabelingError, UsageError

if TYPE_CHECKING:
    from flows.config import LabelRunConfig

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
        except KeyboardInterrupt:
            _fail("interrupted; what is committed is kept, the same command goes on", EXIT_INTERRUPTED)

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
    record = _run_label(settings, debug)
    from flows.receipt import savings_receipt

    _print(_plain(record) if json_output else savings_receipt(record), json_output)
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
    if isinstance(preview, NothingToDo):
        facts = {"videos": 0, "videos_skipped": preview.videos_skipped, "shards": 0, "bytes": 0, "resumes": None}
    else:
        header = preview.header
        facts = {
            "videos": header.videos,
            "videos_skipped": header.videos_skipped,
            "shards": header.shards,
            "bytes": header.bytes,
            "resumes": header.run_id if preview.resumed else None,
        }
    _print(facts if json_output else _table(facts), json_output)


def main() -> None:
    """Entry point of the console script."""
    app()


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
