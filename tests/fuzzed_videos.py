"""Run as a script: reads odd videos with some of their bytes changed, and writes a line of JSON for each.

A process of its own, since a decoder that crashes takes its process with it; what it was at is told before.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from damaged_videos import flip, judge

from cdmodel.errors import VideoError


def fuzz(cases: list[tuple[str, int]]) -> None:
    """Read the videos of all cases, name and seed, one after another."""
    for name, seed in cases:
        _tell({"name": name, "seed": seed})
        started = time.process_time()
        outcome = judge(flip(name, seed), f"{name} {seed}")
        peak_megabytes = _peak_megabytes()
        _tell(
            {
                "outcome": outcome.kind if isinstance(outcome, VideoError) else "clips",
                "is_damaged": isinstance(outcome, VideoError) or outcome.damage is not None,
                "cpu_seconds": time.process_time() - started,
                "peak_megabytes": peak_megabytes,
            }
        )


def _peak_megabytes() -> float:
    """Return the most memory that this process has held; ``ru_maxrss`` would begin with that of the one that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _tell(line: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    fuzz([(name, int(seed)) for name, seed in json.load(sys.stdin)])
