"""A hash of what rows say, whatever they are stored in: a file's checksums cover its pages, not how they are to be read."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class _Hash(Protocol):
    def update(self, data: bytes | memoryview, /) -> None:
        """Take more bytes."""


def digest_rows(rows: pa.Table) -> str:
    """Return the hex digest of names, nulls and values, in order; the same for equal tables, however chunked."""
    digest = hashlib.sha256()
    for name in rows.column_names:
        digest.update(f"{name}\0{rows.num_rows}\n".encode())
        _add(digest, rows.column(name).combine_chunks())
    return digest.hexdigest()


def _add(digest: _Hash, values: pa.Array) -> None:
    if isinstance(values, pa.ChunkedArray):  # an empty column has no chunk to combine
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    digest.update(np.packbits(values.is_null().to_numpy(zero_copy_only=False)).tobytes())
    if pa.types.is_list(values.type):
        digest.update(pc.fill_null(pc.list_value_length(values), 0).to_numpy().tobytes())
        _add(digest, pc.list_flatten(values))
    elif pa.types.is_struct(values.type):
        for part in values.flatten():
            _add(digest, part)
    elif pa.types.is_string(values.type):
        _add_text(digest, pc.fill_null(values, ""))
    elif pa.types.is_boolean(values.type):
        flags = pc.fill_null(values, pa.scalar(0).cast(pa.bool_())).to_numpy(zero_copy_only=False)
        digest.update(np.packbits(flags).tobytes())
    else:
        plain = values.view(f"int{values.type.bit_width}")
        digest.update(pc.fill_null(plain, 0).to_numpy().tobytes())


def _add_text(digest: _Hash, texts: pa.Array) -> None:
    digest.update(pc.binary_length(texts).to_numpy().tobytes())
    _, offsets, data = texts.buffers()
    if data is not None and len(texts):
        ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
        digest.update(memoryview(data)[int(ends[0]) : int(ends[-1])])
