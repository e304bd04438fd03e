"""A year of the learning loop in weeks, on generated videos whose world changes at known weeks; with the loop and without.

Every week brings videos that nobody has seen. They are labeled as ``cdlabel label`` labels them, a share of them is audited,
and every fourth week the loop turns: examples are collected from the tables, a candidate is trained, judged and, if it
passes, promoted. The teacher never changes. The world does: other backgrounds from week 12, motions half as fast again from
week 24, and from week 36 one class that nobody had seen. Each week the share of videos on which the cascade agrees with the
teacher on every clip, and the share of clips it asks the teacher about, for the loop and for the first bundle left alone.

Not timed: everything runs in this process, so that a year takes minutes; what Prefect and Dask add is tested elsewhere.
Usage: python benchmarks/simulate_year.py [--seeds 0 1 2] [--weeks 52] [--videos 24] [--audit 0.5] [--folder DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import torch
from document import argument_parser, document

from cdmodel.audit_draw import AuditSettings
from cdmodel.bundle import DEMO_BUNDLE
from cdmodel.decode_limits import DecodeLimits
from cdmodel.encode import encode_mp4
from cdmodel.example_settings import CollectSettings
from cdmodel.models import CascadeModels, load_bundle
from cdmodel.policies import DenseTeacher
from cdmodel.replay import calibrate, replay
from cdmodel.scenes import FRAMES_PER_SECOND, SceneSpec, draw_scene, render
from cdmodel.score_entry import ScoredEntry
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import StudentSettings, TrainSettings
from cdmodel.types import LabeledVideo, VideoRef
from storage.filesystem import open_store
from storage.registry import open_registry
from storage.run_store import iter_shards
from storage.uri import video_id_of
from tasks.evaluate_bundle import subject_of
from tasks.finish_run import publish_and_record
from tasks.label_shard import LabelingSpec, label_shard
from tasks.plan_run import open_run
from tasks.record_cycle import record_cycle
from tasks.retrain_cycle import CoolingDown, collect, judge, open_cycle, promote, train
from tasks.retrain_request import RetrainRequest, RetrainSettings
from tasks.run_request import LabelingPlan, RunRequest
from tasks.score_dataset import score_one
from tasks.train_bundle import train_bundle
from tasks.worker_models import WorkerModels

WEEKS_PER_CYCLE = 4
BACKGROUND_WEEK, MOTION_WEEK, CLASS_WEEK = 12, 24, 36
NEW_CLASS = "circle_cw"
FIRST_VIDEOS, BENCHMARK_VIDEOS = 240, 160
MOST_EXAMPLES = 240
"""Of the tables, beside those of the first data set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Week:
    """What one week showed."""

    week: int
    agreement: float
    escalated_share: float
    agreement_off: float
    escalated_share_off: float
    model_version: str
    event: str
    """What became of the cycle that ended the week, if one did."""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weeks", type=int, default=52)
    parser.add_argument("--videos", type=int, default=24)
    parser.add_argument("--audit", type=float, default=0.5)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    years = {}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as scratch:
            folder = (arguments.folder or Path(scratch)) / f"seed-{seed}"
            years[seed] = live(folder, seed, arguments)
    report = document("year", cases(years), len(arguments.seeds))
    report["weeks"] = {seed: [asdict(week) for week in weeks] for seed, weeks in years.items()}
    print(json.dumps(report) if arguments.json else as_text(report))


def live(folder: Path, seed: int, arguments: argparse.Namespace) -> list[Week]:
    """Live one year and return its weeks."""
    folder.mkdir(parents=True)
    first, benchmark = prepare(folder, seed)
    registry = folder / "models"
    open_registry(str(registry), create=True)
    added = open_registry(str(registry)).add(first)
    open_registry(str(registry)).move(
        "production", added.model_version, after=0, moved_by="year", reason="the first", metrics={}
    )
    settings = RetrainSettings(
        registry=str(registry),
        benchmark=str(benchmark),
        collect=CollectSettings(base=str(folder / "first" / "labels.csv"), max_videos=MOST_EXAMPLES),
    )
    alone = load_bundle(first)
    weeks: list[Week] = []
    for week in range(arguments.weeks):
        videos = write_week(folder / "videos" / f"week-{week:02d}", world(seed, week), arguments.videos)
        bundle = bundle_of(registry)
        label_week(folder / "videos" / f"week-{week:02d}", videos, folder / "out", bundle, arguments.audit)
        event = turn(folder, settings, seed) if week % WEEKS_PER_CYCLE == WEEKS_PER_CYCLE - 1 else ""
        weeks.append(look(week, videos, load_bundle(bundle), alone, event))
        print(f"seed {seed} {weeks[-1]}", file=sys.stderr, flush=True)
    return weeks


def world(seed: int, week: int) -> SceneSpec:
    """Return what videos of a week are like."""
    return SceneSpec(
        seed=1_000_000 + 1000 * seed + week,
        backdrop="stripes" if week >= BACKGROUND_WEEK else "clutter",
        vigour=1.5 if week >= MOTION_WEEK else 1.0,
        absent_labels=() if week >= CLASS_WEEK else (NEW_CLASS,),
    )


def prepare(folder: Path, seed: int) -> tuple[Path, Path]:
    """Train the first bundle on the world as it begins, and write the benchmark: that world, with true labels."""
    spec = SceneSpec(seed=900_000 + seed, absent_labels=(NEW_CLASS,))
    learned = write_labeled(folder / "first", spec, FIRST_VIDEOS)
    yardstick = SceneSpec(seed=800_000 + seed, absent_labels=(NEW_CLASS,))
    benchmark = write_labeled(folder / "benchmark", yardstick, BENCHMARK_VIDEOS)
    settings = TrainSettings(
        seed=seed,
        teacher=TeacherSettings(weights=str(DEMO_BUNDLE), learn="nothing"),
        student=StudentSettings(steps=1500),
    )
    train_bundle(str(learned), str(folder / "bundle"), settings, keep_quiet)
    return folder / "bundle", benchmark


def turn(folder: Path, settings: RetrainSettings, seed: int) -> str:
    """Turn the loop once and say what came of it."""
    now = datetime.now(UTC)
    request = RetrainRequest(out=str(folder / "out"), settings=settings, reason="the fourth week")
    cycle = open_cycle(request, now)
    assert not isinstance(cycle, CoolingDown)
    collect(cycle)
    candidate = train(cycle, folder / "work", keep_quiet)
    decision = judge(cycle, candidate, keep_quiet)
    outcome = promote(cycle, candidate, decision, "year", now)
    record_cycle(cycle, candidate, decision, outcome)
    return f"{outcome.ending}: {outcome.reason}"


def bundle_of(registry: Path) -> Path:
    """Return the folder of what is in production."""
    models = open_registry(str(registry))
    current = models.current("production")
    assert current is not None
    return Path(models.bundle_uri(current.model_version))


def label_week(folder: Path, videos: Sequence[LabeledVideo], out: Path, bundle: Path, audit_share: float) -> None:
    """Label what came this week as a run does, shard by shard."""
    manifest = folder / "manifest.csv"
    rows = "\n".join(f"{Path(video.video.uri).name},{video.group}" for video in videos)
    manifest.write_text(f"uri,group\n{rows}\n")
    audit = AuditSettings(share=audit_share)
    config = {"audit": {"share": audit_share}, "source": str(manifest), "out": str(out)}
    plan = open_run(RunRequest(source=str(manifest), out=str(out), bundle=str(bundle), config_toml=json.dumps(config)))
    assert isinstance(plan, LabelingPlan)
    header = plan.header
    spec = LabelingSpec(
        out=str(out),
        run_id=header.run_id,
        launch_id=uuid4().hex[:12],
        run_date=header.run_date,
        corpus=header.corpus,
        fingerprint=header.fingerprint,
        models=WorkerModels(
            bundle=str(bundle), model_version=header.model_version, allowed_builders=(), model_threads=None
        ),
        sampling=plan.sampling,
        cascade=plan.cascade,
        limits=DecodeLimits(isolated=False),
        prices=None,
        audit=audit,
    )
    for shard in iter_shards(open_store(str(out)), header.run_id):
        label_shard(shard, spec)
    publish_and_record(str(out), header.run_id, config_json=json.dumps(config), code_version=version("cdlabel"))


def look(week: int, videos: Sequence[LabeledVideo], on: CascadeModels, off: CascadeModels, event: str) -> Week:
    """Measure both bundles on all videos of the week, by replay, which is what a run would have done."""
    scored = score(videos, on, {})
    agreement, share = measure(scored, on)
    # The teacher is the same: what it said need not be asked again.
    rest = scored if on.model_version == off.model_version else score(videos, off, scored)
    agreement_off, share_off = measure(rest, off)
    return Week(
        week=week,
        agreement=agreement,
        escalated_share=share,
        agreement_off=agreement_off,
        escalated_share_off=share_off,
        model_version=on.model_version,
        event=event,
    )


def score(
    videos: Sequence[LabeledVideo], models: CascadeModels, known: dict[str, ScoredEntry]
) -> dict[str, ScoredEntry]:
    """Return what both models say of the videos, by uri."""
    sampling = models.manifest.sampling
    return {video.video.uri: score_one(video, models, sampling, known.get(video.video.uri)) for video in videos}


def measure(entries: dict[str, ScoredEntry], models: CascadeModels) -> tuple[float, float]:
    """Return the agreement of the bundle's cascade with its dense teacher, and its escalated share of clips."""
    manifest, subject = models.manifest, subject_of(models)
    scored = [calibrate(entry.answers, manifest.calibration, manifest.label_kind) for entry in entries.values()]
    cascade = replay(subject.policy, subject.judge, scored, subject.flops)
    dense = replay(DenseTeacher(), subject.judge, scored, subject.flops)
    same = cascade.probabilities_VK.argmax(axis=1) == dense.probabilities_VK.argmax(axis=1)
    return float(same.mean()), float(cascade.escalated_share)


def write_week(folder: Path, spec: SceneSpec, videos: int) -> list[LabeledVideo]:
    """Write the videos of a week, each with its true label, which nobody is told."""
    folder.mkdir(parents=True)
    written = []
    for index in range(videos):
        scene = draw_scene(spec, index)
        path = folder / f"{index:04d}.mp4"
        path.write_bytes(encode_mp4(render(scene), FRAMES_PER_SECOND))
        video = VideoRef(video_id=video_id_of(str(path)), uri=str(path), video_version="1", size_bytes=None)
        group = f"{spec.seed}-{scene.group}"
        written.append(LabeledVideo(video=video, labels=(scene.label,), group=group, split="test"))
    return written


def write_labeled(folder: Path, spec: SceneSpec, videos: int) -> Path:
    """Write videos and their true labels, and return the manifest."""
    written = write_week(folder, spec, videos)
    rows = "\n".join(f"{Path(one.video.uri).name},{one.labels[0]},{one.group}" for one in written)
    manifest = folder / "labels.csv"
    manifest.write_text(f"uri,label,group\n{rows}\n")
    return manifest


def keep_quiet(progress: Any) -> None:
    """Stand in for nobody who looks."""


def cases(years: dict[int, list[Week]]) -> dict[str, Any]:
    """Return, for the weeks before and after each change, both agreements and both shares, over all seeds."""
    found: dict[str, Any] = {}
    for name, first, last in spans(max(len(weeks) for weeks in years.values())):
        part = [week for weeks in years.values() for week in weeks if first <= week.week < last]
        if not part:
            continue
        for figure, unit in (("agreement", "share of videos"), ("escalated_share", "share of clips")):
            on = float(np.mean([getattr(week, figure) for week in part]))
            off = float(np.mean([getattr(week, f"{figure}_off") for week in part]))
            found[f"{name}, weeks {first} to {last - 1}: {figure}"] = {
                "ours": round(on, 4),
                "others": {"without the loop": round(off, 4)},
                "unit": unit,
                "ratios": {"without the loop": round(off / on, 3) if on else None},
            }
    return found


def spans(weeks: int) -> list[tuple[str, int, int]]:
    """Return name, first week and the week after the last: each change's first, second and third cycle."""
    found = [("before", 0, BACKGROUND_WEEK)]
    for name, start, end in (
        ("backgrounds", BACKGROUND_WEEK, MOTION_WEEK),
        ("motions", MOTION_WEEK, CLASS_WEEK),
        ("new class", CLASS_WEEK, weeks),
    ):
        cycles = range(start, end, WEEKS_PER_CYCLE)
        found += [
            (f"{name}, cycle {number}", first, min(first + WEEKS_PER_CYCLE, end)) for number, first in enumerate(cycles)
        ]
    return found


def as_text(report: dict[str, Any]) -> str:
    """Return one line for each case."""
    return "\n".join(
        f"{name}: {case['ours']} with the loop, {case['others']['without the loop']} without"
        for name, case in report["cases"].items()
    )


if __name__ == "__main__":
    main()
