"""The model of a run against real ones, then what it says of 512 workers, and what 10^8 videos cost.

``real``: one ``cdlabel label`` with one worker over generated videos gives the model its rates; more videos, two workers and
another share for the teacher are then predicted and run. A prediction knows the corpus, the scenes' clips that the policy
asks the teacher about, and how many cores other programs took while the run went on, and nothing else of it. Asked for: wall
seconds within 15 %. ``scale``: efficiency, the seconds that an undisturbed worker needs by the seconds that workers were
held, of a night in which each worker has eight hours of work, for 1 to 512 workers that are preempted, each with a machine
and a GPU of its own. ``archive``: hours, requests, dollars and nights of an archive, and which part of the design ends first.

Decoding, dispatching and the sizes of objects are measured here, planning and publishing are from docs/experiments.md. The
GPU's rates are assumed: none was at hand. docs/scale.md tells them and what follows. Simulations are seeded.
Usage: python benchmarks/bench_simulation.py [--only real scale archive] [--repetitions 1] [--scenes 60]
       [--archive-videos 100000000] [--workers 512] [--gpu-hour-usd 4.54] [--json]
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import scale_stages
from archive_bill import ListPrices, Measured, Night, bill, limits
from document import argument_parser, document
from run_simulation import (
    Archive,
    ArchiveShape,
    KnownSeconds,
    Machine,
    RunSettings,
    SimulatedRun,
    VideoRates,
    WorkerSeconds,
    draw_archive,
    know,
    simulate,
)
from simulation_trials import (
    Calibration,
    Others,
    Trials,
    calibrate,
    measure_decoding,
    measure_dispatch,
    predict,
    scene_of,
)

from cdmodel.cost import SECONDS_PER_HOUR
from cdmodel.types import Shard
from storage.filesystem import StoredObject, open_store
from storage.run_layout import RUNS, plan_name
from storage.shard_order import dearest_first
from tasks.sharding import ShardingSettings, cut_shards

PARTS = ("real", "scale", "archive")
SCENES, ARCHIVE_VIDEOS, WORKERS = 60, 100_000_000, 512
NIGHT_HOURS, COORDINATOR_GIB = 8.0, 64.0
SEED = 20
DISTINCT_SHARDS = 16
"""Of a large archive; its others are copies of these."""
DISPATCHED, IN_FLIGHT, PLANNED = 200, 1024, 50_000
ONE_TO_A_GPU, EIGHT_TO_A_GPU = Machine(), Machine(cores=2, videos_ahead=1)
"""A worker with all of a machine's 16 cores, and one of eight that share them and the GPU."""

TEACHER_FLOPS_PER_CLIP = 2 * 180e9
"""ViT-B on 16 frames of 224 x 224: 180 G multiply-accumulates for one view. Source: Tong et al. 2022, VideoMAE."""
GPU_FLOPS_PER_SECOND = 989e12
"""H200, dense bfloat16, by its data sheet."""
GPU_USED_SHARE, STUDENT_SECONDS_PER_CLIP = 0.3, 0.0001
"""Assumed."""
HAND_OVER_SECONDS = 0.005
"""Of the worker's process for a video; assumed for a faster machine than this one."""
DISTURBED = RunSettings(
    workers=1,
    start_seconds=90.0,
    shard_seconds=0.5,
    preemptions_per_worker_hour=0.01,
    notice_seconds=30.0,
    replacement_seconds=300.0,
)
"""A machine that boots and loads models, S3 at 30 ms a request, and 1 % preemptions an hour. Assumed."""
Case = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Trial:
    """A real run that the model predicts."""

    videos: int
    workers: int
    clips_of_each: int | None = None
    """To the teacher; None: what the bundle's own policy asks about."""

    @property
    def name(self) -> str:
        """Of its cases."""
        policy = "own policy" if self.clips_of_each is None else f"{self.clips_of_each} clips of each to the teacher"
        return f"{self.videos} videos, {self.workers} workers, {policy}"

    @property
    def options(self) -> tuple[str, ...]:
        """Of the command."""
        if self.clips_of_each is None:
            return ()
        return "--set=escalation.kind=top_gain", f"--set=escalation.clips={self.clips_of_each}"


CALIBRATION = Trial(120, 1)
TRIALS = (Trial(240, 1), Trial(240, 2), Trial(120, 2, 2))


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--repetitions", type=int, default=1, help="of the real runs")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--archive-videos", type=int, default=ARCHIVE_VIDEOS)
    parser.add_argument("--workers", type=int, default=WORKERS)
    parser.add_argument("--gpu-hour-usd", type=float, default=ListPrices().gpu_hour)
    arguments = parser.parse_args()
    cases: dict[str, Case] = {}
    for name, case in measure(arguments):
        cases[name] = case
        others = f", {case['others']}" if case["others"] else ""
        print(f"{name}: {case['ours']:,} {case['unit']}{others}", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps(document("simulation", cases, arguments.repetitions)))


def measure(arguments: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    dispatch_seconds = measure_dispatch(DISPATCHED, IN_FLIGHT)
    yield (
        "dispatching a shard of 512 videos, 1024 of them out",
        case(dispatch_seconds, "CPU seconds of client and scheduler"),
    )
    with tempfile.TemporaryDirectory() as folder:
        if "real" in arguments.only:
            yield from compare(Trials(Path(folder), arguments.scenes), dispatch_seconds, arguments.repetitions)
        if "scale" in arguments.only or "archive" in arguments.only:
            yield from scale(arguments, dispatch_seconds, Path(folder))


def compare(trials: Trials, dispatch_seconds: float, repetitions: int) -> Iterator[tuple[str, Case]]:
    """Yield what the model predicted of real runs, beside what they took; in every turn its rates come from a run anew."""
    trials.warm_up()
    told: dict[str, list[tuple[float, float, float]]] = {}
    for turn in range(repetitions):
        real = trials.run(CALIBRATION.videos, CALIBRATION.workers, *CALIBRATION.options)
        known = calibrate(real, trials.videos(CALIBRATION.videos), dispatch_seconds)
        unit = f"wall seconds, {real.others.labeling:.2f} cores taken by others; {_told(known)}"
        yield f"calibration {turn}: {CALIBRATION.name}", case(real.wall_seconds, unit)
        for trial in TRIALS:
            ran = trials.run(trial.videos, trial.workers, *trial.options)
            ours, others = foresee(trial, trials, known, ran.others), ran.others.labeling
            told.setdefault(f"{trial.name}: wall", []).append((ours.wall_seconds, ran.wall_seconds, others))
            told.setdefault(f"{trial.name}: labeling", []).append((ours.labeling_seconds, ran.labeling_seconds, others))
            pair = f"{ours.wall_seconds:.1f} and {ran.wall_seconds:.1f} s, {others:.2f} cores taken by others"
            print(f"turn {turn}, {trial.name}, predicted and run: {pair}", file=sys.stderr, flush=True)
    for name, ones in told.items():
        ours, run = (statistics.median(one[side] for one in ones) for side in (0, 1))
        ratios = [round(one[1] / one[0], 2) for one in ones]
        unit = (
            f"wall seconds predicted; all ratios {ratios}, cores taken by others {[round(one[2], 2) for one in ones]}"
        )
        yield name, case(ours, unit, run=run) | {"ratios": {"run": round(statistics.median(ratios), 3)}}


def foresee(trial: Trial, trials: Trials, known: Calibration, others: Others) -> SimulatedRun:
    """Predict a run from what its corpus is."""
    videos = trials.videos(trial.videos)
    asked = {}
    for video in videos:
        scene = scene_of(video.uri)
        clips = trials.clips[scene]
        wanted = known.clips_teacher[scene] if trial.clips_of_each is None else min(clips, trial.clips_of_each)
        asked[video.uri] = (clips, wanted)
    settings = replace(known.slowed(others), workers=trial.workers)
    return predict(videos, asked, known.rates, settings, others.labeling)


def scale(arguments: argparse.Namespace, dispatch_seconds: float, folder: Path) -> Iterator[tuple[str, Case]]:
    decode_seconds = measure_decoding()
    yield "decoding 480p h264 for the student", case(decode_seconds, "CPU seconds a clip of one second")
    archive, shards = draw_shards(arguments.archive_videos, rates_with_gpu(decode_seconds))
    settings = replace(DISTURBED, dispatch_seconds=dispatch_seconds)
    known = know(shards, archive.work, ONE_TO_A_GPU)
    if "scale" in arguments.only:
        yield from efficiencies(shards, known, settings)
    if "archive" in arguments.only:
        sizes = measure_sizes(folder, dispatch_seconds)
        crowd = replace(settings, workers=arguments.workers)
        yield from price(arguments, night_of(archive, shards, known, crowd), sizes, workers_per_gpu=1)
        crowd, packed = replace(crowd, workers=8 * arguments.workers), know(shards, archive.work, EIGHT_TO_A_GPU)
        yield from price(arguments, night_of(archive, shards, packed, crowd), sizes, workers_per_gpu=8)


def draw_shards(videos: int, rates: VideoRates) -> tuple[Archive, tuple[Shard, ...]]:
    """Return a part of an archive of so many videos, and its shards as planning the whole archive would cut them."""
    each = ShardingSettings().videos_in_each(videos)
    archive = draw_archive(ArchiveShape(), rates, DISTINCT_SHARDS * each, SEED)
    return archive, cut_shards(archive.videos, ShardingSettings(videos_per_shard=each), "fingerprint")


def rates_with_gpu(decode_seconds_per_clip: float) -> VideoRates:
    """Return what a video asks of a worker with a GPU."""
    return VideoRates(
        decode_seconds_per_video=0.01,
        decode_seconds_per_clip=decode_seconds_per_clip,
        teacher_decode_seconds_per_video=0.01,
        teacher_decode_seconds_per_clip=decode_seconds_per_clip,
        student_seconds_per_video=0.0,
        student_seconds_per_clip=STUDENT_SECONDS_PER_CLIP,
        teacher_seconds_per_video=0.0,
        teacher_seconds_per_clip=TEACHER_FLOPS_PER_CLIP / (GPU_FLOPS_PER_SECOND * GPU_USED_SHARE),
        hand_over_seconds=HAND_OVER_SECONDS,
    )


def efficiencies(
    shards: Sequence[Shard], known: Mapping[str, WorkerSeconds], settings: RunSettings
) -> Iterator[tuple[str, Case]]:
    """Yield how much of what is held is used, by workers and by preemptions."""
    crowds = [(workers, 0.01) for workers in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)]
    for workers, rate in (*crowds, (512, 0.0), (512, 0.1), (512, 1.0)):
        crowd = replace(settings, workers=workers, preemptions_per_worker_hour=rate)
        run, efficiency = spend_a_night(shards, known, crowd)
        unit = (
            f"useful by held worker seconds; {run.labeling_seconds / SECONDS_PER_HOUR:.2f} h, {run.preemptions} preemptions, "
            f"{run.attempts - len(run.committed)} attempts lost, {run.videos_blamed} videos blamed"
        )
        yield f"{workers} workers, {rate:.0%} preempted an hour: efficiency", case(efficiency, unit)


def spend_a_night(
    shards: Sequence[Shard], known: Mapping[str, WorkerSeconds], settings: RunSettings
) -> tuple[SimulatedRun, float]:
    """Simulate as many copies of the shards as fill a night; also return the efficiency."""
    seconds_of_all = sum(known[shard.shard_id].with_look_ahead for shard in shards)
    wanted = round(settings.workers * NIGHT_HOURS * SECONDS_PER_HOUR / seconds_of_all * len(shards))
    originals = [shards[number % len(shards)] for number in range(wanted)]
    copies = [replace(shard, shard_id=f"{shard.shard_id}-{number}") for number, shard in enumerate(originals)]
    seconds = {copy.shard_id: known[shard.shard_id] for copy, shard in zip(copies, originals, strict=True)}
    run = simulate(dearest_first(copies), lambda env: KnownSeconds(env, seconds), settings, SEED)
    useful_seconds = sum(seconds[shard_id].with_look_ahead for shard_id in run.committed)
    return run, useful_seconds / run.held_seconds


def night_of(
    archive: Archive, shards: Sequence[Shard], known: Mapping[str, WorkerSeconds], settings: RunSettings
) -> Night:
    run, efficiency = spend_a_night(shards, known, settings)
    return Night(archive=archive, shards=shards, known=known, run=run, workers=settings.workers, efficiency=efficiency)


def price(
    arguments: argparse.Namespace, night: Night, sizes: Measured, *, workers_per_gpu: int
) -> Iterator[tuple[str, Case]]:
    """Yield the bill of the archive, and where the design ends."""
    videos, prices = arguments.archive_videos, ListPrices(gpu_hour=arguments.gpu_hour_usd)
    name = f"{videos:.0e} videos, {night.workers} workers, {workers_per_gpu} to a GPU"
    yield f"{name}: a shard, undisturbed", case(night.mean_shard_seconds, "seconds, simulated")
    yield f"{name}: efficiency", case(night.efficiency, "useful by held worker seconds")
    for figure in bill(videos, night, prices, sizes, night_hours=NIGHT_HOURS, workers_per_gpu=workers_per_gpu):
        yield f"{name}: {figure.name}", case(figure.value, f"{figure.unit}, {figure.origin}")
    for limit in limits(videos, night, sizes, memory_gib=COORDINATOR_GIB, hours=NIGHT_HOURS):
        unit = f"{limit.unit} of {limit.most:.4g}, {limit.origin}; reached at {limit.reached_at:.2g} {limit.of}"
        yield f"{name}, limit: {limit.part}", case(limit.value, unit)


def measure_sizes(folder: Path, dispatch_seconds: float) -> Measured:
    """Return sizes of what a run writes and lists, from an invented archive."""
    manifest, out = str(folder / "manifest.parquet"), str(folder / "planned")
    scale_stages.in_process(scale_stages.write_manifest, manifest, PLANNED, 1)
    scale_stages.in_process(scale_stages.commit_shards, out, manifest, 1)
    scale_stages.in_process(scale_stages.publish, out, manifest)
    store = open_store(out)
    (run_id,) = store.children(RUNS)
    plan_bytes = len(store.read(plan_name(run_id)))
    published_bytes = sum(item.size_bytes for item in store.list("predictions"))
    return Measured(
        dispatch_seconds=dispatch_seconds,
        plan_bytes_per_video=plan_bytes / PLANNED,
        listed_bytes_per_object=_listed_bytes(),
        published_bytes_per_clip=published_bytes / PLANNED / 5,
    )


def _listed_bytes(objects: int = 20_000) -> float:
    """Return the memory that a listed entry of an attempt takes: its name and what the store says of it."""
    gc.collect()
    tracemalloc.start()
    listed = [
        StoredObject(
            name=f"runs/20261201-0123456789/attempts/{number:016x}/{number:012x}-00000.json",
            size_bytes=number + 1000,
            version=f"{number:032x}",
            modified=float(number),
        )
        for number in range(objects)
    ]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return taken / len(listed)


def case(value: float, unit: str, **others: float) -> Case:
    return {
        "ours": float(f"{value:.6g}"),
        "others": {name: round(other, 3) for name, other in others.items()},
        "unit": unit,
        "ratios": {name: round(other / value, 3) for name, other in others.items()},
    }


def _told(known: Calibration) -> str:
    rates, settings = known.rates, known.settings
    teacher = rates.teacher_seconds_per_video, rates.teacher_seconds_per_clip
    return (
        f"launch {settings.launch_seconds:.1f}, a worker's start {settings.start_seconds:.1f}, a shard "
        f"{settings.shard_seconds:.3f}, the end {settings.finish_seconds:.1f}; ms a video and a clip: decode "
        f"{_ms(rates.decode_seconds_per_video, rates.decode_seconds_per_clip)}, student "
        f"{_ms(rates.student_seconds_per_video, rates.student_seconds_per_clip)}, teacher {_ms(*teacher)}, "
        f"handing over {1000 * rates.hand_over_seconds:.1f} a video"
    )


def _ms(*seconds: float) -> str:
    return " + ".join(f"{1000 * value:.1f}" for value in seconds)


if __name__ == "__main__":
    main()
