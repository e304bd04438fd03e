"""What each student costs beside the built-in teacher, and what reading keyframes saves.

FLOPs are counted; CPU seconds are those of one thread scoring batches of 16 clips, students and teacher in turn, medians.
Decoding: CPU seconds of a pass over a generated video with a keyframe every 48 frames, both ways in turn. Ratio = other /
ours: how many times cheaper the student, or the keyframe pass, is. Usage: python benchmarks/bench_students.py [--json]
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from document import argument_parser, document

from cdmodel.bundle import BUILTIN_BUILDERS, ModelSpec
from cdmodel.decode import ClipReader
from cdmodel.encode import KEYFRAME_INTERVAL, encode_mp4
from cdmodel.flop_count import count_flops
from cdmodel.models import build_network, limit_threads
from cdmodel.sampling import ClipGeometry, ClipSampling
from cdmodel.student_sizes import STUDENT_SIZES, StudentSpec, student_spec

TEACHER = StudentSpec("cdmodel.teacher:build_teacher", {}, ClipGeometry(frames=16, height=64, width=64))
COMPACT = StudentSpec("cdmodel.student:build_compact_student", {}, ClipGeometry(frames=8, height=40, width=40))
NUM_CLASSES = 12
CLIPS_PER_BATCH = 16
REPETITIONS = 15
VIDEO_SECONDS = 40
FRAMES_PER_SECOND = 25


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    limit_threads(1)
    cases = {**measure_models(), **measure_decoding()}
    report = document("students", cases, REPETITIONS)
    if arguments.json:
        print(json.dumps(report))
        return
    for name, case in cases.items():
        for other, value in case["others"].items():
            share = case["ours"] / value
            ratio = case["ratios"][other]
            print(f"{name}: {case['ours']:g} {case['unit']}; {other}: {value:g}; {share:.2%} of it, ratio {ratio:g}")


def measure_models() -> dict[str, dict]:
    students = {**{size: student_spec(size) for size in STUDENT_SIZES}, "compact (2+1)D": COMPACT}
    specs = {"teacher": TEACHER, **students}
    cpu = torch.device("cpu")
    networks = {name: build(spec) for name, spec in specs.items()}
    flops = {name: count_flops(networks[name], spec.geometry, cpu) for name, spec in specs.items()}
    random = torch.Generator().manual_seed(0)
    clips = {
        name: torch.randn(CLIPS_PER_BATCH, g.frames, 3, g.height, g.width, generator=random)
        for name, g in ((name, spec.geometry) for name, spec in specs.items())
    }

    def score(name: str) -> Callable[[], None]:
        def run() -> None:
            with torch.inference_mode():
                networks[name](clips[name])

        return run

    seconds = time_in_turn({name: score(name) for name in specs})
    milliseconds = {name: 1000 * taken / CLIPS_PER_BATCH for name, taken in seconds.items()}
    cases = {}
    for size in students:
        cases[f"{size} student, FLOPs per clip"] = as_case(flops[size], {"teacher": flops["teacher"]}, "FLOPs")
        cases[f"{size} student, CPU time per clip"] = as_case(
            milliseconds[size], {"teacher": milliseconds["teacher"]}, "ms"
        )
    return cases


def build(spec: StudentSpec) -> torch.nn.Module:
    grey, spread = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    model = ModelSpec(
        builder=spec.builder,
        arguments=spec.arguments,
        geometry=spec.geometry,
        mean=grey,
        std=spread,
        weights_sha256="",
    )
    return build_network(model, NUM_CLASSES, BUILTIN_BUILDERS).eval()


def measure_decoding() -> dict[str, dict]:
    content = encode_noise()
    keyframes, small = student_spec("keyframe").geometry, student_spec("small").geometry
    passes = {
        "ours": keyframes,
        "every frame decoded, the same shown": replace(keyframes, keyframes_only=False),
        "every frame decoded, for the small student": small,
    }

    def read_as(geometry: ClipGeometry) -> Callable[[], None]:
        return lambda: read(content, geometry)

    seconds = time_in_turn({name: read_as(geometry) for name, geometry in passes.items()})
    per_second = {name: 1000 * taken / VIDEO_SECONDS for name, taken in seconds.items()}
    case = f"keyframe pass, 640x360 h264 video, a keyframe every {KEYFRAME_INTERVAL} frames of {FRAMES_PER_SECOND} a second"
    return {case: as_case(per_second.pop("ours"), per_second, "ms per second of video")}


def encode_noise() -> bytes:
    """Return moving noise as MP4."""
    random = np.random.default_rng(0)
    texture = random.integers(0, 255, (90, 160, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    frames = (
        np.ascontiguousarray(texture[index % 360 : index % 360 + 360, index % 640 : index % 640 + 640])
        for index in range(VIDEO_SECONDS * FRAMES_PER_SECOND)
    )
    return encode_mp4(frames, FRAMES_PER_SECOND)


def read(content: bytes, geometry: ClipGeometry) -> None:
    clips = sum(
        len(batch.spans) for batch in ClipReader(io.BytesIO(content), "noise", ClipSampling()).read_clips(geometry)
    )
    assert clips == VIDEO_SECONDS, clips


def time_in_turn(works: Mapping[str, Callable[[], None]]) -> dict[str, float]:
    """Return each one's median CPU seconds; all are run in turn, after one round that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(1 + REPETITIONS):
        for name, work in works.items():
            started = time.process_time()
            work()
            taken[name].append(time.process_time() - started)
    return {name: median(seconds[1:]) for name, seconds in taken.items()}


def as_case(ours: float, others: Mapping[str, float], unit: str) -> dict:
    return {
        "ours": round(ours, 4),
        "others": {name: round(value, 4) for name, value in others.items()},
        "unit": unit,
        "ratios": {name: round(value / ours, 3) for name, value in others.items()},
    }


if __name__ == "__main__":
    main()
