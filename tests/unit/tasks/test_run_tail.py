from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from run_builders import NOON, commit, shards_of, video

from cdmodel.stage_clock import StageSeconds
from cdmodel.types import ShardReceipt
from storage.filesystem import open_store
from tasks.run_tail import tail_idle_share


@pytest.fixture
def receipt(tmp_path) -> ShardReceipt:
    [shard] = shards_of([video("a")])
    return commit(open_store(str(tmp_path / "out")), "r1", shard)


def _ran(receipt: ShardReceipt, began: float, ended: float) -> ShardReceipt:
    """Return the receipt of a shard that ran from one second of the run until another."""
    committed_at = NOON + timedelta(seconds=ended)
    return replace(receipt, committed_at=committed_at, stages=StageSeconds(worker=ended - began))


def test_two_workers_that_end_together_have_no_tail(receipt: ShardReceipt):
    ran = [_ran(receipt, 0, 10), _ran(receipt, 0, 4), _ran(receipt, 4, 10)]
    assert tail_idle_share(ran) == 0.0


def test_a_worker_without_more_to_do_idles_until_the_end(receipt: ShardReceipt):
    ran = [_ran(receipt, 0, 4), _ran(receipt, 0, 5), _ran(receipt, 4, 10)]
    assert tail_idle_share(ran) == pytest.approx(5 / (15 + 5))


def test_a_long_shard_that_begins_last_keeps_all_others_waiting(receipt: ShardReceipt):
    short = [_ran(receipt, 0, 1), *(_ran(receipt, 0, 2) for _ in range(3))]
    long = _ran(receipt, 1, 10)
    assert tail_idle_share([*short, long]) == pytest.approx(3 * 8 / (7 + 9 + 24))


def test_a_pause_before_a_run_was_gone_on_with_is_no_idling(receipt: ShardReceipt):
    before = [_ran(receipt, 0, 4), _ran(receipt, 0, 5)]
    after = [_ran(receipt, 1000, 1006), _ran(receipt, 1000, 1004)]
    assert tail_idle_share([*before, *after]) == pytest.approx(2 / (9 + 10 + 2))


def test_shards_that_nobody_timed_tell_nothing(receipt: ShardReceipt):
    assert tail_idle_share([]) is None
    assert tail_idle_share([receipt]) is None
