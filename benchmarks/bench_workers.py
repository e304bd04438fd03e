"""How much faster two workers label than one: wall seconds of the same corpus, each worker with a core of its own.

Generated videos, most of them short and a few long, labeled by the bundle that ships with the project, on two local clusters
that stay: one worker held to one core with its decoders, and two workers held to one each. They take turns, the one that
begins does too. Wall time is that of labeling alone, the command's own work on the same cores included; 2 is all there is.
Usage: python benchmarks/bench_workers.py [--videos 60] [--repetitions 5] [--json]
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench_plan import generate
from bench_tail import BY_COST, label
from document import argument_parser, document

from flows.config import load_config, to_request
from flows.dispatch import Cluster, ClusterSettings, open_cluster
from flows.label import labeling_spec
from tasks.plan_run import preview_run
from tasks.run_request import LabelingPlan

ONE, TWO = 1, 2


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--videos", type=int, default=60)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    if len(os.sched_getaffinity(0)) < TWO:
        sys.exit("two workers with a core of their own need two cores")
    with tempfile.TemporaryDirectory(prefix="cdlabel-workers-") as folder:
        turns = label_in_turns(Path(folder), arguments.videos, arguments.repetitions)
    ones, twos = ([turn[workers] for turn in turns] for workers in (ONE, TWO))
    cases: dict[str, Any] = {
        f"{arguments.videos} videos, two workers": {
            "ours": round(statistics.median(twos), 2),
            "others": {"one worker": round(statistics.median(ones), 2)},
            "unit": "wall seconds of labeling",
            "ratios": {"one worker": round(statistics.median(a / b for a, b in zip(ones, twos, strict=True)), 3)},
        }
    }
    report = document("workers", cases, arguments.repetitions) | {"load_average": round(os.getloadavg()[0], 1)}
    print(json.dumps(report) if arguments.json else report)


def label_in_turns(folder: Path, videos: int, repetitions: int) -> list[dict[int, float]]:
    """Return the wall seconds of every turn, by the number of workers."""
    generate(folder / "videos", videos)
    config = load_config(None, [], {"source": str(folder / "videos"), "out": str(folder / "out")})
    plan = preview_run(to_request(config))
    assert isinstance(plan, LabelingPlan), plan
    turns: list[dict[int, float]] = []
    with ExitStack() as stack:
        clusters = {
            workers: stack.enter_context(open_cluster(ClusterSettings(workers=workers, model_threads=1), gpus=0))
            for workers in (ONE, TWO)
        }
        specs = {}
        for workers, cluster in clusters.items():
            give_each_a_core(cluster)
            specs[workers] = replace(labeling_spec(config, plan, cluster), worker_cores=1)
            label(cluster, plan, replace(specs[workers], run_id=f"warm-{workers}"), BY_COST)
        for turn in range(repetitions):
            turns.append({})
            for workers in sorted(clusters, reverse=bool(turn % 2)):
                spec = replace(specs[workers], run_id=f"{turn}-{workers}")
                turns[-1][workers] = label(clusters[workers], plan, spec, BY_COST).wall_seconds
            told = {workers: round(seconds, 2) for workers, seconds in turns[-1].items()}
            print(f"turn {turn}, load {os.getloadavg()[0]:.1f}: {told}", file=sys.stderr)
    return turns


def give_each_a_core(cluster: Cluster) -> None:
    """Hold every worker, and the decoders that it will start, to one core."""
    cores = sorted(os.sched_getaffinity(0))
    for core, worker in zip(cores, cluster.client.scheduler_info(n_workers=-1)["workers"], strict=False):
        cluster.client.run(stay_on, core, workers=[worker])


def stay_on(core: int) -> None:
    """Hold all threads of this process to a core."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})


if __name__ == "__main__":
    main()
