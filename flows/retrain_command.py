"""The command ``retrain``: one cycle of the learning loop."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from flows.command import EXIT_SOME_VIDEOS_FAILED, Assignments, Debug, Json, one_line_errors, say, show


@one_line_errors
def retrain(
    config: Annotated[Path, typer.Option("--config", help="TOML file with out and a table [retrain].")],
    assignments: Assignments = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 if the candidate was not promoted.")] = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Learn from what was labeled, judge the candidate, and promote it if it passes the gate."""
    from flows.embedded_prefect import reporting_server, use_embedded_prefect
    from flows.retrain_config import load_retrain_config

    settings = load_retrain_config(config, assignments or [])
    use_embedded_prefect("DEBUG" if debug else "CRITICAL")
    with reporting_server() as wait_for_server:
        from flows.retrain import retrain_student
        from flows.retrain_receipt import gate_receipt, why
        from tasks.retrain_cycle import CoolingDown

        wait_for_server()
        record = retrain_student(settings)
    assert not isinstance(record, CoolingDown)  # only an alarm has to wait
    show(asdict(record), gate_receipt(record), json_output)
    if strict and record.status != "promoted":
        say(f"cdlabel: the candidate {record.model_version} was not promoted: {why(record)}")
        raise typer.Exit(EXIT_SOME_VIDEOS_FAILED)
