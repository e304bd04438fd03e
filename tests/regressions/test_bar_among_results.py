"""In a spawned process DuckDB drew its progress bar on stdout, among the results of a query that took over two seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ASKED = """
from storage.filesystem import open_store
from storage.views import connect_views

with connect_views(open_store({out!r})) as connection:
    print(connection.execute("select current_setting('enable_progress_bar')").fetchone())
"""


def test_no_bar_is_drawn_where_results_are_printed(tmp_path: Path):
    asked = [sys.executable, "-c", ASKED.format(out=str(tmp_path))]
    told = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert told.stdout == "(False,)\n"
