"""DuckDB drew its progress bar on stdout, before the JSON document of a query that took longer than two seconds."""

from __future__ import annotations

from pathlib import Path

from storage.filesystem import open_store
from storage.views import connect_views


def test_no_bar_is_drawn_where_results_are_printed(tmp_path: Path):
    with connect_views(open_store(str(tmp_path))) as connection:
        assert connection.execute("select current_setting('enable_progress_bar')").fetchone() == (False,)
