"""What every benchmark takes and prints: ``--json``, and one document of cases with the machine and the date.

The document is described in the contract: a ratio is other / ours, larger is better for us.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
from collections.abc import Mapping
from datetime import date
from typing import Any


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser that knows ``--json``; the description is shown as it is written."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def document(benchmark: str, cases: Mapping[str, Any], repetitions: int, machine: str | None = None) -> dict[str, Any]:
    """Return the document; ``machine`` where more is to be told of it than its processor."""
    return {
        "benchmark": benchmark,
        "machine": machine or f"{platform.machine()}, {multiprocessing.cpu_count()} cores",
        "date": date.today().isoformat(),
        "repetitions": repetitions,
        "cases": cases,
    }
