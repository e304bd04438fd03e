"""The word that ends a plan's trial: ``open``, its videos may be labeled, or ``withdrawn``, nobody ever may.

Two commands that plan overlapping videos at the same instant see each other's plans only afterwards. So a plan counts for
nothing until this object stands beside it. It is created once, by whoever is first, and holds for everybody who shares the
plan: that is why it is one object with a word in it, and why a plan is not simply deleted.
"""

from __future__ import annotations

from typing import Literal

from storage.filesystem import Store
from storage.parquet import damaged
from storage.run_layout import decision_name

Decision = Literal["open", "withdrawn"]


def decide_plan(store: Store, run_id: str, decision: Decision) -> Decision:
    """Decide what becomes of a plan, unless that is decided already; returns what holds.

    Raises:
        DamagedObject: the decision that stands was changed.
    """
    if store.create(decision_name(run_id), decision.encode()):
        return decision
    return read_decision(store, run_id) or decision


def read_decision(store: Store, run_id: str) -> Decision | None:
    """Return what was decided about a plan; None where nothing was yet.

    Raises:
        DamagedObject: the decision was changed.
    """
    name = decision_name(run_id)
    if not store.exists(name):
        return None
    match store.read(name):
        case b"open":
            return "open"
        case b"withdrawn":
            return "withdrawn"
        case _:
            raise damaged(store, name, "it is neither open nor withdrawn")
