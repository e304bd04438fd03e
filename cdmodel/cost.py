"""What labeling costs: one value that adds up from clip to video to shard to run.

Knows nothing of prices' currency markets, devices' speed or who pays: it counts.
FLOPs are counts of operations, one multiply-accumulate being two.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import inf
from typing import ClassVar

from cdmodel.errors import ConfigError
from cdmodel.setting_groups import FORBID_UNKNOWN

SECONDS_PER_HOUR = 3600.0
_DEVICE_NAME = re.compile(r"cpu|cuda:\S.*")


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
    """What an hour of each device costs, in US dollars. A run on a device without a price is refused."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN

    devices: Mapping[str, float] = field(default_factory=dict)
    """Price of an hour by the name that the column ``device`` shows: ``"cuda:NVIDIA H200" = 4.2``; ``cpu`` is what
    decodes, and labels where there is no GPU."""
    usd_per_gpu_hour: float | None = None
    """Of every GPU that ``devices`` does not name; without it such a GPU has no price."""
    usd_per_cpu_hour: float | None = None
    """Of a processor, where ``devices`` does not name ``cpu``."""

    def __post_init__(self) -> None:
        for name in self.devices:
            if _DEVICE_NAME.fullmatch(name) is None:
                raise ValueError(f'no device is called {name!r}: names are "cpu", or "cuda:" and the card\'s name')
        given = (*self.devices.values(), self.usd_per_gpu_hour, self.usd_per_cpu_hour)
        if not all(price is None or 0 <= price < inf for price in given):
            raise ValueError("prices must be numbers and not negative")
        if self.of("cpu") is None:
            raise ValueError("every run decodes on a CPU: give usd_per_cpu_hour, or devices.cpu")

    def of(self, device: str) -> float | None:
        """Return the price of an hour of the device; None where it has none."""
        return self.devices.get(device, self.usd_per_cpu_hour if device == "cpu" else self.usd_per_gpu_hour)


def require_price(prices: PriceTable | None, device: str) -> None:
    """Raise ConfigError if there are prices, but none for this device."""
    if prices is not None and prices.of(device) is None:
        known = ", ".join(sorted({*prices.devices, "cpu"}))
        raise ConfigError(
            "prices",
            f'there is no price for "{device}", only for {known}; add it to [prices.devices] or usd_per_gpu_hour',
        )


def price_usd(cost: ComputeCost, device: str, prices: PriceTable) -> float:
    """Return the price of ``cost``: GPU time at the rate of ``device``, all other seconds at the CPU's rate; audits included.

    Raises:
        ConfigError: the device has no price.
    """
    require_price(prices, device)
    of_cpu, of_device = prices.of("cpu") or 0.0, prices.of(device) or 0.0
    return (cpu_seconds(cost) * of_cpu + cost.gpu_seconds * of_device) / SECONDS_PER_HOUR


def cpu_seconds(cost: ComputeCost) -> float:
    """Return the part of the cost that a processor spent: decoding, and the models where no GPU runs them."""
    model_seconds = cost.student_seconds + cost.teacher_seconds + cost.audit_seconds
    return cost.decode_cpu_seconds + max(model_seconds - cost.gpu_seconds, 0.0)
