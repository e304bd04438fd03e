"""What compaction is worth to a query: time and operations of the store over many small runs, before and after.

Runs of invented failed rows, one per night, in a folder on disk. Operations are what the views ask of the store while they
are made (listings of a folder, reads and openings of an object); in a bucket each is at least one request. Ratio = before /
after. Usage: python benchmarks/bench_compaction.py [--runs N] [--json]
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from document import argument_parser, document

from cdmodel.cost import ComputeCost
from cdmodel.types import VideoFailure, VideoRef
from storage.compaction import compact_runs
from storage.filesystem import Store, open_store
from storage.prediction_schema import SCHEMA_VERSION, RowContext
from storage.run_store import RunHeader, commit_shard, create_plan, make_shard
from storage.views import connect_views, run_query
from tasks.finish_run import publish_and_record

VIDEOS_PER_RUN = 10
REPETITIONS = 3
QUERY = "select count(*), sum(wall_seconds) from predictions"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--runs", type=int, default=300)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = measure(open_store(f"{folder}/out"), arguments.runs)
    report = document("compaction", cases, REPETITIONS)
    if arguments.json:
        print(json.dumps(report))
        return
    for name, case in cases.items():
        print(f"{name}: {case['ours']:g} {case['unit']} after, {case['others']['before']:g} before")


def measure(store: Store, runs: int) -> dict[str, dict[str, Any]]:
    """Label ``runs`` nights, then query, compact, and query again; one partition each, and all in one partition."""
    cases: dict[str, dict[str, Any]] = {}
    for layout, days in (("one partition per run", 1), ("one partition", 0)):
        place = store.child(layout.replace(" ", "-"))
        for number in range(runs):
            label_night(place, number, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=number * days))
        before = look(place)
        started = time.perf_counter()
        compact_runs(place)
        seconds = time.perf_counter() - started
        after = look(place)
        assert before["answer"] == after["answer"]
        for figure, unit in (("query", "s"), ("operations", "operations of the store")):
            cases[f"{figure}, {runs} runs, {layout}"] = {
                "ours": after[figure],
                "others": {"before": before[figure]},
                "unit": unit,
                "ratios": {"before": before[figure] / after[figure]},
            }
        cases[f"compacting, {runs} runs, {layout}"] = {"ours": seconds, "others": {}, "unit": "s", "ratios": {}}
    return cases


def look(store: Store) -> dict[str, Any]:
    """Return the fastest of some queries, and what making the views asked of the store."""
    times = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        answer = run_query(store, QUERY).rows
        times.append(time.perf_counter() - started)
    with counted_operations() as count:
        connect_views(store).close()
        operations = count()
    return {"query": min(times), "operations": operations, "answer": answer[0][0]}


@contextmanager
def counted_operations() -> Iterator[Callable[[], int]]:
    """Count what is asked of every store."""
    calls: list[str] = []
    kept = {name: getattr(Store, name) for name in ("read", "open", "list", "children", "exists")}

    def counting(name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            calls.append(name)
            return kept[name](*arguments)

        return call

    for name in kept:
        setattr(Store, name, counting(name))
    try:
        yield lambda: len(calls)
    finally:
        for name, method in kept.items():
            setattr(Store, name, method)


def label_night(store: Store, number: int, at: datetime) -> None:
    """Plan, commit and publish a run of a few videos."""
    run_id, fingerprint, model = f"{at:%Y%m%d}-{number:05d}", "f0f0f0f0f0f0f0f0", "m-0123456789ab"
    videos = [
        VideoRef(video_id=f"{number:05d}-{n:03d}", uri=f"/{number}/{n}.mp4", video_version="1-1", size_bytes=1)
        for n in range(VIDEOS_PER_RUN)
    ]
    shard = make_shard(videos, fingerprint)
    header = RunHeader(
        run_id=run_id,
        fingerprint=fingerprint,
        model_version=model,
        bundle_uri=None,
        source="/videos",
        corpus="films",
        run_date=at.date(),
        created_at=at,
        videos=len(videos),
        shards=1,
        bytes=len(videos),
        videos_skipped=0,
        schema_version=SCHEMA_VERSION,
    )
    create_plan(store, header, [shard], "")
    context = RowContext(
        run_id=run_id,
        shard_id=shard.shard_id,
        attempt_id="attempt-1",
        corpus="films",
        model_version=model,
        run_date=at.date(),
        fingerprint=fingerprint,
        prices=None,
    )
    outcomes = [
        VideoFailure(
            video=video,
            error_kind="not_found",
            message="does not exist",
            facts=None,
            cost=ComputeCost(wall_seconds=0.5),
            device="cpu",
            decoder="pyav-1",
            labeled_at=at,
        )
        for video in videos
    ]
    commit_shard(store, outcomes, context, at)
    publish_and_record(store.root, run_id, config_json="{}", code_version="0")


if __name__ == "__main__":
    main()
