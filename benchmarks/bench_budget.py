"""What a budget buys: accuracy where the teacher may take so much, by how the clips that it pays for are chosen.

Generated videos, the demo bundle, both models' answers to all clips taken once; then every budget is replayed from them.
``ours`` ranks the clips that the policy wants across all videos and pays for the most valuable; ``as they come`` pays in the
order of the videos until nothing is left; ``at random`` in a drawn order. The budget is given as a share of what the policy
would spend without one. Errors are standard errors of one draw of videos, sqrt(p (1 - p) / videos).
Usage: python benchmarks/bench_budget.py [--videos 300] [--seed 77] [--json]
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from document import argument_parser, document
from numpy.typing import NDArray

from cdmodel.budget import affordable
from cdmodel.bundle import DEMO_BUNDLE
from cdmodel.cascade import judge_of
from cdmodel.escalation import asking_value, next_clips
from cdmodel.models import load_bundle
from cdmodel.replay import ReplayBench, ScoredVideo, calibrate
from cdmodel.scores import BoolArray, VideoState
from storage.dataset import read_dataset
from storage.filesystem import open_store
from tasks.generate_corpus import LABELS_NAME, generate_corpus
from tasks.score_dataset import score_dataset

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
RANDOM_ORDERS = 20


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--videos", type=int, default=300)
    parser.add_argument("--seed", type=int, default=77)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cdlabel-budget-") as folder:
        cases = measure(Path(folder), arguments.videos, arguments.seed)
    report = document("budget", cases, 1)
    if arguments.json:
        print(json.dumps(report))
        return
    for name, case in cases.items():
        print(f"{name}: {case['ours']:.4f} (+- {case['standard_error']:.4f}), {case['others']}")


def measure(folder: Path, videos: int, seed: int) -> dict[str, Any]:
    """Return the accuracy at every budget, by way of choosing."""
    generate_corpus(str(folder / "videos"), videos=videos, seed=seed, distractors=0.5, on_progress=_quiet)
    dataset = read_dataset(str(folder / "videos" / LABELS_NAME))
    models = load_bundle(DEMO_BUNDLE)
    manifest = models.manifest
    scored = score_dataset(
        dataset.videos, models, manifest.sampling, open_store(str(folder / "scores")), lambda done, total: None
    )
    policy, judge = manifest.default_policy, judge_of(models, manifest.default_aggregation)
    seen = [calibrate(entry.answers, manifest.calibration, manifest.label_kind) for entry in scored.entries]
    wanted = [
        next_clips(policy, VideoState.before_the_teacher(one.video_id, _clips(one), one.student), judge) for one in seen
    ]
    value_C = np.concatenate(
        [asking_value(policy, one.student, judge)[want_N] for one, want_N in zip(seen, wanted, strict=True)]
    )
    table = ReplayBench(seen, judge, scored.context.flops)
    rng = np.random.default_rng(seed)
    cases: dict[str, Any] = {}
    for share in SHARES:
        budget = round(share * len(value_C))

        def accuracy(order_C: NDArray[np.intp], budget: int = budget) -> float:
            return table.replay_chosen(_paid_for(wanted, order_C[:budget])).accuracy

        flops = np.ones(len(value_C))
        ours = accuracy(affordable(value_C, {"teacher_flops": flops}, {"teacher_flops": budget}))
        at_random = [accuracy(rng.permutation(len(value_C))) for _ in range(RANDOM_ORDERS)]
        others = {"as they come": accuracy(np.arange(len(value_C))), "at random": float(np.mean(at_random))}
        cases[f"{share:.0%} of {len(value_C)} clips"] = {
            "ours": ours,
            "others": others,
            "unit": "share of videos labeled right",
            "standard_error": math.sqrt(ours * (1 - ours) / len(seen)),
            "ratios": {name: other / ours for name, other in others.items()},
        }
        print(f"{share:.0%}: {ours:.4f}, {others}", file=sys.stderr, flush=True)
    return cases


def _clips(video: ScoredVideo) -> int:
    return len(video.teacher.confidence_N)


def _paid_for(wanted: Sequence[BoolArray], chosen: NDArray[np.intp]) -> list[BoolArray]:
    """Return the mask of each video; ``chosen`` counts the wanted clips of all videos in a row."""
    flat = np.concatenate(wanted)
    paid = np.zeros(len(flat), dtype=np.bool_)
    paid[np.flatnonzero(flat)[chosen]] = True
    return np.split(paid, np.cumsum([len(want_N) for want_N in wanted])[:-1])


def _quiet(done: int) -> None:
    """Show nothing."""


if __name__ == "__main__":
    main()
