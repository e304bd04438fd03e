"""How many cores this process may use: by its affinity, and by the quota of its control group, as containers have one."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def count_cores(cgroups: Path = CGROUPS) -> int:
    """Return at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroups)
    return cores if quota is None else max(1, min(cores, math.floor(quota)))


def _quota(cgroups: Path) -> float | None:
    """Return how many cores' time the control group gets; None where it is not limited, or does not say.

    Of the second version, else of the first, as seen from within a container.
    """
    try:
        quota, period = (cgroups / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            quota = (cgroups / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (cgroups / "cpu/cpu.cfs_period_us").read_text(encoding="ascii").strip()
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None  # "max"
