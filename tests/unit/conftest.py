"""Where the small runs of ``storage/run_builders.py`` are found, which the tests of tasks and flows build on too."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent / "storage"))
