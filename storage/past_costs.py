"""What videos took when an earlier run labeled them: better than their size at telling what they will take.

Read while a run is planned, so no more rows than are worth it: those of the latest runs over the same source.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from cdmodel.types import VideoRef
from storage.filesystem import Store
from storage.lookahead import map_ahead
from storage.parquet import open_parquet, reading_rows
from storage.prediction_schema import PREDICTION_SCHEMA, as_schema
from storage.publish import read_success
from storage.run_store import RunState

ROWS_PER_VIDEO = 2
"""Rows that are read at most, by the videos planned: a night's few new videos are in no earlier run."""
FILES_AHEAD = 4
_SECONDS = ["decode_cpu_seconds", "student_seconds", "teacher_seconds"]
_COLUMNS = ["video_id", "video_version", "status", *_SECONDS]


def read_past_seconds(
    store: Store, videos: Sequence[VideoRef], runs: Sequence[RunState], source: str
) -> NDArray[np.float64] | None:
    """Return the seconds [N] of decoding and models that the latest row of each of the N videos has; NaN without one.

    None where none has. Rows of failures do not count, nor do those of other versions of a video. Whichever models and
    settings an earlier run had, long videos were long.

    Raises:
        DamagedObject: a published table was changed.
    """
    names = [
        file.name
        for run in _worth_reading(runs, source, most_rows=ROWS_PER_VIDEO * len(videos))
        for file in read_success(store, run.header.run_id).files
    ]
    if not names:
        return None
    ids = pa.array([video.video_id for video in videos], pa.string())
    versions = pa.array([video.video_version for video in videos], pa.string())
    seconds_N = np.full(len(videos), np.nan)
    for rows in map_ahead(partial(_read_one, store), names, FILES_AHEAD):
        position = pc.index_in(rows.column("video_id"), ids)
        is_same = pc.equal(rows.column("video_version"), pc.take(versions, position))
        # Null where the video is not planned now: left out by the filter, like what is false.
        is_usable = pc.and_(is_same, pc.not_equal(rows.column("status"), "failed"))
        known = rows.filter(is_usable)
        seconds_N[position.filter(is_usable).to_numpy()] = sum(known.column(name).to_numpy() for name in _SECONDS)
    return seconds_N if np.isfinite(seconds_N).any() else None


def _worth_reading(runs: Sequence[RunState], source: str, most_rows: int) -> list[RunState]:
    """Return the latest finished runs over a source that have so many rows at most, oldest first."""
    chosen: list[RunState] = []
    rows = 0
    for run in sorted(runs, key=lambda run: run.header.created_at, reverse=True):
        if run.finished and run.header.source == source:
            rows += run.header.videos
            if rows > most_rows:
                break
            chosen.append(run)
    return chosen[::-1]


def _read_one(store: Store, name: str) -> pa.Table:
    with reading_rows(store, name), open_parquet(store, name) as file:
        rows = file.read(columns=[column for column in _COLUMNS if column in file.schema_arrow.names])
        return as_schema(rows, pa.schema([PREDICTION_SCHEMA.field(column) for column in _COLUMNS]))
