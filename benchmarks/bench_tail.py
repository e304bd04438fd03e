"""How long workers are idle at the end of a run: shards cut by expected cost, the dearest first, against shards cut by count.

First a generated corpus, most of it short and a few videos long, labeled by the bundle that ships with the project on a local
cluster that stays; both ways take turns, the one that begins does too. ``tail_idle_share`` is what ``runs_table`` has; wall
time is that of labeling alone. Then archives that were never videos, labeled on paper: a video's cost is half of the mean
by being one and goes with its length else, its bytes go with its length too, both with lognormal errors of 0.4; shards go to
whichever worker is free. There the order alone is told apart from the cut.
Usage: python benchmarks/bench_tail.py [--videos 60] [--workers 2] [--repetitions 5] [--only corpus paper] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_plan import generate
from document import argument_parser, document

from cdmodel.cost_estimate import makespan
from cdmodel.types import Shard, ShardReceipt, VideoRef
from flows.config import load_config, to_request
from flows.dispatch import Cluster, open_cluster
from flows.label import labeling_spec
from flows.shard_rounds import ShardWork, run_in_rounds
from storage.filesystem import open_store
from storage.run_store import create_plan, iter_shards, make_shard, read_receipts
from storage.shard_order import dearest_first, iter_dearest_first
from tasks.label_shard import LabelingSpec, label_shard
from tasks.plan_run import preview_run
from tasks.run_request import LabelingPlan
from tasks.run_tail import tail_idle_share
from tasks.sharding import ShardingSettings, cut_shards

BY_COST, COST_UNORDERED, BY_COUNT = "by cost", "by cost, in the order of ids", "by count, in the order of ids"
PARTS = ("corpus", "paper")
PAPER_VIDEOS, PAPER_ARCHIVES = 100_000, 5
SPREADS, PAPER_WORKERS = (1.0, 1.5), (16, 64, 512)
FIXED_SHARE, ERROR = 0.5, 0.4


@dataclass(frozen=True)
class Run:
    """One way of labeling the corpus."""

    wall_seconds: float
    tail_idle_share: float
    shards: int


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    cases = label_on_paper() if "paper" in arguments.only else {}
    if "corpus" in arguments.only:
        with tempfile.TemporaryDirectory(prefix="cdlabel-tail-") as folder:
            cases |= label_in_turns(Path(folder), arguments)
    report = document("tail", cases, arguments.repetitions) | {"load_average": round(os.getloadavg()[0], 1)}
    if arguments.json:
        print(json.dumps(report))
        return
    for name, found in cases.items():
        print(f"{name}: {found['ours']} {found['unit']}, others {found['others']}, ratios {found['ratios']}")


def label_in_turns(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Label the same corpus both ways, again and again; figures are medians."""
    generate(folder / "videos", arguments.videos)
    settings = {"source": str(folder / "videos"), "out": str(folder / "out"), "cluster.workers": arguments.workers}
    config = load_config(None, [], settings)
    plan = preview_run(to_request(config))
    assert isinstance(plan, LabelingPlan), plan
    assert plan.shards is not None, plan
    runs: dict[str, list[Run]] = {BY_COST: [], BY_COUNT: []}
    with open_cluster(config.cluster, gpus=0) as cluster:
        spec = labeling_spec(config, plan, cluster)
        label(cluster, plan, replace(spec, run_id="warm"), BY_COUNT)
        for turn in range(arguments.repetitions):
            for way in sorted(runs, reverse=bool(turn % 2)):
                runs[way].append(label(cluster, plan, replace(spec, run_id=f"{turn}-{len(way)}"), way))
            told = {
                way: (round(done[-1].wall_seconds, 2), round(done[-1].tail_idle_share, 3)) for way, done in runs.items()
            }
            print(f"turn {turn}, load {os.getloadavg()[0]:.1f}: {told}", file=sys.stderr)
    figures: dict[str, Callable[[Run], float]] = {
        "tail_idle_share": lambda run: run.tail_idle_share,
        "wall seconds": lambda run: run.wall_seconds,
        "shards": lambda run: run.shards,
    }
    name = f"{arguments.videos} videos, {arguments.workers} workers"
    return {
        f"{name}, {unit}": case(
            {way: statistics.median(figure(run) for run in done) for way, done in runs.items()}, unit
        )
        for unit, figure in figures.items()
    }


def label(cluster: Cluster, plan: LabelingPlan, spec: LabelingSpec, way: str) -> Run:
    """Label all videos of the plan as a run of its own."""
    assert plan.shards is not None
    store, run_id = open_store(spec.out), spec.run_id
    shards = plan.shards if way == BY_COST else cut_by_count(plan.shards, spec.fingerprint)
    create_plan(store, replace(plan.header, run_id=run_id, shards=len(shards)), shards, "")
    ordered = iter_dearest_first(store, run_id) if way == BY_COST else iter_shards(store, run_id)
    receipts: list[ShardReceipt] = []
    began = time.perf_counter()
    given_up = run_in_rounds(cluster, spec, ordered, ShardWork(run=label_shard, name="label", on_done=receipts.append))
    wall_seconds = time.perf_counter() - began
    assert not given_up, given_up
    share = tail_idle_share(read_receipts(store, run_id))
    assert share is not None
    return Run(wall_seconds=wall_seconds, tail_idle_share=share, shards=len(shards))


def cut_by_count(shards: Sequence[Shard], fingerprint: str) -> tuple[Shard, ...]:
    """Cut the videos of these shards again, into shards of equal numbers."""
    videos = [video for shard in shards for video in shard.videos]
    most = ShardingSettings().videos_in_each(len(videos))
    return tuple(make_shard(videos[start : start + most], fingerprint) for start in range(0, len(videos), most))


def label_on_paper() -> dict[str, Any]:
    """Return the idle share of invented archives, by how they differ and by the workers."""
    cases = {}
    for spread in SPREADS:
        archives = [invent(spread, seed) for seed in range(PAPER_ARCHIVES)]
        for workers in PAPER_WORKERS:
            idle: dict[str, list[float]] = {BY_COST: [], COST_UNORDERED: [], BY_COUNT: []}
            for videos, seconds in archives:
                for way, parts in ways_on_paper(videos, seconds):
                    idle[way].append(1.0 - sum(parts) / (workers * makespan(parts, workers)))
            name = f"on paper: {PAPER_VIDEOS} videos, spread {spread}, {workers} workers, idle share at the end"
            cases[name] = case({way: statistics.median(shares) for way, shares in idle.items()}, "of worker seconds")
    return cases


def ways_on_paper(videos: Sequence[VideoRef], seconds: dict[str, float]) -> Iterator[tuple[str, list[float]]]:
    """Yield what the shards take, in the order that they go out, one way after another."""
    by_cost = cut_shards(videos, ShardingSettings(), "paper")
    ways = {BY_COST: dearest_first(by_cost), COST_UNORDERED: by_cost, BY_COUNT: cut_by_count(by_cost, "paper")}
    for way, shards in ways.items():
        yield way, [sum(seconds[video.video_id] for video in shard.videos) for shard in shards]


def invent(spread: float, seed: int) -> tuple[list[VideoRef], dict[str, float]]:
    """Return videos, and by id what each will take; lengths are lognormal."""
    random = np.random.default_rng(seed)
    lengths_N = random.lognormal(0.0, spread, PAPER_VIDEOS)
    seconds_N = FIXED_SHARE * lengths_N.mean() + lengths_N * random.lognormal(0.0, ERROR, PAPER_VIDEOS)
    bytes_N = 1e6 * lengths_N * random.lognormal(0.0, ERROR, PAPER_VIDEOS)
    ids = [f"{number:06d}" for number in range(PAPER_VIDEOS)]
    videos = [
        VideoRef(video_id=video_id, uri=f"/{video_id}", video_version="1", size_bytes=int(size))
        for video_id, size in zip(ids, bytes_N, strict=True)
    ]
    return videos, dict(zip(ids, seconds_N.tolist(), strict=True))


def case(found: dict[str, float], unit: str) -> dict[str, Any]:
    """Return one figure, ours being the way of the product."""
    ours = found[BY_COST]
    others = {way: value for way, value in found.items() if way != BY_COST}
    return {
        "ours": round(ours, 4),
        "others": {way: round(value, 4) for way, value in others.items()},
        "unit": unit,
        "ratios": {way: round(value / ours, 3) for way, value in others.items() if ours},
    }


if __name__ == "__main__":
    main()
