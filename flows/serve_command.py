"""The command ``serve``: label every night, until told to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.command import Debug, one_line_errors


@one_line_errors
def serve(
    config: Annotated[Path, typer.Option("--config", help="TOML file: label's settings, and a table [schedule].")],
    debug: Debug = False,
) -> None:
    """Label by a schedule: one run at a time, missed nights made good for, until Ctrl-C or SIGTERM."""
    from flows.embedded_prefect import use_embedded_prefect

    use_embedded_prefect("DEBUG" if debug else "INFO")
    from flows.nightly_config import load_nightly_config
    from flows.serving import serve_nightly

    serve_nightly(load_nightly_config(config))
