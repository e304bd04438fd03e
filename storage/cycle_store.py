"""The record of a retraining cycle, beside the models it made: what it began with, what it found, how it ended.

Below ``REGISTRY/cycles/<cycle_id>/``. Every object is created once, so that a killed cycle is gone on with and two that do the
same agree on one result. Knows nothing of how anything is computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from storage.filesystem import Store
from storage.parquet import damaged

CYCLES = "cycles"
EXAMPLES, AUDITS, COMPOSITION = "examples.parquet", "audits.parquet", "composition.json"
BEGUN, CANDIDATE, OUTCOME = "cycle.json", "candidate.json", "outcome.json"

Ending = Literal["promoted", "kept", "refused", "abandoned"]
"""``kept``: the gate was not passed, production stays. ``refused``: there was nothing to learn from, the gate could not be
computed, or production moved meanwhile. ``abandoned``: a cycle began with other settings or another production bundle."""

Fact = TypeVar("Fact")


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleBegun:
    """What a cycle set out with."""

    cycle_id: str
    """Ascends with time."""
    begun_at: datetime
    out: str
    """Whose predictions it learns from."""
    alias: str
    production: str
    """Model version that the alias named."""
    production_move: int
    """Number of the move that made it so."""
    settings_sha256: str
    """Of all that decides the outcome, production apart."""
    settings: dict[str, JsonValue]
    reason: str
    """Why it was begun: by hand, by schedule, or the alarm that rang."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """The bundle that a cycle has trained and added to the registry."""

    model_version: str
    labels: tuple[str, ...]
    trained_at: datetime
    metrics: dict[str, JsonValue]
    videos_used: int
    videos_skipped: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleOutcome:
    """How a cycle ended."""

    ending: Ending
    reason: str
    ended_at: datetime


_BEGUN, _CANDIDATE, _OUTCOME = TypeAdapter(CycleBegun), TypeAdapter(Candidate), TypeAdapter(CycleOutcome)


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleStore:
    """The folder of one cycle."""

    store: Store

    @property
    def cycle_id(self) -> str:
        """Name of the cycle."""
        return self.store.root.rstrip("/").rpartition("/")[2]

    def begin(self, begun: CycleBegun) -> bool:
        """Write down what the cycle sets out with; False if it has begun already."""
        return self.store.create(BEGUN, _BEGUN.dump_json(begun, indent=2))

    def begun(self) -> CycleBegun:
        """Return what it set out with."""
        return self._read(BEGUN, _BEGUN)

    def is_collected(self) -> bool:
        """Tell whether all that is learned from stands."""
        return self.store.exists(COMPOSITION)

    def roots(self) -> tuple[str, ...]:
        """Return the places that the examples lie in."""
        return tuple(json.loads(self.store.read(COMPOSITION))["roots"])

    def candidate(self) -> Candidate | None:
        """Return what it has trained, if it has."""
        return self._read(CANDIDATE, _CANDIDATE) if self.store.exists(CANDIDATE) else None

    def keep_candidate(self, candidate: Candidate) -> Candidate:
        """Write down what was trained; return what stands, which another one may have trained first."""
        self.store.create(CANDIDATE, _CANDIDATE.dump_json(candidate, indent=2))
        return self._read(CANDIDATE, _CANDIDATE)

    def outcome(self) -> CycleOutcome | None:
        """Return how it ended, if it has."""
        return self._read(OUTCOME, _OUTCOME) if self.store.exists(OUTCOME) else None

    def end(self, outcome: CycleOutcome) -> CycleOutcome:
        """Write down how it ended; return what stands."""
        self.store.create(OUTCOME, _OUTCOME.dump_json(outcome, indent=2))
        return self._read(OUTCOME, _OUTCOME)

    def _read(self, name: str, kind: TypeAdapter[Fact]) -> Fact:
        try:
            return kind.validate_json(self.store.read(name))
        except ValidationError as error:
            raise damaged(self.store, name, "not the record of a retraining cycle") from error


def cycle_store(registry: Store, cycle_id: str) -> CycleStore:
    """Return the folder of a cycle, begun or not."""
    return CycleStore(store=registry.child(f"{CYCLES}/{cycle_id}"))


def newest_cycles(registry: Store) -> Iterator[CycleStore]:
    """Yield the cycles that have begun, the newest first."""
    for cycle_id in reversed(registry.children(CYCLES)):
        found = cycle_store(registry, cycle_id)
        if found.store.exists(BEGUN):
            yield found
