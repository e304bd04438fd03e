"""What labeling costs: one value that adds up from clip to video to shard to run.

Knows nothing of prices' currency markets, devices' speed or who pays: it counts.
FLOPs are counts of operations, one multiply-accumulate being two.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

from cdmodel.setting_groups import FORBID_UNKNOWN

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeCost:
    """Cost of some work. The empty cost is zero; costs add with ``+`` and ``sum(costs, ComputeCost())``."""

    frames_decoded: int = 0
    """Every frame the decoder produced, wanted or not, in all passes."""
    frames_used: int = 0
    """Distinct frames, of those decoded, that were handed to a model."""
    frames_corrupt: int = 0
    """Frames the decoder itself flagged as damaged; never handed to a model."""
    packets_read: int = 0
    """Packets of the video stream taken from the container, in all passes."""
    packets_damaged: int = 0
    """Packets that the container or the decoder could not make sense of; passed over."""
    bytes_read: int = 0
    """Bytes asked of the store."""
    read_requests: int = 0
    """Requests to the store (range reads on object storage, read calls on a disk)."""
    student_flops: int = 0
    teacher_flops: int = 0
    dense_teacher_flops: int = 0
    """What the teacher on every clip would have cost."""
    decode_cpu_seconds: float = 0.0
    """CPU time of the decoding thread, conversion to the models' geometry included."""
    dense_decode_cpu_seconds: float = 0.0
    """The part of it that decoding once, from start to end, took: the teacher on every clip would need at least that."""
    student_seconds: float = 0.0
    """Time in the student: on a GPU wall time with copies to and from it, else CPU time of all threads."""
    teacher_seconds: float = 0.0
    gpu_seconds: float = 0.0
    """Time a GPU was busy, for the audit too; zero where the models ran on the CPU."""
    wall_seconds: float = 0.0
    """The audit included."""
    audit_flops: int = 0
    """What the audit took beyond the cascade: the teacher on the clips that it had not been asked about."""
    audit_seconds: float = 0.0
    """The same in seconds of the teacher and CPU seconds of decoding. No other field but the two above holds it."""

    def __add__(self, other: ComputeCost) -> ComputeCost:
        return ComputeCost(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})

    def __sub__(self, part: ComputeCost) -> ComputeCost:
        return ComputeCost(**{f.name: getattr(self, f.name) - getattr(part, f.name) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class PriceTable:
    """What an hour of each device costs, in US dollars."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    usd_per_gpu_hour: float
    usd_per_cpu_hour: float

    def __post_init__(self) -> None:
        if not (self.usd_per_gpu_hour >= 0 and self.usd_per_cpu_hour >= 0):
            raise ValueError("prices must not be negative")


def price_usd(cost: ComputeCost, prices: PriceTable) -> float:
    """Return the price of ``cost``: GPU time at the GPU's rate, all other seconds at the CPU's rate; audit included."""
    model_seconds = cost.student_seconds + cost.teacher_seconds + cost.audit_seconds
    cpu_seconds = cost.decode_cpu_seconds + max(model_seconds - cost.gpu_seconds, 0.0)
    return (cost.gpu_seconds * prices.usd_per_gpu_hour + cpu_seconds * prices.usd_per_cpu_hour) / SECONDS_PER_HOUR
