"""Progress bars on stderr, for work that runs in the command itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

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
        rows: list[TaskID] = []

        def show(done: int, total: int) -> None:
            if not rows:
                rows.append(bars.add_task(title, total=total, note=""))
            bars.update(rows[0], completed=done, total=total)

        yield show


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


class _BarsOnceNeeded(Progress):
    """Prints nothing at all, not even an empty line, where a command is refused before there is a bar."""

    def start(self) -> None:
        if self.tasks:
            super().start()

    def stop(self) -> None:
        if self.tasks:
            super().stop()

    def update(self, *arguments: Any, **changes: Any) -> None:
        self.start()
        super().update(*arguments, **changes)


def _bars(unit: str) -> Progress:
    return _BarsOnceNeeded(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit + "{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
