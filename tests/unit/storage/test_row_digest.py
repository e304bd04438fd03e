from __future__ import annotations

from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.row_digest import digest_rows

pytestmark = pytest.mark.fast
SCHEMA = pa.schema(
    [
        ("text", pa.string()),
        ("whole", pa.int32()),
        ("real", pa.float32()),
        ("flag", pa.bool_()),
        ("day", pa.date32()),
        ("moment", pa.timestamp("us", tz="UTC")),
        ("parts", pa.list_(pa.struct([("name", pa.string()), ("share", pa.float64())]))),
    ]
)
ROW = {
    "text": "a",
    "whole": 1,
    "real": 0.5,
    "flag": True,
    "day": date(2026, 1, 1),
    "moment": datetime(2026, 1, 1, tzinfo=UTC),
    "parts": [{"name": "x", "share": 0.25}, {"name": None, "share": None}],
}
CHANGES: list[dict[str, object]] = [
    {"text": "b"},
    {"text": None},
    {"text": ""},
    {"whole": 0},
    {"whole": None},
    {"real": -0.5},
    {"flag": False},
    {"flag": None},
    {"day": date(2026, 1, 2)},
    {"moment": datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)},
    {"parts": None},
    {"parts": []},
    {"parts": [{"name": "x", "share": 0.25}]},
    {"parts": [{"name": "x", "share": 0.25}, {"name": "", "share": None}]},
    {"parts": [{"name": "x", "share": 0.25}, None]},
]


def _table(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


def test_every_change_of_a_value_or_a_null_is_another_digest():
    digests = [digest_rows(_table(ROW)), *(digest_rows(_table({**ROW, **change})) for change in CHANGES)]
    assert len(set(digests)) == len(digests)


def test_texts_that_join_alike_and_rows_in_another_order_differ():
    assert digest_rows(_table({"text": "ab"}, {"text": "c"})) != digest_rows(_table({"text": "a"}, {"text": "bc"}))
    assert digest_rows(_table({"whole": 1}, {"whole": 2})) != digest_rows(_table({"whole": 2}, {"whole": 1}))
    assert digest_rows(_table({"whole": 1}).rename_columns(["other", *SCHEMA.names[1:]])) != digest_rows(
        _table({"whole": 1})
    )


rows_of = st.fixed_dictionaries(
    {
        "text": st.none() | st.text(max_size=5),
        "whole": st.none() | st.integers(-(2**31), 2**31 - 1),
        "real": st.none() | st.floats(width=32),
        "flag": st.none() | st.booleans(),
        "parts": st.none()
        | st.lists(
            st.fixed_dictionaries(
                {"name": st.none() | st.text(max_size=3), "share": st.none() | st.floats(allow_nan=False)}
            ),
            max_size=3,
        ),
    }
)


@given(rows=st.lists(rows_of, max_size=6), cut=st.integers(0, 6))
def test_the_same_rows_have_the_same_digest_however_they_are_laid_out(rows, cut):
    table = _table(*rows)
    pieces = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert digest_rows(pieces) == digest_rows(table)
    assert digest_rows(table.take(pa.array(range(len(rows)), pa.int64()))) == digest_rows(table)
    rest = _table({"text": "before", "parts": [{"name": "gone", "share": 1.0}]}, *rows).slice(1)
    assert digest_rows(rest) == digest_rows(table)
