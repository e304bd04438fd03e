"""What the student's pass over a video leaves behind when it is a stage of its own, before anybody asks the teacher.

A run with a budget needs it: which clips the teacher is asked about is decided once the student has seen all videos.
Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from cdmodel.cost import ComputeCost
from cdmodel.decode_survey import DecodeSummary
from cdmodel.scores import BoolArray, StudentLogits
from cdmodel.stage_clock import StageSeconds
from cdmodel.types import ClipSpan, VideoFailure, VideoRef


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentPass:
    """One video as the student saw it. N clips."""

    video: VideoRef
    logits: StudentLogits
    """Raw: calibration follows from the bundle."""
    spans: tuple[ClipSpan, ...]
    """Where each clip lies (N)."""
    wanted_N: BoolArray
    """What the policy would ask the teacher about."""
    value_N: NDArray[np.float64]
    """What asking is worth, above 0 where wanted."""
    summary: DecodeSummary
    cost: ComputeCost
    """Of the student alone, and the wall time of the whole pass."""


StudentOutcome = StudentPass | VideoFailure
"""A video that the student could not see to its end is not labeled later either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PassReceipt:
    """Summary of the student's pass over one shard."""

    run_id: str
    shard_id: str
    attempt_id: str
    fingerprint: str
    videos: int
    clips: int
    clips_wanted: int
    clips_audited: int
    """Of videos that are drawn for the audit: all their clips go to the teacher, whatever the budget pays for."""
    cost: ComputeCost
    """Reading and decoding included."""
    cost_usd: float | None
    """None without a price table."""
    teacher_flops_per_clip: int
    device: str
    stages: StageSeconds = StageSeconds()  # noqa: RUF009 - frozen
    committed_at: datetime
