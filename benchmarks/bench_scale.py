"""How planning, resuming, publishing and SQL grow with the archive: wall and CPU seconds and peak memory of each stage.

Invented archives (``scale_rows.py``), the product's own functions, each stage in a process of its own, which starts with the
modules loaded; medians of the repetitions. ``others`` is DuckDB alone doing the part of it that SQL can say
(``scale_stages.py`` tells what it leaves out). Sizes in videos; --rows is the size of the table that queries are asked of.
Usage: python benchmarks/bench_scale.py [--videos 100000 300000 1000000] [--rows 10000000] [--repetitions 3]
       [--only plan incremental resume publish query] [--out FOLDER_OR_URL] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import scale_stages as stages
from document import argument_parser, document
from scale_stages import cases_of, in_process

VIDEOS = (100_000, 300_000, 1_000_000)
ROWS = 10_000_000
RUNS, ARCHIVES = 10, 5
REPETITIONS = 3
STAGES = ("plan", "incremental", "resume", "publish", "query")
QUERIES = {
    "lookup": "select label, confidence, run_date from predictions where video_id = '{video_id}'",
    "whole row": "select * from predictions where video_id = '{video_id}'",
    "cost per day": "select run_date, sum(cost_usd) from predictions group by run_date order by run_date",
    "one day's cost": "select sum(cost_usd) from predictions where run_date = date '2026-11-03'",
    "top labels": "select label, count(*) as videos from predictions group by label order by videos desc limit 10",
    "latest per video": "select count(*), max(labeled_at) from latest",
}
Case = dict[str, Any]
UNITS = {
    "wall": "wall seconds",
    "cpu": "CPU seconds",
    "mib": "peak MiB",
    "cold": "wall seconds, new connection",
    "first shard": "wall seconds until the first shard",
}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--videos", type=int, nargs="*", default=VIDEOS)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    parser.add_argument("--only", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--out", help="where the runs are written, instead of a temporary folder; left there")
    arguments = parser.parse_args()
    cases: dict[str, Case] = {}
    with tempfile.TemporaryDirectory(prefix="cdlabel-scale-") as folder:
        place = arguments.out or folder
        for name, case in measure(arguments, Path(folder), place):
            cases[name] = case
            print(f"{name}: {case['ours']} {case['unit']}, others {case['others']}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(document("scale", cases, arguments.repetitions)))


def measure(arguments: argparse.Namespace, folder: Path, place: str) -> Iterator[tuple[str, Case]]:
    for videos in arguments.videos:
        manifest = str(folder / f"{videos}.parquet")
        in_process(stages.write_manifest, manifest, videos, videos)
        for stage, compare in COMPARISONS.items():
            if stage in arguments.only:
                out = f"{place}/{stage}-{videos}"
                yield from cases_of(f"{stage}, {videos} videos", UNITS, *compare(out, manifest, arguments.repetitions))
    if "query" in arguments.only:
        out = f"{place}/table-{arguments.rows}"
        yield from compare_queries(out, arguments.rows, arguments.repetitions)


Measured = tuple[list[stages.Figures], dict[str, list[stages.Figures]]]


def compare_plans(out: str, manifest: str, repetitions: int) -> Measured:
    turns = range(repetitions)
    ours = [in_process(stages.plan, f"{out}/{turn}", manifest) for turn in turns]
    return ours, {"DuckDB": [in_process(stages.anti_join_with_duckdb, f"{out}/none", manifest) for _ in turns]}


def compare_incremental(out: str, manifest: str, repetitions: int) -> Measured:
    ours, others = [], []
    for turn in range(repetitions):
        place = f"{out}/{turn}"
        in_process(stages.finish_share, place, manifest, 0.9)
        others.append(in_process(stages.anti_join_with_duckdb, place, manifest))
        ours.append(in_process(stages.plan, place, manifest))
        in_process(stages.remove, place)
    return ours, {"DuckDB": others}


def measure_resume(out: str, manifest: str, repetitions: int) -> Measured:
    place = out.replace("resume", "shards")
    in_process(stages.commit_shards, place, manifest, 0.5)
    return [in_process(stages.resume, place, manifest) for _ in range(repetitions)], {}


def compare_publish(out: str, manifest: str, repetitions: int) -> Measured:
    place = out.replace("publish", "shards")
    in_process(stages.commit_shards, place, manifest, 1)
    others = [in_process(stages.publish_with_duckdb, place, manifest) for _ in range(repetitions)]
    ours = []
    for _ in range(repetitions):
        in_process(stages.unpublish, place)
        ours.append(in_process(stages.publish, place, manifest))
    in_process(stages.remove, place)
    return ours, {"DuckDB": others}


COMPARISONS: dict[str, Callable[[str, str, int], Measured]] = {
    "plan": compare_plans,
    "incremental": compare_incremental,
    "resume": measure_resume,
    "publish": compare_publish,
}


def compare_queries(out: str, rows: int, repetitions: int) -> Iterator[tuple[str, Case]]:
    in_process(stages.finish_many, out, rows, RUNS, ARCHIVES)
    for name, sql in QUERIES.items():
        asked = sql.format(video_id=stages.a_video_id(rows // RUNS))
        ours = [in_process(stages.query, out, asked) for _ in range(repetitions)]
        others = [in_process(stages.query_glob, out, asked) for _ in range(repetitions)]
        yield from cases_of(f"{name}, {rows} rows", UNITS, ours, {"DuckDB on all files": others})


if __name__ == "__main__":
    main()
