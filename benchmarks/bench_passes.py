"""One pass for student and teacher, or a second one for the clips that the teacher is asked about: which takes less?

CPU seconds of decoding a generated video of 480p with a keyframe every 48 or 250 frames: all clips in both sizes in one pass
(``ours``), against the student's pass followed by one for a random share of the clips in the teacher's size. Ratio = two
passes / one: the share at which it reaches 1 is ``CROSSOVER_SHARE`` of ``cdmodel.pass_choice``. All take turns.
Usage: python benchmarks/bench_passes.py [--json]
"""

from __future__ import annotations

import io
import json
import random
import statistics
import time
from typing import Any

import av
import numpy as np
from document import argument_parser, document

from cdmodel.decode import ClipReader
from cdmodel.sampling import ClipGeometry, ClipSampling

REPETITIONS = 7
SECONDS, FRAMES_PER_SECOND = 40, 25
WIDTH, HEIGHT = 854, 480
STUDENT = ClipGeometry(frames=4, height=56, width=56)
TEACHER = ClipGeometry(frames=16, height=112, width=112)
SHARES = (0.1, 0.3, 0.5, 0.7, 0.9)


def main() -> None:
    arguments = argument_parser(__doc__).parse_args()
    cases: dict[str, Any] = {}
    for interval in (48, 250):
        cases |= measure(f"keyframe every {interval} frames", encode(interval))
    report = document("passes", cases, REPETITIONS)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for name, case in cases.items():
        print(
            f"{name}: one pass {case['ours']} s; two {case['others']['two passes']} s; {case['ratios']['two passes']}"
        )


def measure(name: str, content: bytes) -> dict[str, Any]:
    one: list[float] = []
    two: dict[float, list[float]] = {share: [] for share in SHARES}
    for turn in range(REPETITIONS):
        one.append(read_once(content))
        for share in SHARES:
            two[share].append(read_twice(content, share, turn))
    return {
        f"{name}, {share:.0%} of the clips": {
            "ours": round(statistics.median(one), 4),
            "others": {"two passes": round(statistics.median(seconds), 4)},
            "unit": "CPU seconds",
            "ratios": {"two passes": round(statistics.median(t / o for t, o in zip(seconds, one, strict=True)), 3)},
        }
        for share, seconds in two.items()
    }


def read_once(content: bytes) -> float:
    started = time.process_time()
    for _ in ClipReader(io.BytesIO(content), "the video", ClipSampling()).read_views((STUDENT, TEACHER)):
        pass
    return time.process_time() - started


def read_twice(content: bytes, share: float, seed: int) -> float:
    wanted = random.Random(seed).sample(range(SECONDS), round(share * SECONDS))
    started = time.process_time()
    reader = ClipReader(io.BytesIO(content), "the video", ClipSampling())
    for geometry, chosen in ((STUDENT, None), (TEACHER, wanted)):
        for _ in reader.read_clips(geometry, chosen):
            pass
    return time.process_time() - started


def encode(keyframe_interval: int) -> bytes:
    """Return a video of a texture that wanders, with a little noise."""
    draw = np.random.default_rng(0)
    texture = draw.integers(0, 256, (HEIGHT // 8 + 40, WIDTH // 8 + 80, 3)).repeat(8, 0).repeat(8, 1).astype(np.int16)
    buffer = io.BytesIO()
    options = {"preset": "veryfast", "crf": "26", "g": str(keyframe_interval), "sc_threshold": "0"}
    with av.open(buffer, mode="w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(SECONDS * FRAMES_PER_SECOND):
            top, left = int(120 + 100 * np.cos(number / 50)), int(250 + 200 * np.sin(number / 40))
            pixels = texture[top : top + HEIGHT, left : left + WIDTH] + draw.integers(-4, 5, (HEIGHT, WIDTH, 1))
            frame = av.VideoFrame.from_ndarray(pixels.clip(0, 255).astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


if __name__ == "__main__":
    main()
