"""One row of the table of runs: what a run did, found, cost and saved.

The schema follows from the fields below; a figure that this version does not measure is null, not invented.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal, get_type_hints

import pyarrow as pa

from storage.filesystem import Store
from storage.parquet import damaged, open_parquet, reading_rows, small_to_bytes
from storage.prediction_schema import MOMENT, VERSION_METADATA
from storage.run_layout import run_row_name

RunStatus = Literal["completed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The row. FLOPs count a multiply-accumulate as two; seconds are as in the table of predictions."""

    run_id: str
    flow: str
    status: str
    started_at: datetime
    ended_at: datetime
    source: str
    corpus: str
    model_version: str
    fingerprint: str
    config_json: str
    code_version: str
    videos_planned: int
    videos_labeled: int
    videos_partial: int
    videos_failed: int
    videos_skipped: int
    clips_planned: int
    clips_student: int
    clips_teacher: int
    frames_decoded: int
    frames_used: int
    frames_corrupt: int
    packets_read: int
    packets_damaged: int
    bytes_read: int
    read_requests: int
    student_flops: int
    teacher_flops: int
    dense_teacher_flops: int
    decode_cpu_seconds: float
    dense_decode_cpu_seconds: float
    student_seconds: float
    teacher_seconds: float
    gpu_seconds: float
    wall_seconds: float
    cost_usd: float | None = None
    saved_flops_share: float | None = None
    saved_seconds_share: float | None = None
    saved_flops_share_with_audit: float | None = None
    """With the audit's own cost on the side of what was spent."""
    saved_seconds_share_with_audit: float | None = None
    audit_videos: int | None = None
    """Videos that the teacher labeled densely as well; the figures of the audit are null where there is none."""
    audit_groups: int | None = None
    """Source recordings among them; null where the corpus names none."""
    audit_agreement: float | None = None
    """Share of them that the cascade and the dense teacher gave the same label."""
    audit_agreement_low: float | None = None
    """Ends of the 95 % interval."""
    audit_agreement_high: float | None = None
    audit_confidence: float | None = None
    """Mean of the cascade's ``confidence`` on the audited videos."""
    audit_ece: float | None = None
    """Expected calibration error of ``confidence`` against agreement."""
    audit_flops: int | None = None
    """What the audit took beyond the cascade, in the teacher."""
    audit_seconds: float | None = None
    """The same in seconds of the teacher and of decoding."""
    student_drift: float | None = None
    """Population stability index of its confidence per clip; null where the bundle has no reference, or too few videos."""
    teacher_drift: float | None = None
    """The same of the teacher's, on audited videos."""
    alarms: str | None = None
    """Names of those that rang, joined by commas; empty where none did, null where there was nothing to check."""
    speed_of_light: float | None = None
    """What the busiest part of the workers alone would have taken, by what labeling took; see docs/throughput.md."""
    slowest_stage: str | None = None
    """``decode``, ``student`` or ``teacher``: the stage that alone would have taken longest."""
    tail_idle_share: float | None = None
    """Share of the workers' time that they had nothing to do at the end, while the last ones still labeled."""
    retry_cost: float | None = None
    """Wall seconds of attempts at shards that died or came too late, as far as they wrote them down."""
    videos_quarantined: int | None = None
    """Of those skipped, the ones that failed before and were not tried again."""
    budget_json: str | None = None
    """By the name of each limit, ``limit`` and what was ``spent`` of it; null without a budget."""
    clips_unfunded: int | None = None
    """Clips that the teacher would have been asked about, had the budget allowed."""
    videos_unfunded: int | None = None
    """Videos with such clips."""
    create_only_honoured: bool | None = None
    """Whether OUT let an object be created only once, when the run was planned."""
    lineage_json: str | None = None
    """Inputs, outputs, versions and code of the run, see docs/operations.md."""
    labels: tuple[str, ...] | None = None
    """Names of the bundle's labels, in the order of ``label_id``; null in rows of an earlier state of this project, and
    where the bundle had changed or gone by the end of the run."""


_ARROW_TYPES: dict[Any, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    datetime: MOMENT,
    float | None: pa.float64(),
    int | None: pa.int64(),
    str | None: pa.string(),
    bool | None: pa.bool_(),
    tuple[str, ...] | None: pa.list_(pa.string()),
}
RUN_SCHEMA = pa.schema(
    [(f.name, _ARROW_TYPES[get_type_hints(RunRecord)[f.name]]) for f in fields(RunRecord)], metadata=VERSION_METADATA
)


def write_run_row(store: Store, record: RunRecord) -> RunRecord:
    """Write the run's row once, and return the one that stands: a run that was finished twice has one row."""
    name = run_row_name(record.run_id)
    if store.create(name, small_to_bytes(pa.Table.from_pylist([asdict(record)], schema=RUN_SCHEMA))):
        return record
    return read_run_row(store, record.run_id)


def read_run_row(store: Store, run_id: str) -> RunRecord:
    """Return the row of a finished run; columns that another state of this project added are ignored.

    Raises:
        DamagedObject: the file is cut, or is not one row of that run.
        StorageUnavailable: there is no such file.
    """
    name = run_row_name(run_id)
    with reading_rows(store, name), open_parquet(store, name) as file:
        (row,) = file.read().to_pylist()
        labels = row.pop("labels", None)
        record = RunRecord(
            **{key: row[key] for key in RUN_SCHEMA.names if key in row},
            labels=None if labels is None else tuple(labels),
        )
    if record.run_id != run_id:
        raise damaged(store, name, f"it is the row of run {record.run_id}")
    return record
