"""Whether what ``cdlabel choose`` offers is wrong more often than what chance would.

Generated videos are labeled by the demo bundle, as a night does it; their truth is known. A case counts how many videos have
to be looked at for one wrong label: ``ours`` among the chosen, ``at random`` among all that may be learned from, exactly, so
that only the draw of videos is left to chance. The ratio random / ours is how much oftener the chosen are wrong.
``best`` would look at wrong videos alone, as far as there are any.
Usage: python benchmarks/bench_active_choice.py [--videos 150] [--choose 15] [--seeds 3] [--json]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from document import argument_parser, document

from cdmodel.example_selection import LEARNED, role_of
from storage.dataset import read_dataset
from storage.filesystem import open_store
from storage.views import run_query
from tasks.choose_videos import Labeler, choose_videos
from tasks.generate_corpus import LABELS_NAME, generate_corpus

LABELED = 'select uri, label, coalesce(source_group, uri) as "group" from latest where label is not null'


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--videos", type=int, default=150)
    parser.add_argument("--choose", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    cases: dict[str, Any] = {}
    for seed in range(arguments.seeds):
        with tempfile.TemporaryDirectory(prefix="cdlabel-choice-") as folder:
            cases |= measure(Path(folder), arguments.videos, arguments.choose, seed)
    if arguments.json:
        print(json.dumps(document("active_choice", cases, arguments.seeds)))
        return
    for name, case in cases.items():
        print(f"{name}: {case}")


def measure(folder: Path, videos: int, choose: int, seed: int) -> dict[str, Any]:
    """Return one case for each who might label, of one generated night."""
    generate_corpus(str(folder / "corpus"), videos=videos, seed=100 + seed, distractors=0.5, on_progress=lambda _: None)
    manifest, out = str(folder / "corpus" / LABELS_NAME), str(folder / "out")
    command = [
        sys.executable,
        "-m",
        "flows",
        "label",
        manifest,
        "--out",
        out,
        "--workers",
        "1",
        "--set",
        "audit.share=0",
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    truth = {one.video.uri: one.labels[0] for one in read_dataset(manifest).videos}
    offered = [
        (uri, label) for uri, label, group in run_query(open_store(out), LABELED).rows if role_of(group) in LEARNED
    ]
    at_random = float(np.mean([label != truth[uri] for uri, label in offered]))
    wrong = round(at_random * len(offered))
    cases = {}
    kinds: tuple[Labeler, ...] = ("hand", "teacher")
    for by in kinds:
        chosen = choose_videos(out, choose, by).rows
        share = float(np.mean([guess != truth[uri] for _, uri, _, guess, *_ in chosen]))
        cases[f"by {by}, seed {seed}"] = {
            "ours": round(1 / share, 3) if share else None,
            "others": {"at random": round(1 / at_random, 3), "best": round(len(chosen) / min(wrong, len(chosen)), 3)},
            "unit": "videos looked at for one wrong label",
            "ratios": {"at random": round(share / at_random, 2)},
            "wrong": {
                "chosen": f"{round(share * len(chosen))} of {len(chosen)}",
                "offered": f"{wrong} of {len(offered)}",
            },
        }
    return cases


if __name__ == "__main__":
    main()
