"""Progress bars on stderr, for work that runs in the command itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from cdmodel.descent import TrainingProgress
from tasks.evaluation_settings import EvaluationProgress


@contextmanager
def count_bar(title: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Show one bar; the function it yields takes how many are done."""
    with _bars(unit) as bars:
        row = bars.add_task(title, total=total, note="")
        yield lambda done: bars.update(row, completed=done)


@contextmanager
def counted_bar(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show one bar for work that counts itself; the function it yields takes how many are done, and of how many."""
    with _bars(unit) as bars:
        row = bars.add_task(title, total=None, note="")
        yield lambda done, total: bars.update(row, completed=done, total=total)


@contextmanager
def training_bars() -> Iterator[Callable[[TrainingProgress], None]]:
    """Show one bar per stage of a training run, with its loss and accuracy."""
    rows: dict[str, TaskID] = {}
    with _bars("") as bars:

        def show(progress: TrainingProgress) -> None:
            if progress.stage not in rows:
                rows[progress.stage] = bars.add_task(progress.stage, total=progress.steps, note="")
            note = ""
            if progress.loss is not None and progress.accuracy is not None:
                note = f"loss {progress.loss:.3f}, accuracy {progress.accuracy:.1%}"
            if progress.validation_accuracy is not None:
                note += f", on new clips {progress.validation_accuracy:.1%}"
            bars.update(rows[progress.stage], completed=progress.step, total=progress.steps, note=note)

        yield show


@contextmanager
def evaluation_bars() -> Iterator[Callable[[EvaluationProgress], None]]:
    """Show one bar per stage of an evaluation."""
    rows: dict[str, TaskID] = {}
    with _bars("") as bars:

        def show(progress: EvaluationProgress) -> None:
            if progress.stage not in rows:
                rows[progress.stage] = bars.add_task(progress.stage, total=progress.total, note="")
            bars.update(rows[progress.stage], completed=progress.done)

        yield show


def _bars(unit: str) -> Progress:
    return Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + "{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
