"""Commands that make and judge models: ``train``, ``ablate`` and ``evaluate``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.command import (
    Assignments,
    ConfigFile,
    Debug,
    Json,
    LabeledData,
    Models,
    PublishedVideos,
    as_lines,
    one_line_errors,
    say,
    show,
)

if TYPE_CHECKING:
    from tasks.read_clips import SkippedVideo


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
    from storage.bundles import local_bundle, pin_bundle
    from storage.dataset import read_dataset
    from tasks.evaluate_bundle import evaluate_bundle
    from tasks.evaluation_settings import EvaluateSettings
    from tasks.evaluation_tables import headline

    settings, corpus = load_dataset_settings(EvaluateSettings, config, assignments or [])
    bundle = pin_bundle(models)
    label_kind = read_manifest(local_bundle(bundle)).label_kind
    found = read_dataset(dataset, corpus, videos=videos, label_kind=label_kind)
    if found.missing:
        say(f"{len(found.missing)} videos that the annotation names are not there, {found.missing[0]} for one")
    with evaluation_bars() as on_progress:
        evaluated = evaluate_bundle(dataset, found.videos, bundle, out, settings, on_progress, arms=arms)
    for video in evaluated.unreadable:
        say(f"left out: {video.uri}: {video.reason}")
    text = f"{as_text(*headline(evaluated.report))}\n\nEverything else: {evaluated.out}"
    show(evaluated.document, text, json_output)


def _print_training(
    facts: dict[str, object],
    skipped: Sequence[SkippedVideo],
    warnings: Sequence[str],
    metrics: dict[str, Any],
    as_json: bool,
) -> None:
    """Name on stderr what was left out and what a reader has to know; the JSON document holds it too."""
    for video in skipped:
        say(f"left out: {video.uri}: {video.reason}")
    for warning in warnings:
        say(f"warning: {warning}")
    document = {**facts, "videos_skipped": [asdict(video) for video in skipped], "warnings": list(warnings)}
    document |= {"metrics": metrics} if metrics else {}
    labels = facts.get("labels")
    shown = {"labels": ", ".join(map(str, labels))} if isinstance(labels, list) else {}
    show(document, as_lines({**facts, **shown, "videos_skipped": len(skipped), **metrics}), as_json)
