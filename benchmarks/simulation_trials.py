"""Real runs for the model of a run: what one took, where its seconds went, and the model's rates from that.

A run is ``cdlabel label`` as a user starts it. When its shards were begun and committed stands in the log of attempts and in
the receipts, what each video took in the table of predictions. Every run knows how many cores other programs took meanwhile.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from io import BytesIO
from itertools import cycle, islice, pairwise
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import simpy
from bench_isolation import FRAMES_PER_SECOND as TEXTURE_FRAMES_PER_SECOND
from bench_isolation import moving_texture
from bench_plan import lengths
from numpy.typing import NDArray
from run_simulation import Pipeline, Processor, RunSettings, SimulatedRun, VideoRates, simulate
from scipy.optimize import brentq, nnls

from cdmodel.bundle import DEMO_BUNDLE, read_manifest
from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.encode import encode_mp4
from cdmodel.models import load_bundle
from cdmodel.scenes import FRAMES_PER_SECOND, SceneSpec, draw_scene, render
from cdmodel.types import Shard, VideoRef
from flows.dispatch import ClusterSettings, open_cluster, run_on_workers
from storage.corpus import CorpusRules, list_videos
from storage.filesystem import open_store
from storage.run_layout import attempts_folder
from storage.run_store import list_runs, read_receipts
from storage.shard_order import dearest_first
from storage.views import run_query
from tasks.cores import count_cores
from tasks.sharding import ShardingSettings, cut_shards

SHARDING = ShardingSettings(videos_per_shard=16)
SLICE_SECONDS = 0.01
"""Of a core, while more processes want one than there are."""
SECONDS_BETWEEN_LOOKS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTimes:
    """When a shard was at hand, in seconds since the epoch."""

    began: float
    committed: float
    worker_seconds: float
    """Of the pipeline alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoTimes:
    """What a video took: CPU seconds."""

    uri: str
    clips: int
    clips_teacher: int
    decode_seconds: float
    teacher_decode_seconds: float
    student_seconds: float
    teacher_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Others:
    """Cores that other programs took, on average."""

    launch: float
    """Until the first shard was begun."""
    labeling: float
    finish: float
    """From the last commit on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRun:
    """A run of the product, and what was seen of it."""

    began: float
    """When the command was started, in seconds since the epoch."""
    wall_seconds: float
    others: Others
    shards: tuple[ShardTimes, ...]
    """In the order of their commits."""
    videos: tuple[VideoTimes, ...]
    entries: int
    """Objects of the log of attempts."""
    read_requests: int
    labeling_seconds: float
    """From the beginning of the first shard until the last commit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one real run told."""

    rates: VideoRates
    settings: RunSettings
    """Of a run with one worker."""
    others: Others
    """Then."""
    clips_teacher: Mapping[str, int]
    """What the bundle's own policy asks the teacher about, by the scene."""

    def slowed(self, others: Others) -> RunSettings:
        """Return the settings beside such programs: what surrounds labeling waits for one core."""
        launch = core_left(self.others.launch) / core_left(others.launch)
        start = core_left(self.others.labeling) / core_left(others.labeling)
        finish = core_left(self.others.finish) / core_left(others.finish)
        return replace(
            self.settings,
            launch_seconds=self.settings.launch_seconds * launch,
            start_seconds=self.settings.start_seconds * start,
            finish_seconds=self.settings.finish_seconds * finish,
        )


def core_left(others: float) -> float:
    """Return the share of a core that a single thread gets beside other programs."""
    return min(1.0, max(count_cores() - others, 0.1))


class Trials:
    """A corpus in copies, and runs over it, with a Prefect of their own."""

    def __init__(self, folder: Path, scenes: int) -> None:
        self._folder = folder
        self._environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect")}
        self.clips = {f"{index:05d}": seconds for index, seconds in enumerate(lengths(scenes))}
        """By the scene: one a second."""
        self._scenes = folder / "scenes"
        self._scenes.mkdir()
        for index, (name, seconds) in enumerate(self.clips.items()):
            scene = draw_scene(SceneSpec(seed=7), index)
            longer = replace(scene, activities=tuple(islice(cycle(scene.activities), seconds)))
            (self._scenes / f"{name}.mp4").write_bytes(encode_mp4(render(longer), FRAMES_PER_SECOND))

    def warm_up(self) -> None:
        """Have Prefect create its database, and the machine read what it loads."""
        self.run(1, 1)

    def _corpus(self, videos: int) -> Path:
        """Return a folder with so many videos, each scene as often as it takes."""
        folder = self._folder / f"videos-{videos}"
        if not folder.exists():
            folder.mkdir()
            for number, name in enumerate(islice(cycle(self.clips), videos)):
                (folder / f"{number:05d}-{name}.mp4").hardlink_to(self._scenes / f"{name}.mp4")
        return folder

    def videos(self, videos: int) -> tuple[VideoRef, ...]:
        """Return what the product finds in a corpus of so many."""
        return list_videos(str(self._corpus(videos)), CorpusRules()).videos

    def run(self, videos: int, workers: int, *options: str) -> RealRun:
        """Label so many videos."""
        out = self._folder / f"out-{time.time_ns()}"
        fixed = (
            f"--set=sharding.videos_per_shard={SHARDING.videos_per_shard}",
            *("--set=cluster.model_threads=1", "--set=audit.share=0"),
        )
        command = (sys.executable, "-m", "flows", "label", str(self._corpus(videos)), "--out", str(out), "--json")
        began, watch = time.time(), Watch()
        with (self._folder / "answer").open("w+") as answer, (self._folder / "messages").open("w+") as messages:
            process = subprocess.Popen(
                [*command, f"--workers={workers}", *fixed, *options],
                env=self._environment,
                stdout=answer,
                stderr=messages,
            )
            while process.poll() is None:
                watch.look()
                time.sleep(SECONDS_BETWEEN_LOOKS)
            ended = time.time()
            for file in (answer, messages):
                file.seek(0)
            if process.returncode:
                sys.exit(messages.read())
            return _look_at(out, json.load(answer), watch, began=began, ended=ended)


class Watch:
    """How many cores are taken by programs that this one has not started."""

    def __init__(self) -> None:
        self._ours: dict[int, float] = {}
        self._looks: list[tuple[float, float]] = []
        self.look()

    def look(self) -> None:
        """Look at the clock, the machine and all that this program has started."""
        for process in (psutil.Process(), *psutil.Process().children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                self._ours[process.pid] = times.user + times.system
        times = psutil.cpu_times()
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        self._looks.append((time.time(), busy - sum(self._ours.values())))

    def others(self, began: float, ended: float) -> float:
        """Return the cores that others took on average between two instants."""
        at, taken = zip(*self._looks, strict=True)
        first, last = np.interp((began, ended), at, taken)
        return max(float(last - first) / max(ended - began, SECONDS_BETWEEN_LOOKS), 0.0)


def scene_of(uri: str) -> str:
    """Return which scene a video of a corpus shows."""
    return Path(uri).stem.partition("-")[2]


def _look_at(out: Path, record: Mapping[str, Any], watch: Watch, *, began: float, ended: float) -> RealRun:
    store = open_store(str(out))
    run_id = list_runs(store)[0].header.run_id
    first_entries: dict[str, float] = {}
    entries = store.list(attempts_folder(run_id))
    for item in entries:
        shard_id = item.name.rsplit("/", 2)[1]
        written_at = datetime.fromisoformat(json.loads(store.read(item.name))["written_at"]).timestamp()
        first_entries[shard_id] = min(first_entries.get(shard_id, written_at), written_at)
    receipts = sorted(read_receipts(store, run_id), key=attrgetter("committed_at"))
    shards = tuple(
        ShardTimes(
            began=first_entries[receipt.shard_id],
            committed=receipt.committed_at.timestamp(),
            worker_seconds=receipt.stages.worker,
        )
        for receipt in receipts
    )
    labeling_began = min(shard.began for shard in shards)
    rows = run_query(
        store,
        "select uri, clips_student, clips_teacher, dense_decode_cpu_seconds, "
        "decode_cpu_seconds - dense_decode_cpu_seconds, student_seconds, teacher_seconds from predictions",
    ).rows
    return RealRun(
        began=began,
        wall_seconds=ended - began,
        others=Others(
            launch=watch.others(began, labeling_began),
            labeling=watch.others(labeling_began, shards[-1].committed),
            finish=watch.others(shards[-1].committed, ended),
        ),
        shards=shards,
        videos=tuple(
            VideoTimes(
                uri=uri,
                clips=clips,
                clips_teacher=clips_teacher,
                decode_seconds=decode,
                teacher_decode_seconds=again,
                student_seconds=student,
                teacher_seconds=teacher,
            )
            for uri, clips, clips_teacher, decode, again, student, teacher in rows
        ),
        entries=len(entries),
        read_requests=int(record["read_requests"]),
        labeling_seconds=shards[-1].committed - labeling_began,
    )


def calibrate(run: RealRun, videos: Sequence[VideoRef], dispatch_seconds: float) -> Calibration:
    """Return the model's rates from a run with one worker over these videos.

    Rates are fitted to the videos' CPU seconds by least squares, none below zero; what they leave of the labeling's wall time
    is handing over, found by running the model until it takes as long as the run did.
    """
    rates = _fit(run.videos)
    gaps = [after.began - before.committed for before, after in pairwise(run.shards)]
    rests = [shard.committed - shard.began - shard.worker_seconds for shard in run.shards]
    around = statistics.median(rests[1:]) + statistics.median(gaps)
    settings = RunSettings(
        workers=1,
        launch_seconds=run.shards[0].began - run.began,
        start_seconds=rests[0] - statistics.median(rests[1:]),
        dispatch_seconds=dispatch_seconds,
        shard_seconds=max(around - dispatch_seconds, 0.0),
        finish_seconds=run.began + run.wall_seconds - run.shards[-1].committed,
    )
    asked = {video.uri: (video.clips, video.clips_teacher) for video in run.videos}

    def missing(hand_over_seconds: float) -> float:
        handed_over = replace(rates, hand_over_seconds=hand_over_seconds)
        simulated = predict(videos, asked, handed_over, settings, run.others.labeling)
        return run.labeling_seconds - simulated.labeling_seconds

    # A second of the worker's process makes the run a second longer, or more; but some of it may pass while a decoder works.
    most = 2 * missing(0.0) / len(asked)
    hand_over_seconds = float(brentq(missing, 0.0, most, xtol=1e-4)) if most > 0 else 0.0
    return Calibration(
        rates=replace(rates, hand_over_seconds=hand_over_seconds),
        settings=settings,
        others=run.others,
        clips_teacher={scene_of(video.uri): video.clips_teacher for video in run.videos},
    )


def predict(
    videos: Sequence[VideoRef],
    asked: Mapping[str, tuple[int, int]],
    rates: VideoRates,
    settings: RunSettings,
    others: float,
) -> SimulatedRun:
    """Simulate a run on this machine; ``asked`` are the clips of a video, and those for the teacher, by its URI."""
    work = {video.video_id: rates.work(*asked[video.uri]) for video in videos}

    def labor(env: simpy.Environment) -> Pipeline:
        return Pipeline(env, work, Processor(env, count_cores(), others=others, slice_seconds=SLICE_SECONDS))

    return simulate(dearest_first(cut_shards(videos, SHARDING, "fingerprint")), labor, settings)


def _fit(videos: Sequence[VideoTimes]) -> VideoRates:
    clips_V = np.array([video.clips for video in videos], dtype=np.float64)
    teacher_V = np.array([video.clips_teacher for video in videos], dtype=np.float64)
    asked_V = teacher_V > 0
    decode = _line(clips_V, [video.decode_seconds for video in videos])
    student = _line(clips_V, [video.student_seconds for video in videos])
    asked = [video for video in videos if video.clips_teacher]
    again = _line(teacher_V[asked_V], [video.teacher_decode_seconds for video in asked])
    teacher = _line(teacher_V[asked_V], [video.teacher_seconds for video in asked])
    return VideoRates(
        decode_seconds_per_video=decode[0],
        decode_seconds_per_clip=decode[1],
        teacher_decode_seconds_per_video=again[0],
        teacher_decode_seconds_per_clip=again[1],
        student_seconds_per_video=student[0],
        student_seconds_per_clip=student[1],
        teacher_seconds_per_video=teacher[0],
        teacher_seconds_per_clip=teacher[1],
        hand_over_seconds=0.0,
    )


def _line(clips_V: NDArray[np.float64], seconds: Sequence[float]) -> tuple[float, float]:
    """Return what a video takes by being one, and by each clip."""
    (per_video, per_clip), _ = nnls(np.stack([np.ones_like(clips_V), clips_V], axis=1), np.array(seconds))
    return float(per_video), float(per_clip)


def measure_dispatch(shards: int, in_flight: int) -> float:
    """Return CPU seconds that client and scheduler, one process here, take for a shard of 512 videos that nobody labels."""
    videos = tuple(
        VideoRef(video_id=f"{number:09d}", uri=f"s3://archive/{number:09d}.mp4", video_version="1", size_bytes=1)
        for number in range(512)
    )
    settings = ClusterSettings(workers=1, shards_in_flight_per_worker=in_flight)
    named = [Shard(shard_id=f"{number}", videos=videos) for number in range(shards)]
    with open_cluster(settings, gpus=0) as cluster:
        list(run_on_workers(cluster, attrgetter("shard_id"), (("warm", shard) for shard in named[:1])))
        began = time.process_time()
        done = list(run_on_workers(cluster, attrgetter("shard_id"), ((shard.shard_id, shard) for shard in named)))
        cpu_seconds = time.process_time() - began
    assert len(done) == shards
    return cpu_seconds / shards


def measure_decoding(repetitions: int = 3) -> float:
    """Return CPU seconds that the student's pass over a clip of 480p h264 takes, all clips being a second long."""
    manifest = read_manifest(DEMO_BUNDLE)
    geometry = load_bundle(DEMO_BUNDLE).student.geometry
    seconds = 20
    content = encode_mp4(moving_texture(seconds * TEXTURE_FRAMES_PER_SECOND), TEXTURE_FRAMES_PER_SECOND)
    turns = []
    for _ in range(repetitions):
        began = time.process_time()
        reader = ClipReader(BytesIO(content), "480p", manifest.sampling, DecodeLimits())
        clips = sum(len(batch.spans) for batch in reader.read_clips(geometry))
        turns.append((time.process_time() - began) / clips)
    return statistics.median(turns)
