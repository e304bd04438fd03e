from __future__ import annotations

import csv
import io

from flows.tables import as_csv, as_text

COLUMNS = ("video", "label", "p")


def test_text_is_aligned_under_its_columns():
    lines = as_text(COLUMNS, [("a.mp4", "jump", 0.5), ("a/very/long/name.mp4", None, 1)]).splitlines()
    assert len(lines) == 3
    assert lines[0].index("label") == lines[1].index("jump")
    assert lines[0].index("p") == lines[1].index("0.5") == lines[2].rindex("1")
    assert all(line == line.rstrip() for line in lines)


def test_text_is_never_cut_or_wrapped():
    name = "x" * 5000
    assert name in as_text(["video"], [(name,)])


def test_brackets_are_text_and_not_markup():
    assert "[bold]a[/bold]" in as_text(["video"], [("[bold]a[/bold]",)])


def test_no_rows_are_the_header_alone():
    assert as_text(COLUMNS, []).split() == list(COLUMNS)
    assert as_csv(COLUMNS, []) == "video,label,p"


def test_csv_is_read_back_as_it_was():
    rows = [("a,b.mp4", 'say "go"', "1"), ("two\nlines", "", "2")]
    assert list(csv.reader(io.StringIO(as_csv(COLUMNS, rows)))) == [list(COLUMNS), *map(list, rows)]


def test_csv_leaves_a_missing_value_empty_and_ends_without_a_line_break():
    assert as_csv(COLUMNS, [("a", None, 0.5)]) == "video,label,p\na,,0.5"
