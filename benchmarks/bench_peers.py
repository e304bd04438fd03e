"""`cdlabel label` against plain PyAV and torch, Ray Data and Daft: CPU seconds of all processes, and wall seconds.

Every one labels the same videos with the demo bundle's networks, and shows them the same clips (``peer_clips.py``); how each of
the others does it is ``label_peers.py``. CPU time is that of the command with every process it starts (``process_tree.py``).
All take turns. In every other turn each labels a few videos too: a further video's seconds are the slope between the two
runs, start-up is what is left of the few's, and totals have both in them. Three cases:

- ``student``: the student on every clip; ours with ``dense_student`` and no audit.
- ``teacher``: the teacher on every clip; ours with ``dense_teacher`` and no audit.
- ``cascade``: the bundle's own policy with its audits, against what the others take for the teacher: what a cascade is for.
  Accuracy is told beside it, of all videos that the cascade labeled: that of the teacher on every clip, mean of the
  probabilities, from one more run of the plain loop.

Videos are generated scenes (``cdlabel generate``, 8 to 12 s of 128 x 96) unless ``--videos`` names a folder of videos, with their
labels in ``labels.csv`` if accuracy is to be told. Student and cascade get more of them than the teacher, because one video
is so little work that a difference of few would be noise.

Ray Data and Daft need an interpreter of their own, ``--peers`` or the environment variable CDLABEL_BENCH_PEERS; those that
it cannot import are named and left out. It sees this one's packages by a file of paths:

    python -m venv peers
    python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > peers/lib/python3.11/site-packages/ours.pth
    peers/bin/pip install "ray==2.60.0" "daft==0.7.26"

Ray keeps 1 GB of objects at most. All servers are on loopback and end with their command.
Usage: python benchmarks/bench_peers.py [--peers PYTHON] [--videos FOLDER] [--few 16] [--teacher-videos 64] [--student-videos 256]
    [--repetitions 5] [--only CASE ...] [--json]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from document import argument_parser, document
from process_tree import Spent, marginal_seconds, run_tree

from storage.filesystem import open_store
from storage.views import run_query
from tasks.generate_corpus import LABELS_NAME, generate_corpus

ROOT = Path(__file__).resolve().parent.parent
SEED = 31
OURS, PLAIN = "cdlabel", "plain"
CASES = ("student", "teacher", "cascade")
TITLES = {PLAIN: "plain PyAV + torch", "ray": "Ray Data", "daft": "Daft"}
POLICIES = {
    "student": ("--set=escalation.kind=dense_student", "--set=audit.share=0.0"),
    "teacher": ("--set=escalation.kind=dense_teacher", "--set=audit.share=0.0"),
    "cascade": (),
}
VIDEO_SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov")

Answers = dict[str, str]
"""Label by path."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """The videos to label."""

    folder: Path
    paths: tuple[Path, ...]
    labels: Mapping[str, str]
    """By path; empty where nobody knows them."""


@dataclass(slots=True, kw_only=True)
class Way:
    """One program on one case, and what it took so far."""

    program: str
    case: str
    label: Callable[[Sequence[Path]], tuple[Spent, Answers]]
    few: list[Spent] = field(default_factory=list)
    many: list[Spent] = field(default_factory=list)
    answers: Answers = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Medians over the turns."""

    few_cpu_seconds: float
    cpu_seconds: float
    wall_seconds: float
    further_cpu_seconds: float
    """Of one more video."""
    further_wall_seconds: float
    start_cpu_seconds: float


def main() -> None:
    arguments = parse()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        corpus = find_videos(place, arguments)
        peers = find_peers(arguments.peers)
        ways = make_ways(place, corpus, peers["found"], arguments)
        measure(ways, corpus, arguments)
        cases = report_cases(ways, arguments)
        if "cascade" in arguments.only and corpus.labels:
            videos = corpus.paths[: arguments.student_videos]
            _, teacher = label_by_peer(place, sys.executable, PLAIN, "teacher", videos)
            cases |= accuracy(ways, teacher, corpus.labels)
    report = document("peers", cases, arguments.repetitions) | peers
    report |= {"load_average": round(os.getloadavg()[0], 1), "cores": len(os.sched_getaffinity(0))}
    if arguments.json:
        print(json.dumps(report))
        return
    print(f"peers {peers}, load {report['load_average']}")
    for name, found in cases.items():
        print(f"{name}: {found['ours']} {found['unit']}, others {found['others']}, ratios {found['ratios']}")


def parse() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--peers", default=os.environ.get("CDLABEL_BENCH_PEERS", sys.executable))
    parser.add_argument("--videos", type=Path, help="folder to take the videos from")
    parser.add_argument("--few", type=int, default=16)
    parser.add_argument("--teacher-videos", type=int, default=64)
    parser.add_argument("--student-videos", type=int, default=256)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    arguments = parser.parse_args()
    if not 2 <= arguments.few < arguments.teacher_videos <= arguments.student_videos:
        parser.error("there must be fewer --few than --teacher-videos, and no more of those than --student-videos")
    return arguments


def find_videos(place: Path, arguments: argparse.Namespace) -> Corpus:
    """Return the first videos of the folder that was named, or generated ones."""
    folder = arguments.videos
    if folder is None:
        folder = place / "corpus"
        say(f"generating {arguments.student_videos} videos")
        generate_corpus(
            str(folder), videos=arguments.student_videos, seed=SEED, distractors=0.5, on_progress=lambda done: None
        )
    folder = folder.resolve()
    paths = sorted(path for path in folder.rglob("*") if path.suffix in VIDEO_SUFFIXES)[: arguments.student_videos]
    if len(paths) < arguments.student_videos:
        sys.exit(f"{folder} has {len(paths)} videos, --student-videos asks for {arguments.student_videos}")
    return Corpus(folder=folder, paths=tuple(paths), labels=read_labels(folder))


def read_labels(folder: Path) -> dict[str, str]:
    table = folder / LABELS_NAME
    if not table.exists():
        return {}
    with table.open(encoding="utf-8", newline="") as lines:
        return {str(folder / row["uri"]): row["label"] for row in csv.DictReader(lines)}


def find_peers(interpreter: str) -> dict[str, dict[str, str]]:
    """Return the versions of the peers that the interpreter has, and why it has not the others."""
    finished = subprocess.run(
        [interpreter, str(ROOT / "benchmarks/label_peers.py")],
        env=peer_environment(Path(tempfile.gettempdir())),
        capture_output=True,
        text=True,
        check=True,
    )
    peers: dict[str, dict[str, str]] = json.loads(finished.stdout)
    for peer, reason in peers["missing"].items():
        say(f"without {TITLES[peer]}: {reason}; --peers names an interpreter that has it")
    return peers


def make_ways(place: Path, corpus: Corpus, peers: Mapping[str, str], arguments: argparse.Namespace) -> list[Way]:
    """Return every program on every case that is asked for; the cascade needs what the others take for the teacher."""
    ours = Cdlabel(place, corpus.folder)
    ours.warm_up(corpus.paths[:1])
    ways = [Way(program=OURS, case=case, label=partial(ours.label, case)) for case in arguments.only]
    for case in ("student", "teacher"):
        if case in arguments.only or (case == "teacher" and "cascade" in arguments.only):
            ways += [
                Way(program=peer, case=case, label=partial(label_by_peer, place, arguments.peers, peer, case))
                for peer in peers
            ]
    return ways


class Cdlabel:
    """The command, with a Prefect of its own."""

    def __init__(self, place: Path, corpus: Path) -> None:
        self._place = place
        self._options = (f"--set=corpus.roots={json.dumps([str(corpus)])}",)
        self._environment = {
            **os.environ,
            "PREFECT_HOME": str(place / "prefect"),
            "PYTHONPATH": str(ROOT),
        }

    def warm_up(self, paths: Sequence[Path]) -> None:
        """Have Prefect create its database, which it does once on a machine."""
        self.label("student", paths)

    def label(self, case: str, paths: Sequence[Path]) -> tuple[Spent, Answers]:
        """Label the videos into a place of their own."""
        with tempfile.TemporaryDirectory(dir=self._place) as folder:
            manifest, out = Path(folder) / "videos.csv", Path(folder) / "out"
            manifest.write_text("\n".join(["uri", *map(str, paths)]) + "\n", encoding="utf-8")
            spent = run_tree(
                [
                    *(sys.executable, "-m", "flows", "label", str(manifest), "--out", str(out), "--json"),
                    *self._options,
                    *POLICIES[case],
                ],
                self._environment,
                Path(folder) / "record.json",
            )
            rows = run_query(open_store(str(out)), "select uri, label from latest").rows
            return spent, {str(uri): str(label) for uri, label in rows}


def label_by_peer(place: Path, interpreter: str, peer: str, case: str, paths: Sequence[Path]) -> tuple[Spent, Answers]:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        listed, answers = Path(folder) / "videos.txt", Path(folder) / "answers.json"
        listed.write_text("\n".join(map(str, paths)), encoding="utf-8")
        spent = run_tree(
            [interpreter, str(ROOT / "benchmarks/label_peers.py"), peer, case, str(listed), str(answers)],
            peer_environment(place),
            Path(folder) / "said.txt",
        )
        found: dict[str, list[Any]] = json.loads(answers.read_text(encoding="utf-8"))
        return spent, {path: label for path, (label, _) in found.items()}


def peer_environment(place: Path) -> dict[str, str]:
    """Return the environment of the peers, which leave nothing outside of ``place`` and tell nobody of their use."""
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}",
        "OMP_NUM_THREADS": "1",
        "HOME": str(place),
        "RAY_TMPDIR": str(place),
        "RAY_USAGE_STATS_ENABLED": "0",
        "DAFT_ANALYTICS_ENABLED": "0",
        "DO_NOT_TRACK": "1",
    }


def measure(ways: Sequence[Way], corpus: Corpus, arguments: argparse.Namespace) -> None:
    """Have all of them label the videos, in turns."""
    for turn in range(arguments.repetitions):
        for way in ways:
            if turn % 2 == 0:
                way.few.append(way.label(corpus.paths[: arguments.few])[0])
            spent, answers = way.label(corpus.paths[: videos_of(way.case, arguments)])
            missing = videos_of(way.case, arguments) - len(answers)
            if missing:
                sys.exit(f"{way.program} has no answer about {missing} videos")
            way.many.append(spent)
            way.answers = answers
            few = f"{arguments.few} videos {way.few[-1].cpu_seconds:.2f} CPU s, " if turn % 2 == 0 else ""
            say(
                f"turn {turn}, load {os.getloadavg()[0]:.1f}, {way.case}, {way.program}: {few}"
                f"{len(answers)} videos {spent.cpu_seconds:.2f} CPU s, {spent.wall_seconds:.2f} s"
            )


def videos_of(case: str, arguments: argparse.Namespace) -> int:
    return int(arguments.teacher_videos if case == "teacher" else arguments.student_videos)


def report_cases(ways: Sequence[Way], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all cases."""
    found = {(way.program, way.case): summarize(way, arguments.few, videos_of(way.case, arguments)) for way in ways}
    cases: dict[str, Any] = {}
    for case in arguments.only:
        against = "teacher" if case == "cascade" else case
        others = {program: told for (program, of), told in found.items() if of == against and program != OURS}
        cases |= compare(case, found[OURS, case], others, videos_of(case, arguments), videos_of(against, arguments))
    return cases


def compare(case: str, ours: Summary, others: Mapping[str, Summary], videos: int, others_videos: int) -> dict[str, Any]:
    """Return one case: a further video's seconds, what start-up takes, and the totals where both labeled as many."""
    name = "cascade, others the teacher" if case == "cascade" else f"{case} on every clip"
    figures: dict[str, tuple[str, Callable[[Summary], float]]] = {
        "further video": ("CPU seconds", lambda told: told.further_cpu_seconds),
        "further video, wall": ("seconds", lambda told: told.further_wall_seconds),
        "start-up": ("CPU seconds", lambda told: told.start_cpu_seconds),
    }
    if videos == others_videos:
        figures |= {
            f"all {videos} videos": ("CPU seconds, start-up included", lambda told: told.cpu_seconds),
            f"all {videos} videos, wall": ("seconds, start-up included", lambda told: told.wall_seconds),
        }
    else:
        both = f"CPU seconds, start-up included; ours of {videos} videos, others' of {others_videos}"
        figures |= {"all videos": (both, lambda told: told.cpu_seconds)}
    cases = {}
    for what, (unit, read) in figures.items():
        theirs = {TITLES[program]: read(told) for program, told in others.items()}
        cases[f"{name}: {what}"] = {
            "ours": round(read(ours), 4),
            "others": {title: round(value, 4) for title, value in theirs.items()},
            "unit": unit,
            # Of totals of different numbers of videos a ratio would say nothing.
            "ratios": {}
            if what == "all videos"
            else {title: round(value / read(ours), 2) for title, value in theirs.items()},
        }
    return cases


def summarize(way: Way, few: int, many: int) -> Summary:
    few_cpu, many_cpu = (median(spent.cpu_seconds for spent in runs) for runs in (way.few, way.many))
    few_wall, many_wall = (median(spent.wall_seconds for spent in runs) for runs in (way.few, way.many))
    further = marginal_seconds((few, few_cpu), (many, many_cpu))
    return Summary(
        few_cpu_seconds=few_cpu,
        cpu_seconds=many_cpu,
        wall_seconds=many_wall,
        further_cpu_seconds=further,
        further_wall_seconds=marginal_seconds((few, few_wall), (many, many_wall)),
        start_cpu_seconds=few_cpu - few * further,
    )


def accuracy(ways: Sequence[Way], teacher: Answers, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return how often the cascade is right, and the teacher on every clip, about the same videos."""
    [cascade] = [way.answers for way in ways if way.case == "cascade"]
    right = {path: (label == labels[path], teacher[path] == labels[path]) for path, label in cascade.items()}
    ours, theirs = (sum(pair[who] for pair in right.values()) / len(right) for who in (0, 1))
    alone = [sum(pair == only for pair in right.values()) for only in ((True, False), (False, True))]
    cases = {
        f"accuracy, {len(right)} videos": {
            "ours": round(ours, 4),
            "others": {"teacher on every clip": round(theirs, 4)},
            "unit": f"share right; {alone[0]} videos only the cascade has right, {alone[1]} only the teacher",
            "ratios": {},
        }
    }
    for case in ("student", "teacher"):
        of = [way for way in ways if way.case == case]
        if of:
            cases[f"accuracy, {case} on every clip, {len(of[0].answers)} videos"] = {
                "ours": round(share_right(next(way for way in of if way.program == OURS).answers, labels), 4),
                "others": {
                    TITLES[way.program]: round(share_right(way.answers, labels), 4) for way in of if way.program != OURS
                },
                "unit": "share right; ours with the bundle's aggregation, others' the mean of the probabilities",
                "ratios": {},
            }
    return cases


def share_right(answers: Answers, labels: Mapping[str, str]) -> float:
    return sum(label == labels[path] for path, label in answers.items()) / len(answers)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
