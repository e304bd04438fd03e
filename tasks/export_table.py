"""The columns that labels are exported with, and the plainest of the formats: one CSV file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

LABEL_COLUMNS = (
    *("video_id", "uri", "label", "confidence", "status", "coverage", "decided_by", "escalated", "audited"),
    *("label_id", "student_label_id", "student_label", "student_confidence", "teacher_label_id", "teacher_label"),
    *("duration_seconds", "fps", "width", "height", "codec"),
    *("corpus", "video_version", "model_version", "run_id", "run_date", "labeled_at", "top_labels"),
)
"""Names as in the view ``predictions``: a ``label_id`` is read together with ``model_version``, a name by itself.
What a video cost is left to ``cdlabel query``."""


def write_csv(connection: duckdb.DuckDBPyConnection, target: Path) -> int:
    """Write the view ``exported`` as RFC 4180 text in UTF-8 with a header, ascending by ``video_id``; return the rows.

    ``top_labels`` is JSON in a field of its own, a moment is ISO 8601 in UTC.
    """
    columns = ", ".join(_CSV_FORMS.get(name, name) for name in LABEL_COLUMNS)
    return copy_rows(connection, f"select {columns} from exported order by video_id", target, "format csv, header")


def copy_rows(connection: duckdb.DuckDBPyConnection, sql: str, target: Path, options: str) -> int:
    """Have DuckDB write the rows of a query to a file; return how many they are."""
    quoted = str(target).replace("'", "''")
    (rows,) = connection.execute(f"copy ({sql}) to '{quoted}' ({options})").fetchone() or (0,)
    return int(rows)


_CSV_FORMS = {
    "top_labels": "to_json(top_labels)::varchar as top_labels",
    "labeled_at": "strftime(labeled_at, '%Y-%m-%dT%H:%M:%S.%fZ') as labeled_at",
}
