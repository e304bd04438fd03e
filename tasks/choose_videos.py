"""Choose what to label next, by hand or densely, from what the tables of OUT say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cdmodel.active_choice import Contender, choose_next
from cdmodel.errors import ConfigError, RunError
from cdmodel.example_selection import LEARNED, role_of
from storage.corrections import read_corrections
from storage.filesystem import open_store
from storage.views import run_query

Labeler = Literal["hand", "teacher"]
CONTENDERS_PER_VIDEO, MOST_CONTENDERS = 20, 20_000
"""How many of the most worth are compared with each other."""
COLUMNS = ("video_id", "uri", "label", "guess", "confidence", "worth", "why")
"""Those that corrections take; ``label`` is left for a person to fill in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenVideos:
    """A table for whoever labels."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    """The most useful first."""


def choose_videos(out: str, count: int, labeler: Labeler, corrections: str | None = None) -> ChosenVideos:
    """Return the videos whose label would tell most: per video for a person, per FLOP for the teacher on every clip.

    Videos of recordings that only measure are not among them: an answer about a video that was picked never measures, and
    nothing is learned there. ``corrections`` is a table of those made so far, whose videos are not asked about again.

    Raises:
        ConfigError: ``count`` is below 1.
        RunError: there is no video that was labeled and not looked at whole.
        SourceError: the corrections cannot be read.
    """
    if count < 1:
        raise ConfigError("--videos", f"must be at least 1, got {count}")
    worth = {"hand": "worth", "teacher": "worth_per_dense_gflop"}[labeler]
    store, done = open_store(out), _corrected(corrections)
    ranked = run_query(
        store,
        f"select w.video_id, w.uri, w.label, w.confidence, w.{worth}, w.why, coalesce(w.source_group, w.uri), l.top_labels "
        f"from worth_labeling w join latest l using (video_id) order by w.{worth} desc, w.video_id "
        f"limit {min(count * CONTENDERS_PER_VIDEO, MOST_CONTENDERS) + len(done)}",
    ).rows
    found = [row for row in ranked if done.isdisjoint(row[:2]) and role_of(row[6]) in LEARNED]
    if not found:
        raise RunError(store.root, "holds no video to learn from that was labeled and not audited; label some first")
    chosen = choose_next([_to_contender(row) for row in found], count)
    return ChosenVideos(columns=COLUMNS, rows=tuple(_to_row(found[place]) for place in chosen))


def _corrected(table: str | None) -> frozenset[str]:
    """Return the ids and uris of the videos that a person has given a label."""
    rows = [] if table is None else [row for row in read_corrections(table) if row["label"]]
    return frozenset(str(row[name]) for row in rows for name in ("video_id", "uri") if row.get(name))


def _to_contender(row: Sequence[Any]) -> Contender:
    return Contender(
        video_id=row[0],
        group=row[6],
        worth=float(row[4]),
        probabilities={top["label"]: float(top["probability"]) for top in row[7]},
    )


def _to_row(row: Sequence[Any]) -> tuple[Any, ...]:
    video_id, uri, guess, confidence, worth, why = row[:6]
    return (video_id, uri, None, guess, round(float(confidence), 4), round(float(worth), 4), why)
