"""Which videos are done: the difference between what was found and what has a terminal row.

Reads published rows of the same fingerprint, and the plans of runs that are not finished. Identity is the video's id and
version; a changed video is a new one.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cdmodel.types import VideoRef
from storage.filesystem import Store
from storage.parquet import open_parquet
from storage.publish import read_success
from storage.run_layout import plan_name
from storage.run_store import RunState

_KEYS = ["video_id", "video_version"]


def without_terminal_rows(
    store: Store, videos: Sequence[VideoRef], runs: Sequence[RunState], fingerprint: str
) -> list[VideoRef]:
    """Return the videos that no finished run of this fingerprint has a row for, in their order."""
    names = [
        file.name
        for run in runs
        if run.finished and run.header.fingerprint == fingerprint
        for file in read_success(store, run.header.run_id).files
    ]
    done = _read_keys(store, names)
    if not done.num_rows:
        return list(videos)
    found = pa.table(
        {
            "video_id": pa.array([video.video_id for video in videos], pa.string()),
            "video_version": pa.array([video.video_version for video in videos], pa.string()),
            "position": pa.array(range(len(videos)), pa.int64()),
        }
    )
    left = found.join(done, keys=_KEYS, join_type="left anti").column("position")
    return [videos[position] for position in sorted(left.to_pylist())]


def planned_elsewhere(store: Store, runs: Sequence[RunState], fingerprint: str) -> dict[str, str]:
    """Return, for each video of an unfinished run of this fingerprint, that run's id: it is that run's to label."""
    owners: dict[str, str] = {}
    for run in runs:
        if not run.finished and run.header.fingerprint == fingerprint:
            with open_parquet(store, plan_name(run.header.run_id)) as plan:
                planned = plan.read(columns=["video_id"]).column("video_id").to_pylist()
            owners.update(dict.fromkeys(planned, run.header.run_id))
    return owners


def _read_keys(store: Store, names: Sequence[str]) -> pa.Table:
    """Return the ids and versions in published files; column-pruned, so that a large table costs little."""
    parts = []
    for name in names:
        with open_parquet(store, name) as file:
            parts.append(file.read(columns=_KEYS))
    return pa.concat_tables(parts) if parts else pa.table({key: pa.array([], pa.string()) for key in _KEYS})


def duplicates(store: Store, names: Sequence[str]) -> list[str]:
    """Return the ids that stand more than once in these files together."""
    ids = _read_keys(store, names).column("video_id")
    counts = ids.value_counts()
    repeated = pc.filter(counts.field("values"), pc.greater(counts.field("counts"), 1))
    return sorted(str(value) for value in repeated.to_pylist())


def published_ids(store: Store, names: Sequence[str]) -> set[str]:
    """Return the ids that stand in these files."""
    return set(_read_keys(store, names).column("video_id").to_pylist())
