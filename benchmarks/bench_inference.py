"""The demo bundle's teacher as it labels on a CPU, against the same network called plainly: CPU seconds of a clip.

Plainly is what torch does with the network as it was trained: batch norms of their own, its choice of convolution routines, the
whole batch at once. Both see the same random clips, with as many clips at hand, on one thread, in turns.
Usage: python benchmarks/bench_inference.py [--repetitions 15] [--json]
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from document import argument_parser, document
from safetensors.torch import load_file
from torch import nn

from cdmodel.bundle import BUILTIN_BUILDERS, find_teacher, read_manifest
from cdmodel.clips import Pixels
from cdmodel.models import TeacherScorer, build_network, load_bundle, normalise
from storage.bundles import local_bundle

CLIPS = (1, 2, 4, 16)
PLAIN = "plain torch"


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--repetitions", type=int, default=15)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder = local_bundle(None)
    scorer, plain = load_bundle(folder).teacher, load_plainly(folder)
    cases = {f"{clips} clips at hand": compare(scorer, plain, clips, arguments.repetitions) for clips in CLIPS}
    report = document("inference", cases, arguments.repetitions)
    if arguments.json:
        print(json.dumps(report))
        return
    for name, found in cases.items():
        print(f"{name}: {found['ours']} {found['unit']}, others {found['others']}, ratios {found['ratios']}")


def load_plainly(folder: Path) -> nn.Module:
    manifest = read_manifest(folder)
    network = build_network(manifest.teacher, len(manifest.labels), BUILTIN_BUILDERS)
    network.load_state_dict({name: values.float() for name, values in load_file(find_teacher(folder)).items()})
    return network.eval()


def compare(scorer: TeacherScorer, plain: nn.Module, clips: int, repetitions: int) -> dict[str, Any]:
    geometry = scorer.geometry
    shape = (clips, geometry.frames, 3, geometry.height, geometry.width)
    pixels_NTCHW = np.random.default_rng(clips).integers(0, 256, shape, dtype=np.uint8)
    ways = (partial(scorer.score, pixels_NTCHW), partial(score_plainly, plain, scorer, pixels_NTCHW))
    ours, theirs = (way() for way in ways)
    assert np.allclose(ours, theirs, atol=1e-4)
    turns = [tuple(cpu_seconds(way) / clips for way in ways) for _ in range(repetitions)]
    ours_ms, plain_ms = (1e3 * statistics.median(column) for column in zip(*turns, strict=True))
    return {
        "ours": round(ours_ms, 2),
        "others": {PLAIN: round(plain_ms, 2)},
        "unit": "CPU milliseconds of a clip",
        "ratios": {PLAIN: round(statistics.median(theirs / ours for ours, theirs in turns), 2)},
    }


def score_plainly(network: nn.Module, scorer: TeacherScorer, pixels_NTCHW: Pixels) -> np.ndarray:
    with torch.inference_mode():
        return np.asarray(network(normalise(pixels_NTCHW, scorer.spec, scorer.device)).numpy())


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


if __name__ == "__main__":
    main()
