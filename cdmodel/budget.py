"""What a run may spend on the teacher, and on which clips: pure decisions over the whole run.

The policy says which clips are worth asking the teacher about; a budget says how many of these are affordable. They are
ranked across all videos of the run by what they are worth per cost, and paid for in that order (the greedy rule for the
fractional knapsack, Dantzig 1957; where several limits hold, a clip costs the sum of its shares of what is left of each).
What a clip takes in seconds or dollars is learned from the shards that are done. C clips of the run that the policy wants.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from cdmodel.cost import ComputeCost
from cdmodel.setting_groups import FORBID_UNKNOWN

Float64Array = NDArray[np.float64]
Unit = Literal["teacher_gpu_seconds", "teacher_flops", "usd", "wall_clock"]
UNITS: tuple[Unit, ...] = ("teacher_gpu_seconds", "teacher_flops", "usd", "wall_clock")
RANKINGS_PER_RUN = 32
"""How often the clips of a run are ranked anew, as more becomes known of what they cost."""
CLIPS_PER_BATCH = 16
"""As many as a reader hands over at once: the least that can be spent."""
ROUNDING = 1 + 1e-9
"""A sum of equal costs must not miss its own multiple."""
SLACK = 1.5
"""A shard may spend so much more than its clips are expected to take, while there is enough for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetSettings:
    """What the teacher may cost in one run; several limits hold at once. What does not fit is left to the student."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    teacher_gpu_seconds: float | None = None
    """Seconds of the device that the teacher runs on: GPU time, or CPU time of all threads where it has no GPU."""
    teacher_flops: float | None = None
    """Multiply-accumulates count as two."""
    usd: float | None = None
    """Of the whole run by the price table, with decoding and the student, which come first."""
    wall_clock: float | None = None
    """Seconds after the command's start from which on the teacher is asked nothing more. The student still sees all."""
    carry_over: bool = False
    """Label again the videos whose latest row says that clips did not fit the budget of the run that wrote it."""

    def __post_init__(self) -> None:
        for unit, limit in self.limits.items():
            if not (math.isfinite(limit) and limit > 0):
                raise ValueError(f"{unit} must be above 0, got {limit}; escalation.kind = dense_student spends nothing")

    @property
    def is_limited(self) -> bool:
        """Whether there is any limit."""
        return bool(self.limits)

    @property
    def limits(self) -> dict[Unit, float]:
        """The limits that were set, by their unit."""
        return {unit: limit for unit in UNITS if (limit := getattr(self, unit)) is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """All clips of a run that its policy would ask the teacher about, in order of shards, videos and clips."""

    shard_C: NDArray[np.int32]
    """Position of the clip's shard in the plan."""
    video_C: NDArray[np.int32]
    """Position of its video in the shard."""
    clip_C: NDArray[np.int32]
    value_C: Float64Array
    """What asking is worth, above 0."""
    decode_seconds_C: Float64Array
    """CPU time to read a clip of its video, as the student's pass took."""

    def __post_init__(self) -> None:
        if len({len(getattr(self, f.name)) for f in fields(self)}) != 1:
            raise ValueError("every wanted clip needs a shard, a video, an index, a value and a decoding time")

    def __len__(self) -> int:
        return len(self.value_C)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPrice:
    """What one more clip takes of one limit: so much by itself, and so much per second of decoding."""

    per_clip: float
    per_decode_second: float = 0.0

    def of(self, decode_seconds_C: Float64Array) -> Float64Array:
        """Return the cost of each clip."""
        return self.per_clip + self.per_decode_second * decode_seconds_C


@dataclass(frozen=True, slots=True, kw_only=True)
class Allotment:
    """What one shard may ask the teacher, and spend on it."""

    clips: Mapping[int, tuple[int, ...]]
    """By the video's position in the shard, the clips in order of time; videos without any are left out."""
    allowance: Mapping[Unit, float]
    """At most so much of each limit; wall clock as seconds of one worker."""
    price: Mapping[Unit, float]
    """What a clip is expected to take of each."""
    deadline: float | None
    """Seconds since the epoch."""


@dataclass(slots=True, kw_only=True)
class TeacherPace:
    """What the teacher's clips have taken so far; before the first, what the student's pace promises."""

    teacher_flops: int
    """Of one clip."""
    expected_seconds: float
    """Of one clip, before any was measured."""
    on_gpu: bool
    clips: int = 0
    cost: ComputeCost = field(default_factory=ComputeCost)
    decode_seconds: float = 0.0
    expected_decode_seconds: float = 0.0
    """What this decoding was expected to take."""

    def learn(self, cost: ComputeCost, clips: int, expected_decode_seconds: float = 0.0) -> None:
        """Take note of what some of the teacher's clips took."""
        self.clips += clips
        if clips:
            self.cost += cost
        if expected_decode_seconds:
            self.decode_seconds += cost.decode_cpu_seconds
            self.expected_decode_seconds += expected_decode_seconds

    @property
    def seconds_per_clip(self) -> float:
        """Of the device."""
        return self.cost.teacher_seconds / self.clips if self.clips else self.expected_seconds

    @property
    def decode_factor(self) -> float:
        """How much longer reading clips again takes than reading them the first time did."""
        return self.decode_seconds / self.expected_decode_seconds if self.expected_decode_seconds else 1.0


def expected_pace(student: ComputeCost, teacher_flops: int, seconds_before: float | None = None) -> TeacherPace:
    """Expect of the teacher what a clip took it in an earlier run, or else the student's speed: FLOPs per second."""
    seconds_per_flop = student.student_seconds / student.student_flops if student.student_flops else 0.0
    return TeacherPace(
        teacher_flops=teacher_flops,
        expected_seconds=seconds_per_flop * teacher_flops if seconds_before is None else seconds_before,
        on_gpu=student.gpu_seconds > 0,
    )


class Funds:
    """The budget of a run while it is spent: shards ask for their part, and say what they took.

    Args:
        limits: what may be spent in all on what is not done yet, by unit; of ``usd`` what is left for the teacher.
        demand: the wanted clips of all shards that are not done.
        audited: clips of each shard that are audited: they go to the teacher in any case, and what they take is set aside.
        pace: what a clip takes; learns as shards are settled.
        price: dollars of a cost; None without a price table.
        workers: how many shards run at once.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        limits: Mapping[Unit, float],
        demand: Demand,
        audited: Sequence[int],
        pace: TeacherPace,
        *,
        price: Callable[[ComputeCost], float] | None,
        workers: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._limits = dict(limits)
        self._demand = demand
        self._audited = dict(enumerate(audited))
        self._pace = pace
        self._price = price
        self._workers = workers
        self._clock = clock
        self._deadline = clock() + limits["wall_clock"] if "wall_clock" in limits else None
        self._spent = dict.fromkeys(self._limits, 0.0)
        self._reserved: dict[int, Mapping[Unit, float]] = {}
        self._allotted: dict[int, Allotment] = {}
        self._is_open_C = np.ones(len(demand), dtype=np.bool_)
        self._is_funded_C = np.zeros(len(demand), dtype=np.bool_)
        self._settled_between = max(len(audited) // RANKINGS_PER_RUN, 1)
        self._settled_since = self._settled_between

    @property
    def spent(self) -> Mapping[Unit, float]:
        """What the settled shards have taken of each limit, wall clock apart."""
        return self._spent

    def allot(self, shard: int) -> Allotment:
        """Return what a shard may ask and spend. Asked once more, because its worker died, the answer is the same."""
        if shard not in self._allotted:
            if self._settled_since >= self._settled_between:
                self._rank()
                self._settled_since = 0
            self._allotted[shard] = self._allot(shard)
            self._reserved[shard] = self._allotted[shard].allowance
        return self._allotted[shard]

    def settle(self, shard: int, cost: ComputeCost, clips: int, usd: float = 0.0) -> None:
        """Take note of what a shard spent beyond the student's pass, for how many clips of the teacher, at what price."""
        self._reserved.pop(shard, None)
        self._audited.pop(shard, None)
        for unit in self._spent:
            if unit != "wall_clock":
                self._spent[unit] += usd if unit == "usd" else amount_of(unit, cost)
        asked = self._allotted.get(shard)
        self._pace.learn(cost, clips, self._expected_decode_seconds(shard, asked, clips) if asked else 0.0)
        self._settled_since += 1

    def _allot(self, shard: int) -> Allotment:
        first, last = np.searchsorted(self._demand.shard_C, [shard, shard + 1])
        chosen = first + np.flatnonzero(self._is_funded_C[first:last])
        self._is_open_C[first:last] = False
        decode_seconds_C = self._demand.decode_seconds_C[chosen]
        left = self._left()
        allowance: dict[Unit, float] = {}
        per_clip: dict[Unit, float] = {}
        for unit, price in self._prices().items():
            expected = float(price.of(decode_seconds_C).sum())
            allowance[unit] = min(expected if unit == "teacher_flops" else expected * SLACK, left[unit])
            per_clip[unit] = expected / len(chosen) if len(chosen) else 0.0
        return Allotment(
            clips=_by_video(self._demand, chosen), allowance=allowance, price=per_clip, deadline=self._deadline
        )

    def _rank(self) -> None:
        """Choose anew which of the clips that no shard was given yet are affordable."""
        open_C = np.flatnonzero(self._is_open_C)
        self._is_funded_C[open_C] = False
        left = self._left()
        cost_by_unit = {unit: price.of(self._demand.decode_seconds_C[open_C]) for unit, price in self._prices().items()}
        self._is_funded_C[open_C[affordable(self._demand.value_C[open_C], cost_by_unit, left)]] = True

    def _left(self) -> dict[Unit, float]:
        left: dict[Unit, float] = {}
        for unit, limit in self._limits.items():
            if unit == "wall_clock" and self._deadline is not None:
                total = (self._deadline - self._clock()) * self._workers
            else:
                total = limit - self._spent[unit]
            in_flight = sum(reserved[unit] for reserved in self._reserved.values())
            left[unit] = max(total - in_flight - self.audit_takes(unit), 0.0)
        return left

    def audit_takes(self, unit: Unit) -> float:
        """Return what the audits of shards that are not settled are expected to take of a limit, at most."""
        decode_seconds_C = self._demand.decode_seconds_C
        mean = decode_seconds_C.mean(keepdims=True) if len(decode_seconds_C) else np.zeros(1)
        return sum(self._audited.values()) * float(self._prices()[unit].of(mean)[0])

    def _prices(self) -> dict[Unit, ClipPrice]:
        """Return what a clip takes of each limit, by what is known now."""
        pace = self._pace
        prices: dict[Unit, ClipPrice] = {}
        for unit in self._limits:
            match unit:
                case "teacher_flops":
                    prices[unit] = ClipPrice(per_clip=pace.teacher_flops)
                case "teacher_gpu_seconds":
                    prices[unit] = ClipPrice(per_clip=pace.seconds_per_clip)
                case "usd":
                    prices[unit] = ClipPrice(
                        per_clip=self._dollars(self._teacher_cost(pace.seconds_per_clip)),
                        per_decode_second=pace.decode_factor * self._dollars(ComputeCost(decode_cpu_seconds=1.0)),
                    )
                case "wall_clock":
                    prices[unit] = ClipPrice(per_clip=pace.seconds_per_clip, per_decode_second=pace.decode_factor)
        return prices

    def _teacher_cost(self, seconds: float) -> ComputeCost:
        return ComputeCost(teacher_seconds=seconds, gpu_seconds=seconds if self._pace.on_gpu else 0.0)

    def _dollars(self, cost: ComputeCost) -> float:
        return amount_of("usd", cost, self._price)

    def _expected_decode_seconds(self, shard: int, asked: Allotment, clips: int) -> float:
        """Return what decoding so many of the clips that a shard was to ask about should have taken."""
        planned = sum(map(len, asked.clips.values()))
        if not planned:
            return 0.0
        first, last = np.searchsorted(self._demand.shard_C, [shard, shard + 1])
        seconds_of = dict(
            zip(
                self._demand.video_C[first:last].tolist(),
                self._demand.decode_seconds_C[first:last].tolist(),
                strict=True,
            )
        )
        expected = sum(seconds_of[video] * len(indices) for video, indices in asked.clips.items())
        return float(expected) * clips / planned


class Purse:
    """What a shard has left while it asks the teacher: a batch is begun if it can be expected to fit."""

    def __init__(
        self,
        allotment: Allotment,
        price: Callable[[ComputeCost], float] | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._allotment = allotment
        self._price = price
        self._clock = clock
        self._cost = self._cost_before = ComputeCost()
        self._clips = self._clips_before = 0

    def can_afford(self, clips: int) -> bool:
        """Tell whether the next batch of so many clips that are left is expected to fit."""
        if self._allotment.deadline is not None and self._clock() >= self._allotment.deadline:
            return False
        next_clips = min(clips, CLIPS_PER_BATCH)
        for unit, allowance in self._allotment.allowance.items():
            spent = amount_of(unit, self._cost, self._price)
            per_clip = spent / self._clips if self._clips else self._allotment.price[unit]
            if spent + next_clips * per_clip > allowance * ROUNDING:
                return False
        return True

    def note(self, cost: ComputeCost, clips: int) -> None:
        """Take note of what the video at hand has taken so far, for how many clips."""
        self._cost = self._cost_before + cost
        self._clips = self._clips_before + clips

    def close_video(self) -> None:
        """Go on to the next video."""
        self._cost_before, self._clips_before = self._cost, self._clips


def amount_of(unit: Unit, cost: ComputeCost, price: Callable[[ComputeCost], float] | None = None) -> float:
    """Return what some work, audits included, takes of a limit; of the wall clock, as seconds of one worker."""
    match unit:
        case "teacher_flops":
            return float(cost.teacher_flops + cost.audit_flops)
        case "teacher_gpu_seconds":
            return cost.teacher_seconds + cost.audit_seconds
        case "usd":
            if price is None:
                raise ValueError("a budget in dollars needs a price table")
            return price(cost)
        case "wall_clock":
            return cost.teacher_seconds + cost.audit_seconds + cost.decode_cpu_seconds


def affordable(
    value_C: Float64Array, cost_by_unit: Mapping[Unit, Float64Array], left: Mapping[Unit, float]
) -> NDArray[np.intp]:
    """Return the positions of the clips that are paid for, the best first: largest value per cost, until one does not fit.

    A clip's cost is the sum of the shares that it takes of what is left of each limit. Of equal clips the earlier one.
    """
    if any(amount <= 0 for amount in left.values()):
        return np.zeros(0, dtype=np.intp)
    burden_C = np.zeros(len(value_C))
    for unit, cost_C in cost_by_unit.items():
        burden_C += cost_C / left[unit]
    with np.errstate(divide="ignore"):
        order = np.argsort(-(value_C / burden_C), kind="stable")
    fits = len(order)
    for unit, cost_C in cost_by_unit.items():
        fits = min(fits, int(np.searchsorted(np.cumsum(cost_C[order]), left[unit] * ROUNDING, side="right")))
    return order[:fits]


def _by_video(demand: Demand, chosen: NDArray[np.intp]) -> dict[int, tuple[int, ...]]:
    clips: dict[int, list[int]] = {}
    for video, clip in zip(demand.video_C[chosen].tolist(), demand.clip_C[chosen].tolist(), strict=True):
        clips.setdefault(video, []).append(clip)
    return {video: tuple(sorted(indices)) for video, indices in clips.items()}
