"""Tables of examples: data set manifests with more columns, which say where each example comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields

import pyarrow as pa

from cdmodel.example_selection import Example
from storage.filesystem import Store
from storage.parquet import small_to_bytes

EXAMPLE_SCHEMA = pa.schema(
    [
        pa.field(field.name, pa.float64() if field.name in ("weight", "confidence") else pa.string())
        for field in fields(Example)
    ]
)


def write_examples(store: Store, name: str, examples: Sequence[Example]) -> None:
    """Write a manifest once; the same examples give the same bytes."""
    table = pa.Table.from_pylist([asdict(example) for example in examples], schema=EXAMPLE_SCHEMA)
    store.create(name, small_to_bytes(table))
