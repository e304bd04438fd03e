"""Workers that come and go while a run is under way, as those of a spot market do."""

from __future__ import annotations

import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from dask_processes import DaskProcesses, dask_processes

from cdmodel.testing import encode_numbered_clips, write_tiny_bundle
from cdmodel.types import ShardReceipt
from flows.config import load_config, to_request
from flows.dispatch import open_cluster
from flows.label import labeling_spec
from flows.shard_rounds import ShardWork, run_in_rounds
from storage.filesystem import Store, open_store
from storage.run_store import committed_shards, iter_shards, read_receipts
from storage.shard_order import iter_dearest_first
from tasks.finish_run import publish_and_record
from tasks.label_shard import label_shard
from tasks.plan_run import open_run
from tasks.run_request import LabelingPlan
from tasks.verify_output import verify_output

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

ROOT = Path(__file__).parents[2]
VIDEOS, VIDEOS_PER_SHARD = 24, 3
STOOD_BEFORE = 2
PATIENCE_SECONDS = 60


def test_a_worker_that_is_taken_away_costs_its_one_shard_and_the_one_that_comes_instead_gets_the_rest(
    tmp_path: Path,
) -> None:
    videos, out = tmp_path / "videos", tmp_path / "out"
    write_tiny_bundle(tmp_path / "bundle")
    videos.mkdir()
    for number in range(VIDEOS):
        (videos / f"{number:02}.mkv").write_bytes(encode_numbered_clips(2))
    with dask_processes(environment={"PYTHONPATH": str(ROOT)}) as processes:
        settings = {
            "source": str(videos),
            "out": str(out),
            "cluster.scheduler": processes.address,
            "decode.isolated": False,
            "models.bundle": str(tmp_path / "bundle"),
            "sharding.videos_per_shard": VIDEOS_PER_SHARD,
        }
        config = load_config(None, [], settings)
        plan = open_run(to_request(config))
        assert isinstance(plan, LabelingPlan)
        store, run_id = open_store(config.out), plan.header.run_id
        receipts: list[ShardReceipt] = []
        with open_cluster(config.cluster, gpus=0) as cluster, ThreadPoolExecutor(1) as background:
            replaced = background.submit(replace_worker_amid_a_shard, processes, store, run_id)
            work = ShardWork(run=label_shard, name="label", on_done=receipts.append)
            spec = labeling_spec(config, plan, cluster)
            assert run_in_rounds(cluster, spec, iter_dearest_first(store, run_id), work) == []
            stood = replaced.result()
    attempts = {receipt.shard_id: receipt.attempt_id for receipt in read_receipts(store, run_id)}
    assert len(receipts) == len(attempts) == plan.header.shards
    assert stood.items() <= attempts.items()
    assert sorted(attempts_begun(store, run_id).values()) == [1] * (plan.header.shards - 1) + [2]
    record = publish_and_record(config.out, run_id, config_json="{}", code_version="0")
    assert record.videos_labeled == VIDEOS
    assert verify_output(config.out) == ()


def replace_worker_amid_a_shard(processes: DaskProcesses, store: Store, run_id: str) -> dict[str, str]:
    """Kill the only worker amid a shard once some stand, and start another; returns which attempts stood by then."""
    [taken] = processes.workers
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if len(committed_shards(store, run_id)) >= STOOD_BEFORE:
            taken.send_signal(signal.SIGSTOP)  # it must not get on while we look
            stood = committed_shards(store, run_id)
            if attempts_begun(store, run_id).keys() - stood:
                stood_by_then = {receipt.shard_id: receipt.attempt_id for receipt in read_receipts(store, run_id)}
                taken.kill()
                processes.add_worker()
                return stood_by_then
            taken.send_signal(signal.SIGCONT)
        time.sleep(0.002)
    raise AssertionError("the worker never was amid a shard")


def attempts_begun(store: Store, run_id: str) -> Counter[str]:
    """Return how many attempts at each shard have begun."""
    begun: Counter[str] = Counter()
    for shard in iter_shards(store, run_id):
        folder = Path(store.root) / "runs" / run_id / "attempts" / shard.shard_id
        begun[shard.shard_id] = len({path.name.partition("-")[0] for path in folder.glob("*.json")})
    return +begun
