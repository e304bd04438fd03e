"""Progress bars on stderr, for work that runs in the command itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:  # the bars themselves need no torch
    from cdmodel.descent import TrainingProgress
    from tasks.evaluation_settings import EvaluationProgress
    from tasks.judge_candidate import GateProgress


@contextmanager
def count_bar(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show one bar; the function it yields takes how many are done."""
    with counted_bar(title, unit) as show:
        yield lambda done: show(done, total)


@contextmanager
def counted_bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show one bar for work that counts itself; the function it yields takes how many are done, and of how many."""
    with _bars(unit) as bars:
        rows: list[TaskID] = []

        def show(done: int, total: int) -> None:
            if not rows:
                rows.append(_add_bar(bars, title, total))
            bars.update(rows[0], completed=done, total=total)

        yield show


@contextmanager
def busy_bar(title: str) -> Iterator[None]:
    """Show, on a terminal, that work which cannot say how far it is goes on, and for how long it has."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("[bold]{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(title, total=None)
        yield


@contextmanager
def training_bars() -> Iterator[Callable[[TrainingProgress], None]]:
    """Show one bar per stage of a training run, with its loss and accuracy."""
    rows: dict[str, TaskID] = {}
    with _bars("") as bars:

        def show(progress: TrainingProgress) -> None:
            if progress.stage not in rows:
                rows[progress.stage] = _add_bar(bars, progress.stage, progress.steps)
            note = ""
            if progress.loss is not None and progress.accuracy is not None:
                note = f"loss {progress.loss:.3f}, accuracy {progress.accuracy:.1%}"
            if progress.validation_accuracy is not None:
                note += f", on new clips {progress.validation_accuracy:.1%}"
            bars.update(rows[progress.stage], completed=progress.step, total=progress.steps, note=note)

        yield show


@contextmanager
def evaluation_bars() -> Iterator[Callable[[EvaluationProgress | GateProgress], None]]:
    """Show one bar per stage of an evaluation or a judgement."""
    rows: dict[str, TaskID] = {}
    with _bars("") as bars:

        def show(progress: EvaluationProgress | GateProgress) -> None:
            if progress.stage not in rows:
                rows[progress.stage] = _add_bar(bars, progress.stage, progress.total)
            bars.update(rows[progress.stage], completed=progress.done)

        yield show


@contextmanager
def _bars(unit: str) -> Iterator[Progress]:
    """Yield a place for bars, which prints nothing, not even an empty line, until there is the first one."""
    bars = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + "{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    try:
        yield bars
    finally:
        if bars.tasks:
            bars.stop()


def _add_bar(bars: Progress, title: str, total: int) -> TaskID:
    row = bars.add_task(title, total=total, note="")
    bars.start()
    return row
