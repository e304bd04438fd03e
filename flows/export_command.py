"""The command ``export``: labels for other programs."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from flows.command import Debug, Json, Out, as_lines, one_line_errors, show


class Format(StrEnum):
    """What the labels are written as."""

    CSV = "csv"
    HUGGINGFACE = "huggingface"
    FIFTYONE = "fiftyone"


@one_line_errors
def export(
    out: Out,
    destination: Annotated[str, typer.Argument(metavar="DEST", help="New file (csv) or new folder: path or URL.")],
    to: Annotated[Format, typer.Option("--to", help="Format; see docs/export.md.")],
    where: Annotated[
        str | None, typer.Option("--where", metavar="SQL", help="Only rows of latest that meet this. [default: all]")
    ] = None,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Write the latest labels for other programs: CSV, a Hugging Face datasets folder, or JSON for FiftyOne."""
    from tasks.export_labels import export_labels

    facts = asdict(export_labels(out, destination, to.value, where))
    show(facts, as_lines(facts), json_output)
