"""Rows of an answer as text: aligned for reading, or CSV for other programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table


def as_text(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return the rows under their column names, as wide as they need."""
    table = Table(box=None, pad_edge=False, header_style="")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    console = Console(file=io.StringIO(), width=100_000, markup=False, highlight=False)
    console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in text.splitlines())


def as_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return RFC 4180 text with a header and without a last line break."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().rstrip("\n")
