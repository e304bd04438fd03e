"""What every command shares: the options, how it prints and how it fails.

Results go to stdout, everything else to stderr, errors as one line.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, NoReturn, ParamSpec

import typer

from cdmodel.errors import LabelingError, UsageError
from flows.interruption import INTERRUPTED, catch_signals, end_now, say_on_the_way_out, was_interrupted

EXIT_FAILED, EXIT_USAGE, EXIT_SOME_VIDEOS_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 130
"""Interrupted is 130 on Ctrl-C; SIGTERM gives 143 and SIGHUP 129, as a shell reports them."""

Parameters = ParamSpec("Parameters")

Source = Annotated[str, typer.Argument(help="Folder, glob, URL, or manifest (.csv, .parquet) with a column uri.")]
Out = Annotated[str, typer.Argument(help="Folder or URL that holds the tables.")]
OutOption = Annotated[str, typer.Option("--out", help="Folder or URL that receives the tables.")]
Models = Annotated[
    str | None, typer.Option(help="Model bundle: folder, URL or REGISTRY@ALIAS. [default: the demo bundle]")
]
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
Profile = Annotated[
    str | None, typer.Option(metavar="FILE", help="Write where the time went to this new file, for Perfetto.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with 3 if a video failed or an alarm rang.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and Prefect's log.")]


def one_line_errors(command: Callable[Parameters, None]) -> Callable[Parameters, None]:
    """Turn our errors into one line and an exit code; ``--debug`` lets them through with their traceback."""

    @wraps(command)
    def guarded(*args: Parameters.args, **kwargs: Parameters.kwargs) -> None:
        catch_signals(debug=bool(kwargs.get("debug")))
        try:
            command(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - whatever a signal turned into on the way out
            if was_interrupted():
                end_now()
            _end_with(error, debug=bool(kwargs.get("debug")))

    return guarded


def _end_with(error: BaseException, *, debug: bool) -> NoReturn:
    """Say what went wrong in one line and leave with its exit code; errors that are not ours go on."""
    match error:
        case LabelingError() if not debug:
            fail(f"{error.subject}: {error.reason}", EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED)
        case KeyboardInterrupt():
            fail(INTERRUPTED, EXIT_INTERRUPTED)
        case Exception() if not debug and _caused_by_ctrl_c(error):
            fail(INTERRUPTED, EXIT_INTERRUPTED)
        case _:
            raise error


def say(text: str) -> None:
    """Tell the user something that is no result."""
    if was_interrupted():
        say_on_the_way_out(text)
    else:
        typer.echo(text, err=True)


def show(facts: object, text: str, as_json: bool) -> None:
    """Print a result, as one JSON document or as text."""
    if as_json:
        typer.echo(json.dumps(facts, default=_to_json))
    elif text:
        typer.echo(text)


def as_lines(facts: dict[str, Any]) -> str:
    """Return one line per fact, values aligned."""
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def fail(message: str, exit_code: int) -> NoReturn:
    """End the command with one line."""
    say("cdlabel: " + " ".join(message.split()))
    raise typer.Exit(exit_code)


def _caused_by_ctrl_c(error: BaseException) -> bool:
    """Tell whether Ctrl-C stands at the start of this error, such as a server that ended before we could report to it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _to_json(value: object) -> object:
    return value.isoformat() if isinstance(value, date) else str(value)
