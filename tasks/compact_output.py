"""Merge the tables of OUT into a new generation, and say what became of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from storage.compaction import compact_runs
from storage.filesystem import open_store
from storage.generations import newest_generation
from storage.output import check_output


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """The generation that stands after a compaction."""

    generation: str | None
    """None where no run has finished."""
    is_new: bool
    """False where one of all finished runs stood already."""
    runs: int
    rows: int
    files: int
    bytes: int


def compact_output(out: str, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Compaction:
    """Merge what all finished runs have published; safe to repeat, and while others read, label or compact.

    Args:
        out: folder or URL.
        on_progress: takes how many partitions are done, and of how many.

    Raises:
        OutputError: OUT holds something else, or (``NewerSchema``) what a newer version of this project wrote.
        DamagedObject: a published file is not what its run's manifest says.
    """
    store = open_store(out)
    check_output(store)
    before = newest_generation(store)
    generation = compact_runs(store, on_progress)
    if generation is None:
        return Compaction(generation=None, is_new=False, runs=0, rows=0, files=0, bytes=0)
    return Compaction(
        generation=generation.generation,
        is_new=before is None or before.generation != generation.generation,
        runs=len(generation.runs),
        rows=generation.rows,
        files=len(generation.files),
        bytes=sum(file.bytes for file in generation.files),
    )
