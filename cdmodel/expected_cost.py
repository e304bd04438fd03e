"""What each video of a run is expected to cost, beside the others, before anything is decoded.

Cost goes partly by the byte, partly by the file: a run is shared out half by size, half by count. What an earlier run has
measured is better than both. Light, since planning needs it. Knows nothing of what cost is paid in.
N videos.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def expected_shares(size_bytes_N: ArrayLike, past_seconds_N: ArrayLike | None = None) -> Floats:
    """Return each video's expected share of the cost [N]: the mean of its share of the bytes and of the videos.

    Sizes that are not known (NaN) count as the mean of the others. Videos that once took so many seconds are weighed by
    those; where that is not known (NaN), by size, at the pace of the ones where it is.
    """
    shares_N = _shares_by_size(np.asarray(size_bytes_N, dtype=np.float64))
    if past_seconds_N is None:
        return shares_N
    past_N = np.asarray(past_seconds_N, dtype=np.float64)
    known_N = np.isfinite(past_N)
    seconds_known = float(past_N[known_N].sum())
    if seconds_known <= 0:
        return shares_N
    pace = seconds_known / float(shares_N[known_N].sum())
    seconds_N = np.where(known_N, past_N, shares_N * pace)
    return np.asarray(seconds_N / seconds_N.sum(), dtype=np.float64)


def _shares_by_size(sizes_N: Floats) -> Floats:
    if not len(sizes_N):
        return sizes_N
    known_N = np.isfinite(sizes_N)
    mean = float(sizes_N[known_N].mean()) if known_N.any() else 1.0
    sizes_N = np.where(known_N, sizes_N, mean)
    count_share = 1.0 / len(sizes_N)
    return (sizes_N / sizes_N.sum() + count_share) / 2 if sizes_N.sum() > 0 else np.full(len(sizes_N), count_share)
