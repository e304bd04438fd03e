"""The command ``choose``: which videos to label by hand or densely next."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from flows.command import Debug, Json, Out, one_line_errors, show


class By(StrEnum):
    """Who will label them."""

    HAND = "hand"
    TEACHER = "teacher"


@one_line_errors
def choose(
    out: Out,
    videos: Annotated[int, typer.Option("--videos", help="How many.")] = 50,
    by: Annotated[
        By, typer.Option("--by", help="Who labels: to a person all cost alike, to the teacher by clips.")
    ] = By.HAND,
    corrections: Annotated[
        str | None,
        typer.Option("--corrections", help="Table of corrections; who has a label there is not asked again."),
    ] = None,
    csv_output: Annotated[
        bool, typer.Option("--csv", help="CSV: fill in the column label, and it is corrections.")
    ] = False,
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Name the videos whose true label would teach the next student most, and which are not all alike."""
    from flows.tables import as_csv, as_text
    from tasks.choose_videos import choose_videos

    chosen = choose_videos(out, videos, by.value, corrections)
    text = (as_csv if csv_output else as_text)(chosen.columns, chosen.rows)
    show([dict(zip(chosen.columns, row, strict=True)) for row in chosen.rows], text, json_output)
