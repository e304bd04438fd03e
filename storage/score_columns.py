"""Scores as columns of a table: one array a video, float32, bit for bit. N clips, K labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cdmodel.scores import FloatArray

MATRIX = pa.list_(pa.list_(pa.float32()))
VECTOR = pa.list_(pa.float32())


def to_vectors(values: Sequence[NDArray[np.float32]]) -> pa.Array:
    """Return list<float32> from one array [N] per video, without a detour over Python's floats."""
    return pa.ListArray.from_arrays(_offsets(map(len, values)), _flat(values))


def to_matrices(values: Sequence[NDArray[np.float32]]) -> pa.Array:
    """Return list<list<float32>> from one [N, K] per video."""
    rows = pa.ListArray.from_arrays(_offsets(value.shape[1] for value in values for _ in value), _flat(values))
    return pa.ListArray.from_arrays(_offsets(map(len, values)), rows)


def read_vector(column: pa.Array, row: int) -> FloatArray:
    """Return the array [N] of one video."""
    return np.array(column[row].values, dtype=np.float32)


def read_matrix(column: pa.Array, row: int, labels: int) -> FloatArray:
    """Return the array [N, K] of one video. Raises ``ValueError`` where it has not K = ``labels`` columns."""
    rows = column[row].values
    if set(np.diff(rows.offsets.to_numpy())) - {labels}:
        raise ValueError(f"the scores of row {row} have not {labels} columns")
    return np.array(rows.flatten(), dtype=np.float32).reshape(len(rows), labels)


def _offsets(lengths: Iterable[int]) -> pa.Array:
    return pa.array(np.cumsum([0, *lengths]), type=pa.int32())


def _flat(values: Sequence[NDArray[np.float32]]) -> pa.Array:
    return pa.array(np.concatenate([np.zeros(0, dtype=np.float32), *(value.ravel() for value in values)]))
