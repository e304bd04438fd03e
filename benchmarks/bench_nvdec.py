"""What decoding on a GPU (NVDEC) brings: wall time per frame that a clip shows, against decoding on the CPU in one thread.

Wall time, since a GPU's decoder takes little of the CPU's; run it on a machine that does nothing else. Generated h264 videos with
keyframes every 48 frames, read densely as a student and as a teacher would, the pixels left where the model wants them: NVDEC's
on the device, the CPU's copied there. Both take turns. The ratio is CPU / NVDEC: 2 means that NVDEC is twice as fast.
Without a GPU there is nothing to measure: it says so, and the JSON has no cases.
Usage: python benchmarks/bench_nvdec.py [--json]
"""

from __future__ import annotations

import io
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import av
import numpy as np
import torch
from document import argument_parser, document

from cdmodel.decode import ClipReader
from cdmodel.nvdec import NvdecPictures, find_gpu
from cdmodel.picture_source import CPU_PICTURES, PictureSource
from cdmodel.sampling import ClipGeometry, ClipSampling

REPETITIONS = 7
FRAMES_PER_SECOND = 25
SECONDS = 4
STUDENT = ClipGeometry(frames=8, height=112, width=112)
TEACHER = ClipGeometry(frames=16, height=224, width=224)


@dataclass(frozen=True)
class Case:
    """One size of picture, read as one model sees it."""

    height: int
    width: int
    geometry: ClipGeometry

    @property
    def name(self) -> str:
        """What it is called in the results."""
        geometry = self.geometry
        return f"{self.height}p, clips of {geometry.frames} x {geometry.height} x {geometry.width}"


CASES = tuple(
    Case(height, width, geometry)
    for height, width in ((480, 854), (720, 1280), (1080, 1920), (2160, 3840))
    for geometry in (STUDENT, TEACHER)
)


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    gpu = find_gpu()
    if isinstance(gpu, NvdecPictures):
        cases = {case.name: measure(case, gpu) for case in CASES}
    else:
        print(f"nothing measured: {gpu}", file=sys.stderr)
        cases = {}
    if arguments.json:
        print(json.dumps(document("nvdec", cases, REPETITIONS, describe_machine()), indent=2))
        return
    for name, case in cases.items():
        cpu = case["others"]["cpu"]
        print(
            f"{name}: NVDEC {1000 / case['ours']:.0f}, CPU {1000 / cpu:.0f} frames per second ({cpu / case['ours']:.2f}x)"
        )


def describe_machine() -> str:
    machine = f"{platform.machine()}, {platform.system()}"
    return f"{machine}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else machine


def measure(case: Case, gpu: NvdecPictures) -> dict[str, object]:
    content = encode(case)
    ways: dict[str, Callable[[], float]] = {
        "nvdec": partial(read, content, case.geometry, gpu),
        "cpu": partial(read, content, case.geometry, CPU_PICTURES),
    }
    for way in ways.values():
        way()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(REPETITIONS):
        for name, way in ways.items():
            taken[name].append(way())
    ours, cpu = statistics.median(taken["nvdec"]), statistics.median(taken["cpu"])
    return {"ours": ours, "others": {"cpu": cpu}, "unit": "wall ms per frame", "ratios": {"cpu": cpu / ours}}


def read(content: bytes, geometry: ClipGeometry, pictures: PictureSource) -> float:
    """Return the milliseconds that each frame took which a clip shows, until all were on the device."""
    reader = ClipReader(io.BytesIO(content), "generated", ClipSampling(), pictures=pictures)
    started = time.perf_counter()
    for batch in reader.read_clips(geometry):
        torch.as_tensor(batch.pixels_NTCHW, device="cuda")
    torch.cuda.synchronize()
    seconds = time.perf_counter() - started
    summary = reader.summary()
    if pictures.on_gpu != (summary.mode == "nvdec"):
        raise SystemExit(f"read as {summary.mode}, because {summary.fallback_reason}")
    return 1000 * seconds / summary.frames_used


def encode(case: Case) -> bytes:
    """Return a video of moving waves under noise that jumps."""
    buffer = io.BytesIO()
    options = {"g": "48", "crf": "23", "preset": "veryfast"}
    with av.open(buffer, mode="w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.width, stream.height, stream.pix_fmt = case.width, case.height, "yuv420p"
        stream.time_base = Fraction(1, FRAMES_PER_SECOND)
        for pixels_HWC in draw(case):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels_HWC, format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def draw(case: Case) -> Iterator[np.ndarray]:
    random = np.random.default_rng(7)
    y_H11, x_1W1 = (axis[..., None] / case.height for axis in np.ogrid[0 : case.height, 0 : case.width])
    noise = random.normal(0, 4, size=(case.height + 16, case.width + 16, 3)).astype(np.float32)
    for number in range(SECONDS * FRAMES_PER_SECOND):
        waves = 127 + 80 * np.sin(9 * x_1W1 + 7 * y_H11 + 0.15 * number + np.arange(3))
        down, right = random.integers(0, 16, size=2)
        moved = noise[down : down + case.height, right : right + case.width]
        yield np.clip(waves + moved, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    main()
