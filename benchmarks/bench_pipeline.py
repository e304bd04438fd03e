"""How close labeling a shard comes to its stages alone: wall and CPU seconds of `label_shard`, against each stage by itself.

Generated h264 videos, labeled by the bundle that ships with the project, its models on one thread and its decoders beside
them; the stages alone get the same videos, and as many clips of them as labeling scored. Labeling with the next video
decoded ahead, labeling without that, and the stages take turns. CPU time is that of this process and its decoders.
``speed_of_light`` is the wall time of the slower of the two parts, decoders and models, by that of labeling; with
``busy`` above 1 core per core of the machine, other programs were in the way.
Usage: python benchmarks/bench_pipeline.py [--videos 6] [--seconds 20] [--repetitions 5] [--json]
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import psutil
from bench_isolation import FRAMES_PER_SECOND, moving_texture, spent
from document import argument_parser, document

from cdmodel.bundle import DEMO_BUNDLE, model_version, read_manifest
from cdmodel.cascade_settings import CascadeSettings
from cdmodel.decode_limits import DecodeLimits
from cdmodel.encode import encode_mp4
from cdmodel.models import CascadeModels
from cdmodel.sampling import ClipGeometry
from cdmodel.types import Shard, ShardReceipt, VideoRef
from tasks.label_shard import LabelingSpec, label_shard
from tasks.worker_decoder import begin_clips, open_clips
from tasks.worker_models import WorkerModels, load_worker_models

CLIPS_PER_BATCH = 16
AHEAD, ONE_BY_ONE = "label, the next video ahead", "label, one video after another"
DECODE, STUDENT, TEACHER = "decode alone", "student alone", "teacher alone"


@dataclass(frozen=True)
class Spent:
    """What one way of doing it took."""

    wall_seconds: float
    cpu_seconds: float


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--videos", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        spec, shard = prepare(Path(folder), arguments.videos, arguments.seconds)
        name = f"{arguments.videos} videos of 480p, {arguments.seconds} s"
        cases = {name: compare(spec, shard, arguments.repetitions)}
    load = os.getloadavg()[0]
    report = document("pipeline", cases, arguments.repetitions) | {"load_average": round(load, 1)}
    if arguments.json:
        print(json.dumps(report))
        return
    for name, found in cases.items():
        print(f"{name}, load {load:.1f}: {json.dumps(found, indent=2)}")


def prepare(folder: Path, videos: int, seconds: int) -> tuple[LabelingSpec, Shard]:
    """Write the videos, which have the same content, and say how they are labeled."""
    content = encode_mp4(moving_texture(seconds * FRAMES_PER_SECOND), FRAMES_PER_SECOND)
    refs = []
    for number in range(videos):
        path = folder / f"{number:03}.mp4"
        path.write_bytes(content)
        refs.append(VideoRef(video_id=path.stem, uri=str(path), video_version="1", size_bytes=None))
    manifest = read_manifest(DEMO_BUNDLE)
    spec = LabelingSpec(
        out=str(folder / "out"),
        run_id="pipeline",
        launch_id="pipeline",
        run_date=datetime.now(UTC).date(),
        corpus="pipeline",
        fingerprint="pipeline",
        models=WorkerModels(bundle=None, model_version=model_version(manifest), allowed_builders=(), model_threads=1),
        sampling=manifest.sampling,
        cascade=CascadeSettings(policy=manifest.default_policy, aggregation=manifest.default_aggregation),
        limits=DecodeLimits(),
        prices=None,
    )
    return spec, Shard(shard_id="shard", videos=tuple(refs))


def compare(spec: LabelingSpec, shard: Shard, repetitions: int) -> dict[str, object]:
    """Do the same work every way, in turns; figures are medians over the turns."""
    runs = map(str, count())
    models = load_worker_models(spec.models)
    receipt = label(shard, spec, runs)  # models and decoders are there from now on
    ways: dict[str, Callable[[], object]] = {
        AHEAD: partial(label, shard, spec, runs),
        ONE_BY_ONE: partial(label, shard, replace(spec, videos_ahead=0), runs),
        DECODE: partial(decode, shard, spec, models),
        STUDENT: partial(score, models, "student", receipt.clips_student),
        TEACHER: partial(score, models, "teacher", receipt.clips_teacher),
    }
    turns: list[dict[str, Spent]] = []
    told: list[float] = []
    for _ in range(repetitions):
        turn = {}
        for name, work in ways.items():
            turn[name], result = measure(work)
            if name == AHEAD and isinstance(result, ShardReceipt) and (share := result.stages.speed_of_light):
                told.append(share)
        turns.append(turn)
    return {
        "unit": "wall and CPU seconds",
        "wall": {name: round(statistics.median(turn[name].wall_seconds for turn in turns), 3) for name in ways},
        "cpu": {name: round(statistics.median(turn[name].cpu_seconds for turn in turns), 3) for name in ways},
        "clips": {"student": receipt.clips_student, "teacher": receipt.clips_teacher},
        "speed_of_light": {
            AHEAD: round(statistics.median(speed_of_light(turn, AHEAD) for turn in turns), 3),
            ONE_BY_ONE: round(statistics.median(speed_of_light(turn, ONE_BY_ONE) for turn in turns), 3),
            "as the receipt has it": round(statistics.median(told), 3),
        },
        "ratios": {
            "one by one / ahead, wall": round(
                statistics.median(turn[ONE_BY_ONE].wall_seconds / turn[AHEAD].wall_seconds for turn in turns), 3
            ),
            "stages / ahead, CPU": round(
                statistics.median(
                    sum(turn[stage].cpu_seconds for stage in (DECODE, STUDENT, TEACHER)) / turn[AHEAD].cpu_seconds
                    for turn in turns
                ),
                3,
            ),
        },
        "busy": round(statistics.median(turn[AHEAD].cpu_seconds / turn[AHEAD].wall_seconds for turn in turns), 2),
    }


def speed_of_light(turn: dict[str, Spent], name: str) -> float:
    """Return the time of the busier part alone by that of labeling."""
    models = turn[STUDENT].wall_seconds + turn[TEACHER].wall_seconds
    return max(turn[DECODE].wall_seconds, models) / turn[name].wall_seconds


def label(shard: Shard, spec: LabelingSpec, runs: map[str]) -> ShardReceipt:
    """Label the videos in a run of their own."""
    receipt = label_shard(shard, replace(spec, run_id=f"pipeline-{next(runs)}"))
    assert receipt.videos_labeled == len(shard.videos), receipt
    return receipt


def decode(shard: Shard, spec: LabelingSpec, models: CascadeModels) -> None:
    """Read what the student sees of every video, the next one ahead."""
    geometry = models.student.geometry
    waiting = None
    for video in (*shard.videos, None):
        begun = None if video is None else begin_clips(video, spec.sampling, spec.limits, [geometry])
        if waiting is not None:
            with open_clips(waiting[0], spec.sampling, spec.limits, waiting[1]) as clips:
                for batch in clips.read_clips(geometry):
                    assert batch.spans
        waiting = None if video is None else (video, begun)


def score(models: CascadeModels, which: str, clips: int) -> None:
    """Score as many clips as labeling did, in its batches at most; what they show costs a network nothing."""
    scorer = models.student if which == "student" else models.teacher
    pixels = _noise(scorer.geometry)
    for start in range(0, clips, CLIPS_PER_BATCH):
        scorer.score(pixels[: min(CLIPS_PER_BATCH, clips - start)])


def _noise(geometry: ClipGeometry) -> np.ndarray:
    shape = (CLIPS_PER_BATCH, geometry.frames, 3, geometry.height, geometry.width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def measure(work: Callable[[], object]) -> tuple[Spent, object]:
    """Do the work; return its wall time, the CPU time of this process and its decoders, and what came of it."""
    processes = [os.getpid(), *(child.pid for child in psutil.Process().children())]
    cpu_before, began = sum(map(spent, processes)), time.perf_counter()
    result = work()
    wall_seconds = time.perf_counter() - began
    return Spent(wall_seconds, sum(map(spent, processes)) - cpu_before), result


if __name__ == "__main__":
    main()
