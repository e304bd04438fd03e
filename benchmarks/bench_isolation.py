"""What decoding in a process of its own costs: CPU seconds of reading all clips, against decoding in this process.

CPU time of this process and of the decoder, both alike; ``ours`` is the isolated way and the ratio in-process / isolated:
1 means that isolation is free, 0.95 that it costs 5 %. Generated h264 videos with keyframes every 48 frames, read as the
student and as the teacher of a cascade would; short ones in batches of many, so that a clock can see them. Isolated and
in-process take turns. The last case is what a decoder takes to start, against a Python that does nothing.
Usage: python benchmarks/bench_isolation.py [--repetitions 9] [--json]
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import psutil
from document import argument_parser, document

from cdmodel.clips import ClipSource
from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.decoder_pool import DecoderPool
from cdmodel.encode import encode_mp4
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.types import VideoRef
from storage.video_file import open_video

REPETITIONS = 9
FRAMES_PER_SECOND = 25
WIDTH, HEIGHT = 854, 480
STUDENT = ClipGeometry(frames=8, height=112, width=112)
TEACHER = ClipGeometry(frames=16, height=224, width=224)
NOTHING_SECONDS = "a Python process that does nothing"


@dataclass(frozen=True)
class Case:
    """One kind of video, read once or several times per repetition."""

    name: str
    seconds: int
    geometry: ClipGeometry
    videos: int


CASES = (
    Case("480p, 30 s, clips of 8 x 112 x 112", 30, STUDENT, 1),
    Case("480p, 30 s, clips of 16 x 224 x 224", 30, TEACHER, 1),
    Case("480p, 1 s, clips of 8 x 112 x 112", 1, STUDENT, 20),
    Case("480p, 1 s, clips of 16 x 224 x 224", 1, TEACHER, 20),
)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=REPETITIONS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cases = {case.name: compare(case, Path(folder), arguments.repetitions) for case in CASES}
    cases["start of a decoder"] = compare_start(arguments.repetitions)
    report = document("isolation", cases, arguments.repetitions)
    if arguments.json:
        print(json.dumps(report))
        return
    for name, found in cases.items():
        print(f"{name}: {found['ours']} {found['unit']}, ratios {found['ratios']}")


def compare(case: Case, folder: Path, repetitions: int) -> dict[str, object]:
    """Read the same videos both ways, in turns; the ratio is the median of the turns'."""
    path = folder / f"{case.seconds}.mp4"
    if not path.exists():
        path.write_bytes(encode_mp4(moving_texture(case.seconds * FRAMES_PER_SECOND), FRAMES_PER_SECOND))
    video = VideoRef(video_id="v", uri=str(path), video_version="1", size_bytes=None)
    pool = DecoderPool()
    read_isolated(pool, video, case)
    [decoder] = psutil.Process().children()
    isolated, in_process = [], []
    for _ in range(repetitions):
        isolated.append(cpu_seconds(partial(read_isolated, pool, video, case), (os.getpid(), decoder.pid)))
        in_process.append(cpu_seconds(partial(read_in_process, video, case), (os.getpid(),)))
    pool.close()
    return {
        "ours": round(statistics.median(isolated) / case.videos, 5),
        "others": {"in process": round(statistics.median(in_process) / case.videos, 5)},
        "unit": "CPU seconds per video",
        "ratios": {"in process": round(statistics.median(b / a for a, b in zip(isolated, in_process, strict=True)), 3)},
    }


def moving_texture(frames: int) -> Iterable[np.ndarray]:
    """Yield frames of a texture that moves, with a little noise: neither empty nor impossible to predict."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 255, (HEIGHT // 8, WIDTH // 7, 3), dtype=np.uint8)
    texture = coarse.repeat(16, axis=0).repeat(14, axis=1)
    for index in range(frames):
        shown = texture[index % HEIGHT :][:HEIGHT, index * 2 % WIDTH :][:, :WIDTH].astype(np.int16)
        yield np.clip(shown + random.integers(-3, 4, shown.shape, dtype=np.int16), 0, 255).astype(np.uint8)


def read_isolated(pool: DecoderPool, video: VideoRef, case: Case) -> None:
    for _ in range(case.videos):
        with pool.read(partial(open_video, video), video.uri, ClipSampling(), DecodeLimits()) as clips:
            drain(clips, case)


def read_in_process(video: VideoRef, case: Case) -> None:
    for _ in range(case.videos):
        with open_video(video) as file:
            drain(ClipReader(file, video.uri, ClipSampling(), DecodeLimits()), case)


def drain(clips: ClipSource, case: Case) -> None:
    """Look at every byte, as a model would."""
    count = sum(int(batch.pixels_NTCHW.max() > 0) * len(batch.spans) for batch in clips.read_clips(case.geometry))
    assert count == case.seconds, count


def cpu_seconds(work: Callable[[], None], process_ids: tuple[int, ...]) -> float:
    """Return what all the processes use while the work is done."""
    before = sum(spent(process_id) for process_id in process_ids)
    work()
    return sum(spent(process_id) for process_id in process_ids) - before


def spent(process_id: int) -> float:
    """Return the CPU seconds of a process in nanosecond steps, by Linux's clock for it (clock_getcpuclockid(3))."""
    return time.clock_gettime(~process_id << 3 | 2)


def compare_start(repetitions: int) -> dict[str, object]:
    """Return the CPU time of starting a decoder, and how long it takes until it has taken its first video."""
    starts, nothings, waits = [], [], []
    for _ in range(repetitions):
        began = time.perf_counter()
        pool = DecoderPool()
        with pool.read(io.BytesIO, "nothing", ClipSampling(), DecodeLimits()) as _:
            waits.append(time.perf_counter() - began)
            starts.append(sum(spent(child.pid) for child in psutil.Process().children()))
        pool.close()
        process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
        time.sleep(0.3)
        nothings.append(spent(process.pid))
        process.communicate()
    ours, nothing = statistics.median(starts), statistics.median(nothings)
    return {
        "ours": round(ours, 3),
        "others": {NOTHING_SECONDS: round(nothing, 3)},
        "unit": f"CPU seconds; ready after {statistics.median(waits):.2f} s",
        "ratios": {NOTHING_SECONDS: round(nothing / ours, 3)},
    }


if __name__ == "__main__":
    main()
