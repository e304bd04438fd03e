"""The commands ``models export-mlflow`` and ``models import-mlflow``: bundles on their way to MLflow's registry and back."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.command import Debug, Json, as_lines, one_line_errors, show

TrackingUri = Annotated[str, typer.Option("--tracking-uri", metavar="URI", help="MLflow's server, as MLflow takes it.")]


@one_line_errors
def export_mlflow(
    registry: Annotated[str, typer.Argument(metavar="REGISTRY", help="Folder or URL of the model registry.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="Alias or version of the bundle.")],
    tracking_uri: TrackingUri,
    model: Annotated[str, typer.Option(metavar="NAME", help="MLflow's registered model; made if it is not there.")],
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Put a bundle into MLflow as a version of a registered model; under an alias, MLflow's alias moves too."""
    from tasks.mlflow_registry import export_bundle, open_mlflow

    facts = asdict(export_bundle(registry, name, open_mlflow(tracking_uri), model))
    show(facts, as_lines(facts), json_output)


@one_line_errors
def import_mlflow(
    registry: Annotated[str, typer.Argument(metavar="REGISTRY", help="Folder or URL of the model registry.")],
    tracking_uri: TrackingUri,
    model: Annotated[str, typer.Option(metavar="NAME", help="MODEL/VERSION or MODEL@ALIAS in MLflow's registry.")],
    json_output: Json = False,
    debug: Debug = False,
) -> None:
    """Add a bundle that stands in MLflow to the registry; no alias moves, models promote does that."""
    from tasks.mlflow_registry import import_bundle, open_mlflow

    facts = asdict(import_bundle(registry, open_mlflow(tracking_uri), model))
    show(facts, as_lines(facts), json_output)
