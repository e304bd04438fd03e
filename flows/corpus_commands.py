"""Commands that make labeled videos to try everything on: ``generate`` and ``compose``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from flows.command import Assignments, ConfigFile, Debug, Json, as_lines, one_line_errors, say, show


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
    show(asdict(corpus), as_lines(asdict(corpus)), json_output)


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
        say(f"skipped {video['role']} {video['uri']}: {video['reason']}")
    text = as_lines(facts | {"videos_skipped": len(skipped)})
    show(facts | {"videos_skipped": skipped}, text, json_output)
