"""The moves of an alias, such as ``production``: what one says, how it is written, and where a rollback leads.

Pure: knows the bytes of a move and nothing of where they stand (``registry``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal

from pydantic import JsonValue, TypeAdapter, ValidationError

ALIAS_PATTERN: Final = r"[a-z][a-z0-9_.-]{0,63}"
"""Lower case: on some disks two names that differ only in case are one."""
VERSION_PATTERN: Final = r"m-[0-9a-f]{12}"

MoveAction = Literal["promote", "rollback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasMove:
    """An alias began to mean a bundle. Written once, never changed; the last one holds."""

    alias: str
    number: int
    """1, 2, 3 ... without gaps."""
    model_version: str
    previous: str | None
    """Version that the alias meant before; None of the first move."""
    action: MoveAction = "promote"
    moved_at: datetime
    """UTC, by the clock of whoever moved it."""
    moved_by: str
    """User and machine, or the flow run."""
    reason: str
    metrics: dict[str, JsonValue] = field(default_factory=dict)
    """What spoke for the move, units in the names."""
    move_id: str
    """Of this attempt alone, so that two equal moves at the same instant are told apart."""


_MOVE = TypeAdapter(AliasMove)


def is_alias(name: str) -> bool:
    """Tell whether an alias may have this name; a bundle's version is none."""
    return re.fullmatch(ALIAS_PATTERN, name) is not None and not is_version(name)


def is_version(name: str) -> bool:
    """Tell whether this is the name of a bundle: ``m-`` and 12 hex digits."""
    return re.fullmatch(VERSION_PATTERN, name) is not None


def move_to_bytes(move: AliasMove) -> bytes:
    """Return a move as the registry keeps it."""
    return _MOVE.dump_json(move, indent=2) + b"\n"


def move_from_bytes(content: bytes) -> AliasMove | None:
    """Return the move that was written; None if these bytes are none."""
    try:
        return _MOVE.validate_json(content)
    except ValidationError:
        return None


def rollback_target(history: Sequence[AliasMove], present: Collection[str]) -> str | None:
    """Return the version that a rollback leads to: the one before the current one, or None where there is none.

    Each rollback goes one further back, and never to a version that was rolled away from, unless that has been promoted
    again since: after A, B, C a first rollback leads to B, a second to A. Promoting a version again counts from then on,
    so that after A, B, A a rollback leads to B and another one nowhere. Versions that are not ``present`` are passed over.
    """
    way_back: list[str] = []
    for move in history:
        if move.action == "rollback" and move.model_version in way_back:
            del way_back[way_back.index(move.model_version) + 1 :]
        else:
            way_back = [version for version in way_back if version != move.model_version]
            way_back.append(move.model_version)
    return next((version for version in reversed(way_back[:-1]) if version in present), None)
