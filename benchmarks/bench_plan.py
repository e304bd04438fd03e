"""How near ``cdlabel plan --sample`` comes to what the run then takes.

A generated corpus whose videos' lengths are lognormal: most are short, a few are twenty times as long. Plan and run take
turns, each run into a new OUT, so that both meet the same state of the machine; ``ours`` is the median of the estimates,
``run`` that of the runs, and the ratio run / estimate the median of the turns': within 0.8 and 1.25 was asked for. CPU
seconds and FLOPs are those of the run's row, wall seconds those of the whole command.

Then what chance of drawing alone does: from an archive twenty times as large, with the costs that the last run's table has,
samples are drawn again and again, and counted how many estimates are within 25 % and how many intervals hold the truth; of the
teacher's FLOPs, which the student's look at so many videos tells. Nothing is timed there.
The same for invented archives of 300 videos with lognormal lengths (``spread`` is the standard deviation of their logarithm),
of which half the cost of a mean video is that of being a file, and 3 % fail early.
Usage: python benchmarks/bench_plan.py [--videos 80] [--sample 16] [--repetitions 3] [--workers 2] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from document import argument_parser, document

from cdmodel.cost_estimate import design_sample, estimate_total
from cdmodel.encode import encode_mp4
from cdmodel.expected_cost import Floats, expected_shares
from cdmodel.scenes import FRAMES_PER_SECOND, SceneSpec, draw_scene, render
from storage.filesystem import open_store
from storage.views import run_query

DRAWS, COPIES = 1000, 20
MEDIAN_SECONDS, SPREAD, LONGEST_SECONDS = 5.0, 0.9, 120
FIGURES = ("wall_seconds", "cpu_seconds", "student_flops", "teacher_flops")


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--videos", type=int, default=80)
    parser.add_argument("--sample", type=int, default=16)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = compare(Path(folder), arguments)
    if arguments.json:
        print(json.dumps(document("plan", cases, arguments.repetitions)))
        return
    for name, found in cases.items():
        print(f"{name}: {found['ours']} {found['unit']}, others {found['others']}, ratios {found['ratios']}")


def compare(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the cases: one for each figure, and two for each that is drawn again and again."""
    videos = folder / "videos"
    generate(videos, arguments.videos)
    cdlabel = Cdlabel(folder, arguments.workers)
    cdlabel.warm_up()
    estimates, runs = [], []
    for turn in range(arguments.repetitions):
        planned = cdlabel.run("plan", videos, folder / f"out-{turn}", f"--sample={arguments.sample}", f"--seed={turn}")
        estimates.append({name: planned["estimate"][name]["value"] for name in FIGURES})
        began = time.perf_counter()
        record = cdlabel.run("label", videos, folder / f"out-{turn}")
        cpu = record["decode_cpu_seconds"] + record["student_seconds"] + record["teacher_seconds"]
        runs.append({**record, "wall_seconds": time.perf_counter() - began, "cpu_seconds": cpu - record["gpu_seconds"]})
        told = {name: (round(estimates[-1][name], 2), round(runs[-1][name], 2)) for name in FIGURES}
        print(f"turn {turn}, load {os.getloadavg()[0]:.1f}, estimate and run: {told}", file=sys.stderr)
    cases = {name: case(name, [one[name] for one in estimates], [one[name] for one in runs]) for name in FIGURES}
    return cases | draw_again(folder / f"out-{arguments.repetitions - 1}") | draw_from_invented()


def case(name: str, estimates: list[float], truths: list[float]) -> dict[str, Any]:
    """Return one figure as it was estimated and as it came out."""
    ratios = [truth / estimate for estimate, truth in zip(estimates, truths, strict=True)]
    return {
        "ours": round(statistics.median(estimates), 3),
        "others": {"run": round(statistics.median(truths), 3)},
        "unit": f"{name}; all ratios {[round(ratio, 2) for ratio in ratios]}",
        "ratios": {"run": round(statistics.median(ratios), 3)},
    }


def draw_again(out: Path) -> dict[str, Any]:
    """Return how near samples of an archive come whose videos cost what those of the run did."""
    rows = run_query(
        open_store(str(out)),
        "select size_bytes, decode_cpu_seconds + student_seconds + teacher_seconds, student_flops, teacher_flops "
        "from predictions",
    ).rows
    bytes_N, *figures = np.tile(np.asarray(rows, dtype=np.float64).T, COPIES)
    cases = {}
    for name, cost_N in zip(("cpu_seconds", "student_flops", "teacher_flops"), figures, strict=True):
        for sample in (16, 64, 256):
            draws = [draw(bytes_N, cost_N, sample, seed) for seed in range(DRAWS)]
            cases |= chance(f"this corpus {COPIES} times over, {name}, {sample} sampled", draws)
    return cases


def draw_from_invented() -> dict[str, Any]:
    """Return the same of archives that were never videos."""
    cases = {}
    for spread in (0.3, 1.0, 1.5):
        for sample in (4, 8, 16, 32):
            draws = [draw(*invent(spread, seed), sample, seed) for seed in range(DRAWS)]
            cases |= chance(f"invented, spread {spread}, {sample} sampled", draws)
    return cases


def draw(bytes_N: Floats, cost_N: Floats, sample: int, seed: int) -> tuple[float, bool]:
    """Return the relative error of one estimate, and whether its interval holds the truth."""
    design = design_sample(expected_shares(bytes_N), sample, seed)
    found = estimate_total(design, cost_N[list(design.chosen_n)])
    return found.value / cost_N.sum() - 1.0, found.low <= cost_N.sum() <= found.high


def chance(name: str, draws: list[tuple[float, bool]]) -> dict[str, Any]:
    errors_D, held_D = map(np.asarray, zip(*draws, strict=True))
    facts = {
        "typical error": (np.sqrt(np.mean(errors_D**2)), "root mean square, share of the truth"),
        "within 25 %": (np.mean(np.abs(errors_D) <= 0.25), f"share of {len(draws)} draws"),
        "95 % intervals that hold": (np.mean(held_D), f"share of {len(draws)} draws"),
    }
    return {
        f"{name}: {what}": {"ours": round(float(value), 3), "others": {}, "unit": unit, "ratios": {}}
        for what, (value, unit) in facts.items()
    }


def invent(spread: float, seed: int) -> tuple[Floats, Floats]:
    """Return bytes and costs of an archive."""
    random = np.random.default_rng(seed)
    seconds_N = random.lognormal(0.0, spread, 300)
    cost_N = seconds_N.mean() / 2 + seconds_N * random.lognormal(0.0, 0.4, 300)
    cost_N[random.random(300) < 0.03] *= 0.05
    return 1e6 * seconds_N * random.lognormal(0.0, 0.4, 300), cost_N


def generate(folder: Path, videos: int) -> None:
    """Write scenes of the demo, most of them short and a few long."""
    folder.mkdir()
    for index, seconds in enumerate(lengths(videos)):
        scene = draw_scene(SceneSpec(seed=7), index)
        longer = replace(scene, activities=tuple(islice(cycle(scene.activities), seconds)))
        (folder / f"{index:05d}.mp4").write_bytes(encode_mp4(render(longer), FRAMES_PER_SECOND))


def lengths(videos: int) -> Iterator[int]:
    random = np.random.default_rng(0)
    for seconds in random.lognormal(np.log(MEDIAN_SECONDS), SPREAD, videos):
        yield int(np.clip(round(seconds), 1, LONGEST_SECONDS))


class Cdlabel:
    """The command, with a Prefect of its own."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder
        self._workers = workers
        self._environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect")}

    def warm_up(self) -> None:
        """Have Prefect create its database, which it does once on a machine."""
        one = self._folder / "one"
        generate(one, 1)
        self.run("label", one, self._folder / "out-one")

    def run(self, command: str, videos: Path, out: Path, *options: str) -> dict[str, Any]:
        """Return the JSON that the command prints."""
        shards = "--set=sharding.videos_per_shard=8"
        finished = subprocess.run(
            [
                *(sys.executable, "-m", "flows", command, str(videos), "--out", str(out), "--json"),
                *(f"--workers={self._workers}", shards, *options),
            ],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if finished.returncode:
            sys.exit(finished.stderr)
        answer: dict[str, Any] = json.loads(finished.stdout)
        return answer


if __name__ == "__main__":
    main()
