"""What ``bench_scale.py`` builds and what it times; each stage runs in a process of its own (``in_process``).

Set-up writes what a run would have left behind, through the product's own writers where they are fast enough.
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter
from scale_rows import ARCHIVE, CORPUS, NOON, day_of, invent_rows, invent_videos

from cdmodel.bundle import DEMO_BUNDLE, read_manifest
from cdmodel.cascade import CascadeSettings
from cdmodel.cost import ComputeCost
from cdmodel.types import Shard, ShardReceipt, VideoRef
from storage.corpus import CorpusRules, list_videos
from storage.filesystem import Store, open_store
from storage.parquet import ROWS_PER_GROUP, checked_document, to_bytes
from storage.prediction_schema import PARTITIONS, PUBLISHED_SCHEMA, REPETITIVE_TEXT, SCHEMA_VERSION
from storage.publish import PublishedFile, PublishedRun, finish_run
from storage.run_layout import PREDICTIONS, RUNS_TABLE, predictions_name, shard_name, success_name
from storage.run_store import RECEIPT_KEY, RunHeader, committed_shards, create_plan, iter_shards, list_runs, make_shard
from storage.shard_order import iter_dearest_first
from storage.views import connect_views
from tasks.finish_run import add_up, publish_and_record, summarise
from tasks.plan_run import open_run
from tasks.run_request import LabelingPlan, RunRequest
from tasks.sharding import cut_shards
from tasks.work_identity import work_fingerprint

ROWS_PER_FILE = 6 * ROWS_PER_GROUP
MODEL_VERSION = "m-0123456789ab"
THREADS = 2
COST = ComputeCost(
    frames_decoded=900,
    student_flops=10**10,
    teacher_flops=10**11,
    dense_teacher_flops=10**12,
    decode_cpu_seconds=10.0,
    dense_decode_cpu_seconds=5.0,
    teacher_seconds=20.0,
)
Figures = dict[str, float]


def plan(out: str, manifest: str) -> Figures:
    """List, subtract what is done, cut shards and write the plan."""
    with metered() as figures:
        made = open_run(request(out, manifest))
    assert isinstance(made, LabelingPlan), made
    assert not made.resumed, made
    return figures | {"planned": made.header.videos}


def resume(out: str, manifest: str) -> Figures:
    """Find the run again and give out its first pending shard; then all of them."""
    with metered() as figures:
        pending = pending_shards(out, manifest)
        first = next(pending)
        first_seconds = time.perf_counter()
        count = 1 + sum(1 for _ in pending)
        rest_seconds = time.perf_counter() - first_seconds
    assert first.videos
    return figures | {"first shard": figures["wall"] - rest_seconds, "pending": count}


def publish(out: str, manifest: str) -> Figures:
    """Merge all shards into the table, add up their receipts and finish the run."""
    run_id = list_runs(open_store(out))[-1].header.run_id
    with metered() as figures:
        record = publish_and_record(out, run_id, config_json="{}", code_version="bench")
    return figures | {"published": record.videos_labeled}


def publish_with_duckdb(out: str, manifest: str) -> Figures:
    """Do what SQL alone can: sort all shard objects into one file. No checks, receipts, bloom filters or manifest."""
    store = open_store(out)
    run_id = list_runs(store)[-1].header.run_id
    shards = store.uri_of(shard_name(run_id, "*"))
    target = Path(out).parent / "by-duckdb.parquet"
    with metered() as figures, connect_duckdb() as connection:
        connection.execute(
            f"copy (select * from read_parquet('{shards}') order by video_id) to '{target}' (compression zstd)"
        )
    target.unlink()
    return figures


def anti_join_with_duckdb(out: str, manifest: str) -> Figures:
    """Do what SQL alone can: subtract the published rows, number the shards, write the plan. No ids from content."""
    target = Path(out).parent / "by-duckdb.parquet"
    published = f"{out}/predictions/*/*/*.parquet"
    done = f"where (video_id, etag) not in (select (video_id, video_version) from read_parquet('{published}'))"
    wanted = f"select *, row_number() over (order by video_id) // 64 as shard from read_parquet('{manifest}')"
    with metered() as figures, connect_duckdb() as connection:
        connection.execute(
            f"copy ({wanted} {done if list_runs(open_store(out)) else ''} order by video_id) to '{target}'"
        )
    target.unlink()
    return figures


def query(out: str, sql: str) -> Figures:
    """Ask once with a new connection, then again with the same one."""
    store = open_store(out)
    with metered() as cold, connect_views(store) as connection:
        connection.execute(f"set threads = {THREADS}")
        first = connection.execute(sql).fetchall()
        connected_seconds = time.perf_counter()
        warm = ask_again(connection, sql, first)
        asked_seconds = time.perf_counter() - connected_seconds
    return warm | {"cold": cold["wall"] - asked_seconds, "rows": len(first)}


def query_glob(out: str, sql: str) -> Figures:
    """Ask DuckDB itself about all files below ``predictions/``, whoever wrote them."""
    files = f"read_parquet('{out}/predictions/*/*/*.parquet', hive_partitioning = true)"
    began = time.perf_counter()
    with connect_duckdb() as connection:
        connection.execute(f"create view predictions as select * from {files}")
        connection.execute(
            """create view latest as select * from predictions
            qualify row_number() over (partition by video_id order by labeled_at desc, run_id desc) = 1"""
        )
        first = connection.execute(sql).fetchall()
        cold = time.perf_counter() - began
        return ask_again(connection, sql, first) | {"cold": cold, "rows": len(first)}


def ask_again(connection: duckdb.DuckDBPyConnection, sql: str, first: list[Any]) -> Figures:
    with metered() as warm:
        again = connection.execute(sql).fetchall()
    assert len(again) == len(first) > 0
    return warm


def write_manifest(out: str, videos: int, seed: int) -> None:
    """Set-up: the manifest of an archive that stands in no bucket."""
    pq.write_table(invent_videos(videos, seed), out)


def commit_shards(out: str, manifest: str, share: float) -> None:
    """Set-up: plan a run, unless there is one, and commit the first ``share`` of every two shards, or all of them."""
    store = open_store(out)
    plan = open_run(request(out, manifest))
    assert isinstance(plan, LabelingPlan)
    header = plan.header
    done = committed_shards(store, header.run_id)
    rows = sorted_rows(manifest, header)
    start = 0
    for number, shard in enumerate(iter_shards(store, header.run_id)):
        end = start + len(shard.videos)
        if shard.shard_id not in done and (share == 1 or number % 2):
            write_shard(store, header, shard, rows.slice(start, end - start))
        start = end


def write_shard(store: Store, header: RunHeader, shard: Shard, rows: pa.Table) -> None:
    """Write a shard's object as ``commit_shard`` does; on a disk without waiting until it is flushed."""
    index = rows.schema.get_field_index("shard_id")
    ids = pa.array([shard.shard_id] * rows.num_rows)
    rows = rows.set_column(index, rows.schema.field("shard_id"), ids)
    receipt = ShardReceipt(
        run_id=header.run_id,
        shard_id=shard.shard_id,
        attempt_id=f"{header.run_id}-attempt",
        fingerprint=header.fingerprint,
        videos_labeled=rows.num_rows,
        videos_partial=0,
        videos_failed=0,
        clips_planned=5 * rows.num_rows,
        clips_student=5 * rows.num_rows,
        clips_teacher=rows.num_rows,
        cost=COST,
        committed_at=NOON,
    )
    footer = checked_document(RECEIPT_KEY, TypeAdapter(ShardReceipt).dump_json(receipt))
    data = to_bytes(rows.replace_schema_metadata(footer), REPETITIVE_TEXT)
    name = shard_name(header.run_id, shard.shard_id)
    if store.staging is None:
        store.create(name, data)
        return
    path = Path(store.uri_of(name))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def unpublish(out: str) -> None:
    """Set-up: take back what publishing wrote, so that it can be timed again."""
    store = open_store(out)
    published = [item.name for folder in (PREDICTIONS, RUNS_TABLE) for item in store.list(folder)]
    for name in (*published, *(success_name(run.header.run_id) for run in list_runs(store))):
        store.delete(name)


def remove(out: str) -> None:
    """Set-up: delete everything below ``out``."""
    store = open_store(out)
    for item in store.list():
        store.delete(item.name)


def finish_share(out: str, manifest: str, share: float) -> None:
    """Set-up: a finished run of the first ``share`` of a manifest's videos."""
    wanted = request(out, manifest)
    listed = list_videos(manifest, wanted.corpus_rules).videos
    shards = cut_shards(listed[: int(share * len(listed))], wanted.sharding, fingerprint())
    header = header_of("finished", shards, run=0)
    finish_invented(open_store(out), header, shards, sorted_rows(manifest, header).slice(0, header.videos))


def finish_many(out: str, rows: int, runs: int, archives: int) -> None:
    """Set-up: several finished runs, one a day, of a few archives in turn; plans hold one video each."""
    store = open_store(out)
    for run in range(runs):
        videos = invent_videos(rows // runs, run % archives)
        planned = VideoRef(video_id="one", uri=f"{ARCHIVE}/one", video_version="1", size_bytes=1)
        shards = (make_shard([planned], fingerprint()),)
        header = header_of(f"run-{run}", shards, run=run)
        finish_invented(store, header, shards, rows_of(videos, header))


def a_video_id(rows: int) -> str:
    """Return the id of a video that every second run of ``finish_many`` has, in the middle of its files."""
    return str(invent_videos(rows, 2).column("video_id")[rows // 2])


def finish_invented(store: Store, header: RunHeader, shards: tuple[Shard, ...], rows: pa.Table) -> None:
    """Write a run's plan, published files, row and success marker."""
    create_plan(store, header, shards, "")
    files = []
    for number, start in enumerate(range(0, rows.num_rows, ROWS_PER_FILE)):
        part = rows.slice(start, ROWS_PER_FILE).drop_columns(list(PARTITIONS))
        name = predictions_name(header.run_id, header.run_date, header.model_version, number)
        data = to_bytes(part.cast(PUBLISHED_SCHEMA), REPETITIVE_TEXT)
        store.create(name, data)
        files.append(PublishedFile(name=name, rows=part.num_rows, bytes=len(data), sha256=""))
    published = PublishedRun(run_id=header.run_id, rows=rows.num_rows, files=tuple(files))
    totals = replace(add_up([]), videos_labeled=rows.num_rows)
    ended_at = header.created_at + timedelta(hours=1)
    finish_run(
        store,
        summarise(header, totals, ended_at=ended_at, config_json="{}", code_version="bench", retry_cost=0.0),
        published,
    )


def request(out: str, manifest: str) -> RunRequest:
    return RunRequest(
        source=manifest,
        out=out,
        corpus=CORPUS,
        corpus_rules=CorpusRules(roots=(ARCHIVE,)),
        config_toml="",
    )


def fingerprint() -> str:
    manifest = read_manifest(DEMO_BUNDLE)
    cascade = CascadeSettings(policy=manifest.default_policy, aggregation=manifest.default_aggregation)
    return work_fingerprint(manifest, manifest.sampling, cascade)


def header_of(run_id: str, shards: tuple[Shard, ...], run: int) -> RunHeader:
    return RunHeader(
        run_id=run_id,
        fingerprint=fingerprint(),
        model_version=MODEL_VERSION,
        bundle_uri=None,
        source="manifest",
        corpus=CORPUS,
        run_date=day_of(run),
        created_at=NOON + timedelta(days=run),
        videos=sum(len(shard.videos) for shard in shards),
        shards=len(shards),
        bytes=0,
        videos_skipped=0,
        schema_version=SCHEMA_VERSION,
    )


def sorted_rows(manifest: str, header: RunHeader) -> pa.Table:
    return rows_of(pq.read_table(manifest), header)


def rows_of(videos: pa.Table, header: RunHeader) -> pa.Table:
    return invent_rows(
        videos,
        run_id=header.run_id,
        model_version=header.model_version,
        fingerprint=header.fingerprint,
        run_date=header.run_date,
    )


def pending_shards(out: str, manifest: str) -> Iterator[Shard]:
    """Yield what ``flows.label.label_stage`` gives to its workers."""
    found = open_run(request(out, manifest))
    assert isinstance(found, LabelingPlan), found
    assert found.resumed, found
    store = open_store(out)
    done = committed_shards(store, found.header.run_id)
    return iter_dearest_first(store, found.header.run_id, done)


def connect_duckdb() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(":memory:")
    connection.execute(f"set threads = {THREADS}")
    connection.execute("set enable_progress_bar = false")  # drawn on stdout, before the document of --json
    connection.execute("set timezone = 'UTC'")
    return connection


@contextmanager
def metered() -> Iterator[Figures]:
    """Fill in the wall and CPU seconds of what runs inside; CPU time is that of all threads."""
    figures: Figures = {}
    wall, cpu = time.perf_counter(), time.process_time()
    yield figures
    figures["wall"], figures["cpu"] = time.perf_counter() - wall, time.process_time() - cpu


def peak_mib() -> float:
    """Return this process's peak resident memory; unlike ru_maxrss it does not count the parent it was forked from."""
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))) / 1024


def in_process(stage: Callable[..., Figures | None], *values: Any) -> Figures:
    """Run a stage in a new process, so that its memory is its own; it may have decoders as children."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(with_peak, stage, *values).result()


def cases_of(
    name: str, units: Mapping[str, str], ours: Sequence[Figures], others: Mapping[str, Sequence[Figures]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one case for each figure, of those with a unit, that we have: medians, beside those that others have."""
    for figure, unit in units.items():
        if figure in ours[0]:
            median = statistics.median(turn[figure] for turn in ours)
            theirs = {
                other: statistics.median(turn[figure] for turn in turns)
                for other, turns in others.items()
                if figure in turns[0]
            }
            yield (
                f"{name}: {figure}",
                {
                    "ours": round(median, 3),
                    "others": {other: round(value, 3) for other, value in theirs.items()},
                    "unit": unit,
                    "ratios": {other: round(value / median, 3) for other, value in theirs.items()},
                },
            )


def with_peak(stage: Callable[..., Figures | None], *arguments: Any) -> Figures:
    """Run a stage and add its peak memory; this is what a child process is given to do."""
    return (stage(*arguments) or {}) | {"mib": peak_mib()}
