"""A run's budget, from what stands in storage: what was spent, what is left, and what is asked for."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from cdmodel.budget import Allotment, BudgetSettings, Funds, Unit, amount_of, expected_pace
from cdmodel.cost import ComputeCost, PriceTable, price_usd
from cdmodel.errors import RunError
from cdmodel.student_pass import PassReceipt
from cdmodel.types import Shard, ShardReceipt
from storage.filesystem import Store
from storage.run_record import read_run_row
from storage.run_store import RunHeader, list_runs, read_receipts
from storage.student_passes import join_demands, read_demands

AUDIT_AT_MOST = 0.5
"""Share of what is left that an audit may take."""
TOLERATED_EXCESS = 1.25
"""The student's price is projected from its first shards; it must be so far above the budget to end the run early."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FundedShards:
    """The budget of the shards that are not done, and how their receipts tell what they spent on the teacher."""

    funds: Funds
    position: dict[str, int]
    """By shard id, its place in ``funds``."""
    passes: dict[str, PassReceipt]
    """By shard id, what the student's stage came to; a shard's receipt holds its cost too."""
    can_audit: bool
    """Whether the audit leaves enough of the budget; where not, nothing is audited."""

    def allot(self, shard: Shard) -> Allotment:
        """Return what a shard may ask and spend now."""
        return self.funds.allot(self.position[shard.shard_id])

    def settle(self, receipt: ShardReceipt) -> None:
        """Book what a shard spent."""
        taken = self.passes[receipt.shard_id]
        usd = (receipt.cost_usd or 0.0) - (taken.cost_usd or 0.0)
        self.funds.settle(self.position[receipt.shard_id], receipt.cost - taken.cost, receipt.clips_teacher, usd)


def open_funds(
    store: Store,
    header: RunHeader,
    pending: Sequence[str],
    budget: BudgetSettings,
    prices: PriceTable | None,
    *,
    workers: int,
    started: float,
) -> FundedShards:
    """Return the budget as it stands once every shard has its student's passes.

    Args:
        store: OUT.
        header: the run's.
        pending: ids of the shards that are not labeled yet.
        budget: of the whole run, shards that were labeled before included; the wall clock is this command's.
        prices: of the run.
        workers: how many shards are labeled at once.
        started: when the command began, in seconds since the epoch.

    Raises:
        RunError: the student alone has taken more dollars than the budget has.
        DamagedObject: what the student's stage wrote was changed.
    """
    # One that another process committed since the pending ones were listed is booked when its receipt comes back.
    done = [receipt for receipt in read_receipts(store, header.run_id) if receipt.shard_id not in set(pending)]
    demands = read_demands(
        store, header.run_id, [*pending, *(receipt.shard_id for receipt in done)], header.fingerprint
    )
    passes = {demand.receipt.shard_id: demand.receipt for demand in demands}
    of_student = sum((one.cost for one in passes.values()), ComputeCost())
    student_usd = sum(one.cost_usd or 0.0 for one in passes.values())
    refuse_dear_student(budget, student_usd, share_done=1.0)
    on_teacher = [receipt.cost - passes[receipt.shard_id].cost for receipt in done]
    teacher_usd = sum((receipt.cost_usd or 0.0) - (passes[receipt.shard_id].cost_usd or 0.0) for receipt in done)
    limits = _what_is_left(budget, on_teacher, student_usd + teacher_usd, seconds_gone=time.time() - started)
    flops_per_clip = max((demand.receipt.teacher_flops_per_clip for demand in demands), default=0)
    pace = expected_pace(of_student, flops_per_clip, _seconds_per_clip_of_latest(store, header.model_version))
    for receipt, cost in zip(done, on_teacher, strict=True):
        pace.learn(cost, receipt.clips_teacher)
    # Prices of clips to come are those of one device; what shards have spent is priced on the devices that they had.
    price = None if prices is None else partial(price_usd, device=demands[0].receipt.device, prices=prices)
    demand = join_demands(demands[: len(pending)])
    open_with = partial(Funds, limits, demand, pace=pace, price=price, workers=workers)
    funds = open_with([one.receipt.clips_audited for one in demands[: len(pending)]])
    can_audit = all(funds.audit_takes(unit) <= AUDIT_AT_MOST * limits[unit] for unit in limits)
    return FundedShards(
        funds=funds if can_audit else open_with([0] * len(pending)),
        position={shard_id: position for position, shard_id in enumerate(pending)},
        passes=passes,
        can_audit=can_audit,
    )


def _what_is_left(
    budget: BudgetSettings, on_teacher: Sequence[ComputeCost], usd: float, *, seconds_gone: float
) -> dict[Unit, float]:
    """Return what is left of each limit, of the whole run's dollars and of what was spent on the teacher."""
    spent: dict[Unit, float] = {"wall_clock": seconds_gone, "usd": usd}
    for unit in budget.limits.keys() - spent.keys():
        spent[unit] = sum(amount_of(unit, cost) for cost in on_teacher)
    return {unit: max(limit - spent[unit], 0.0) for unit, limit in budget.limits.items()}


def _seconds_per_clip_of_latest(store: Store, model_version: str) -> float | None:
    """Return what a clip took the same teacher in the latest run that asked it; None where none did."""
    for run in reversed(list_runs(store)):
        if run.finished and run.header.model_version == model_version:
            record = read_run_row(store, run.header.run_id)
            if record.clips_teacher:
                return record.teacher_seconds / record.clips_teacher
    return None


def refuse_dear_student(budget: BudgetSettings, usd: float, *, share_done: float) -> None:
    """Raise RunError where the student alone takes more than the budget has, by the dollars that a share of it took."""
    if budget.usd is None or not share_done:
        return
    projected = usd / share_done
    if projected > budget.usd * (TOLERATED_EXCESS if share_done < 1 else 1.0):
        raise RunError(
            "budget.usd",
            f"is {budget.usd:g}, but the student alone takes about {projected:.4g} for all videos (measured on "
            f"{share_done:.2g} of the run); what it said is kept: raise the budget and run the same command again",
        )


def share_at_most(videos_share: float, expected_share: float) -> float:
    """Return how much of the run's cost shards may be that hold these shares of its videos and of its expected cost.

    Shards go out the dearest first, so that the first ones tell little of the price of a video. Cost was expected to go
    half by the video, half by the byte; this is the larger of their two shares, whichever it really goes by.
    """
    return max(videos_share, 2 * expected_share - videos_share)
