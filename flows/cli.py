"""The command line: the list of commands, and the entry point of the console script.

Every command imports what it needs inside it, so that ``query`` or ``status`` need neither torch nor Prefect.
"""

from __future__ import annotations

import typer

from flows.archive_commands import compact, doctor, gc, query, status, verify
from flows.choose_command import choose
from flows.corpus_commands import compose, generate
from flows.export_command import export
from flows.label_commands import demo, label
from flows.model_commands import ablate, evaluate, train
from flows.plan_command import plan
from flows.registry_commands import models
from flows.report_command import report
from flows.retrain_command import retrain
from flows.retry_command import retry
from flows.serve_command import serve

app = typer.Typer(
    name="cdlabel",
    help="Label video archives with a cheap student that knows when its expensive teacher would be right.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
COMMANDS = (
    *(label, serve, plan, retry, status, report, export, verify, query, compact, gc),
    *(train, retrain, choose, ablate, evaluate, generate, compose, demo, doctor),
)
for command in COMMANDS:
    app.command()(command)
app.add_typer(models)


def main() -> None:
    """Entry point of the console script."""
    app()
