"""Whether the gate stops every poisoned retraining and lets the good ones pass: real students, trained and judged.

A pool of kinetic scenes is encoded, decoded and scored by the demo bundle's teacher once, and kept in --pool. Production
is a student that saw few videos. A good candidate goes on from it with more of them; a poisoned one does so too, with
something broken. Each is trained, calibrated and judged as a retraining does it, on a frozen benchmark and on
audits (truth: what the teacher of production says) that are drawn anew for every trial.

Usage: python benchmarks/gate_trials.py [--json] [--trials 20] [--seed 0] [--pool FOLDER]
"""

from __future__ import annotations

import io
import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from document import argument_parser, document
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from cdmodel.bundle import DEMO_BUNDLE
from cdmodel.bundle_fit import FittedBundle, fit_bundle, to_cached
from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.descent import Keeper
from cdmodel.encode import encode_mp4
from cdmodel.errors import TrainingError
from cdmodel.evaluation import Subject
from cdmodel.gate import BundleFacts, GateDecision, GateSettings, SetAnswers, decide
from cdmodel.gate_answers import replay_side
from cdmodel.models import CascadeModels, limit_threads, load_bundle
from cdmodel.replay import ClipFlops
from cdmodel.role_clips import ClipPixels, FitRole, RoleClips, RoleLogits
from cdmodel.scenes import FRAMES_PER_SECOND, LABELS, VIDEOS_PER_GROUP, SceneSpec, draw_scene, render
from cdmodel.teacher_judgement import CLIPS_PER_KEPT_SCORE
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import StudentSettings, TrainSettings
from cdmodel.training import score_student

BENCHMARK_VIDEOS, AUDIT_VIDEOS = 480, 360
TRAINING_VIDEOS = 960
PRODUCTION_VIDEOS, PRODUCTION_STEPS = 400, 1000
CANDIDATE_VIDEOS, CANDIDATE_STEPS = 880, 1000
ROLE_SHARES: tuple[tuple[FitRole, float], ...] = (("train", 0.5), ("conf", 0.15), ("cal", 0.3), ("test", 0.05))
AUDIT_SHARE = 0.9
"""Of the groups of audited videos: those that one trial's weeks happened to draw."""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Videos as the student sees them, and what the teacher says of every clip."""

    student_NTCHW: NDArray[np.uint8]
    teacher_NK: FloatArray
    clips_V: NDArray[np.int64]
    label_V: NDArray[np.int64]
    group_V: NDArray[np.int64]

    def rows(self, videos: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return which clips belong to the videos, one video after another."""
        ends_V = np.cumsum(self.clips_V)
        return np.concatenate([np.arange(ends_V[v] - self.clips_V[v], ends_V[v]) for v in videos])


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one bundle is trained."""

    videos: int = CANDIDATE_VIDEOS
    steps: int = CANDIDATE_STEPS
    is_new: bool = False
    """Whether its student starts from scratch, not from production's."""
    learning_rate: float = 0.004
    shuffled: float = 0.0
    """Share of the training videos whose labels are dealt out anew."""
    missing: tuple[int, ...] = ()
    """Classes of which no video is left."""
    teacher: str = "sound"
    """Or how its head is broken."""
    student: str = "sound"
    """Or how its weights are broken after the training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A bundle in memory."""

    facts: BundleFacts
    fitted: FittedBundle
    teacher_KK: FloatArray
    """Multiplies the sound teacher's logits: what a broken head makes of them."""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--trials", type=int, default=20, help="good ones, and as many poisoned ones")
    parser.add_argument("--first", type=int, default=0, help="number of the first pair; a long run can be shared out")
    parser.add_argument("--seed", type=int, default=0, help="of the division of the pool and of every trial")
    parser.add_argument("--scenes", type=int, default=0, help="seed of the scenes of the pool")
    parser.add_argument("--pool", type=Path, default=Path("benchmarks/results/gate_pool"))
    arguments = parser.parse_args()
    limit_threads(1)
    started = time.process_time()
    pool = load_pool(arguments.pool, arguments.scenes)
    pooled = time.process_time() - started
    numbers = range(2 * arguments.first, 2 * (arguments.first + arguments.trials))
    trials = run_trials(pool, numbers, arguments.seed, quiet=arguments.json)
    stopped = sum(not trial["promoted"] for trial in trials if trial["poison"])
    passed = sum(bool(trial["promoted"]) for trial in trials if not trial["poison"])
    cases = {
        "poisoned cycles stopped": {"ours": stopped, "others": {}, "unit": f"of {arguments.trials}", "ratios": {}},
        "good cycles promoted": {"ours": passed, "others": {}, "unit": f"of {arguments.trials}", "ratios": {}},
    }
    report = document("gate_trials", cases, arguments.trials, f"{platform.machine()}, one thread") | {
        "seed": arguments.seed,
        "scenes": arguments.scenes,
        "cpu_seconds": {"pool": round(pooled), "trials": round(time.process_time() - started - pooled)},
        "trials": trials,
    }
    if arguments.json:
        print(json.dumps(report))
        return
    print(
        f"poisoned cycles stopped: {stopped} of {arguments.trials}; good ones promoted: {passed} of {arguments.trials}"
    )
    print(f"CPU seconds: {report['cpu_seconds']}")


def load_pool(folder: Path, seed: int) -> Pool:
    """Return the pool of a seed, made once; scene i is always the same."""
    file = folder / f"pool-{seed}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        models = load_bundle(DEMO_BUNDLE)
        videos = TRAINING_VIDEOS + BENCHMARK_VIDEOS + AUDIT_VIDEOS
        np.savez(file, **asdict(make_pool(models, videos, 1000 + seed)))
    with np.load(file) as kept:
        return Pool(**kept)


def make_pool(models: CascadeModels, videos: int, seed: int, distractors: float = 0.5) -> Pool:
    """Generate, encode, decode, and let the teacher look at every clip."""
    spec = SceneSpec(seed=seed, distractors=distractors)
    views = (models.student.geometry, models.teacher.geometry)
    pixels, logits, clips, labels, groups = [], [], [], [], []
    for index in range(videos):
        scene = draw_scene(spec, index)
        content = encode_mp4(render(scene), FRAMES_PER_SECOND)
        reader = ClipReader(io.BytesIO(content), str(index), models.manifest.sampling, DecodeLimits())
        batches = list(reader.read_views(views))
        pixels += [small.to_host() for small, _ in batches]
        logits += [models.teacher.score(large.pixels_NTCHW) for _, large in batches]
        clips.append(sum(len(small.spans) for small, _ in batches))
        labels.append(LABELS.index(scene.label))
        groups.append(int(scene.group[1:]))
    return Pool(
        student_NTCHW=np.concatenate(pixels),
        teacher_NK=np.concatenate(logits),
        clips_V=np.array(clips),
        label_V=np.array(labels),
        group_V=np.array(groups),
    )


def run_trials(pool: Pool, numbers: Sequence[int], seed: int, *, quiet: bool) -> list[dict[str, object]]:
    """Train production, then judge a poisoned candidate for every even number and a good one for every odd one."""
    random = np.random.default_rng((seed, 1))
    training, benchmark, audits = np.split(random.permutation(np.unique(pool.group_V)), group_ends())
    models = load_bundle(DEMO_BUNDLE)
    flops = ClipFlops(student=models.student.flops_per_clip, teacher=models.teacher.flops_per_clip)
    recipe = Recipe(videos=PRODUCTION_VIDEOS, steps=PRODUCTION_STEPS, is_new=True)
    production = train(pool, training, recipe, random, "m-production")
    found: list[dict[str, object]] = []
    for number in numbers:
        random = np.random.default_rng((seed, 2, number))
        name, recipe = ("", Recipe()) if number % 2 else poison(number // 2, random)
        weeks = random.choice(audits, round(AUDIT_SHARE * len(audits)), replace=False)
        started = time.process_time()
        try:
            candidate = train(pool, training, recipe, random, f"m-{number:012d}", production)
        except TrainingError as error:
            trial = {"poison": name, "promoted": False, "stopped_by": "training", "reason": str(error)}
        else:
            decision = judge(pool, candidate, production, np.sort(benchmark), np.sort(weeks), flops)
            trial = {"poison": name, "promoted": decision.promoted, **describe(decision)}
        found.append({"trial": number, **trial, "cpu_seconds": round(time.process_time() - started, 1)})
        if not quiet:
            print(json.dumps(found[-1]), flush=True)
    return found


def group_ends() -> list[int]:
    """Return the group after the last of the training videos, and that after the last of the benchmark."""
    return [TRAINING_VIDEOS // VIDEOS_PER_GROUP, (TRAINING_VIDEOS + BENCHMARK_VIDEOS) // VIDEOS_PER_GROUP]


def poison(number: int, random: np.random.Generator) -> tuple[str, Recipe]:
    """Return one of the ways in which a cycle goes wrong, all of them in turn."""
    sound = Recipe()
    missing = (int(random.integers(len(LABELS))),)
    kinds = (
        ("all labels shuffled", replace(sound, shuffled=1.0)),
        ("teacher broken: its outputs permuted", replace(sound, teacher="permuted")),
        ("one class missing", replace(sound, missing=missing)),
        ("learning rate too high", replace(sound, learning_rate=float(random.choice([0.3, 0.6, 0.9])))),
        ("most labels shuffled", replace(sound, shuffled=0.7)),
        ("teacher broken: its outputs mixed", replace(sound, teacher="mixed")),
        ("hardly trained, from scratch", replace(sound, steps=2, is_new=True)),
        ("teacher broken: some outputs dead", replace(sound, teacher="dead")),
        ("student's weights damaged after the training", replace(sound, student="damaged")),
    )
    return kinds[number % len(kinds)]


def train(
    pool: Pool,
    groups: NDArray[np.int64],
    recipe: Recipe,
    random: np.random.Generator,
    model_version: str,
    production: Trained | None = None,
) -> Trained:
    """Train a student on some groups of the pool as ``cdlabel train`` does, beside the teacher as it is."""
    teacher_KK = broken_head(recipe.teacher, random)
    chosen = random.permutation(groups)[: recipe.videos // VIDEOS_PER_GROUP]
    roles: dict[FitRole, RoleClips] = {}
    logits: dict[str, FloatArray] = {}
    first = 0
    for place, (role, share) in enumerate(ROLE_SHARES):
        end = len(chosen) if place == len(ROLE_SHARES) - 1 else first + round(share * len(chosen))
        videos = np.flatnonzero(np.isin(pool.group_V, chosen[first:end]) & ~np.isin(pool.label_V, recipe.missing))
        label_V = pool.label_V[videos].copy()
        dealt = random.random(len(label_V)) < recipe.shuffled
        label_V[dealt] = random.permutation(label_V[dealt])
        roles[role] = role_clips(pool, videos, label_V)
        logits[role] = pool.teacher_NK[pool.rows(videos)] @ teacher_KK
        first = end
    settings = TrainSettings(
        seed=int(random.integers(2**31)),
        teacher=TeacherSettings(weights=str(DEMO_BUNDLE), learn="nothing"),
        student=StudentSettings(steps=recipe.steps, learning_rate=recipe.learning_rate),
    )
    start = None if production is None or recipe.is_new else production.fitted.networks.student
    keeper = Keeper(checkpoints=KnownAnswers(logits, start), every_seconds=1e9)
    fitted = fit_bundle(roles, LABELS, settings, lambda progress: None, keeper)
    if recipe.student == "damaged":
        for parameter in fitted.networks.student.parameters():
            noise = random.normal(size=tuple(parameter.shape)).astype(np.float32)
            parameter.data += float(parameter.data.std(correction=0)) * parameter.data.new_tensor(noise)
    shown_K = roles["train"].truth_VK.any(axis=0)
    untaught = tuple(label for label, shown in zip(LABELS, shown_K, strict=True) if not shown)
    facts = BundleFacts(model_version=model_version, labels=LABELS, label_kind="single", untaught=untaught)
    return Trained(facts=facts, fitted=fitted, teacher_KK=teacher_KK)


class KnownAnswers:
    """Checkpoints that hold the teacher's answers, so that a training need not run it, and the student at its start."""

    def __init__(self, logits: Mapping[str, FloatArray], start: nn.Module | None) -> None:
        self._logits = logits
        self._start = start

    def read(self, name: str) -> bytes | None:
        """Return a piece of the teacher's answers to a role, or where the student's training starts."""
        if name == "student.safetensors" and self._start is not None:
            state = {f"network.{key}": tensor.contiguous() for key, tensor in self._start.state_dict().items()}
            return save({**state, "step": torch.tensor(0)})
        if not name.startswith("logits-teacher-"):
            return None
        role, start = name.removeprefix("logits-teacher-").removesuffix(".npy").rsplit("-", 1)
        buffer = io.BytesIO()
        np.save(buffer, self._logits[role][int(start) : int(start) + CLIPS_PER_KEPT_SCORE])
        return buffer.getvalue()

    def write(self, name: str, content: bytes) -> None:
        """Keep nothing: a trial is not resumed."""


def broken_head(how: str, random: np.random.Generator) -> FloatArray:
    """Return what turns the logits of the sound teacher into those of one with a broken last layer."""
    classes = len(LABELS)
    whole = np.eye(classes, dtype=np.float32)
    match how:
        case "permuted":
            return whole[np.roll(np.arange(classes), int(random.integers(1, classes)))]
        case "mixed":
            return (0.3 * whole + random.normal(size=whole.shape) / np.sqrt(classes)).astype(np.float32)
        case "dead":
            whole[:, random.permutation(classes)[:4]] = 0.0
            return whole
        case _:
            return whole


def role_clips(pool: Pool, videos: NDArray[np.int64], label_V: NDArray[np.int64]) -> RoleClips:
    pixels = pool.student_NTCHW[pool.rows(videos)]
    return RoleClips(
        student_NTCHW=pixels,
        teacher_NTCHW=np.empty((len(pixels), 1, 1, 1, 1), dtype=np.uint8),
        truth_VK=np.eye(len(LABELS), dtype=np.bool_)[label_V],
        clips_V=pool.clips_V[videos],
        groups=tuple(f"g{group:05d}" for group in pool.group_V[videos]),
        videos=tuple(f"scene-{video:05d}" for video in videos),
    )


def judge(
    pool: Pool,
    candidate: Trained,
    production: Trained,
    benchmark: NDArray[np.int64],
    audits: NDArray[np.int64],
    flops: ClipFlops,
    settings: GateSettings | None = None,
) -> GateDecision:
    """Put both to the sets and decide."""
    of_benchmark = np.flatnonzero(np.isin(pool.group_V, benchmark))
    of_audits = np.flatnonzero(np.isin(pool.group_V, audits))
    dense_V = np.array(
        [mean_probability(pool.teacher_NK[pool.rows(of_audits[v : v + 1])]).argmax() for v in range(len(of_audits))]
    )
    sets: Sequence[SetAnswers] = [
        SetAnswers(
            name=name,
            groups=tuple(f"g{group:05d}" for group in pool.group_V[videos]),
            labels=tuple((LABELS[label],) for label in label_V),
            candidate=side(pool, candidate, videos, label_V, flops),
            production=side(pool, production, videos, label_V, flops),
            videos_unreadable=0,
        )
        for name, videos, label_V in (
            ("benchmark", of_benchmark, pool.label_V[of_benchmark]),
            ("audits", of_audits, dense_V),
        )
    ]
    return decide(candidate.facts, production.facts, sets, settings or GateSettings())


def side(pool: Pool, trained: Trained, videos: NDArray[np.int64], label_V: NDArray[np.int64], flops: ClipFlops):
    clips = role_clips(pool, videos, label_V)
    networks, decisions = trained.fitted.networks, trained.fitted.decisions
    output = score_student(networks.student, networks.student_spec, ClipPixels.of(clips.student_NTCHW))
    logits = RoleLogits(
        student_NK=output.logits_NK.numpy(),
        q_teacher_N=output.q_teacher_logit_N.numpy(),
        q_student_N=output.q_student_logit_N.numpy(),
        teacher_NK=pool.teacher_NK[pool.rows(videos)] @ trained.teacher_KK,
    )
    subject = Subject(
        model_version=trained.facts.model_version,
        label_kind="single",
        calibration=decisions.calibration,
        policy=decisions.policy,
        aggregation=decisions.aggregation,
        flops=flops,
        risk=None,
    )
    return replay_side(to_cached(clips, logits), subject)


def mean_probability(logits_NK: FloatArray) -> NDArray[np.float64]:
    odds_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True), dtype=np.float64)
    return (odds_NK / odds_NK.sum(axis=1, keepdims=True)).mean(axis=0)


def describe(decision: GateDecision) -> dict[str, object]:
    """Return the reason, and the figures that matter for the margins."""
    failed = sorted({check.name.split(":")[0] for check in decision.checks if check.decides and not check.passed})
    return {
        "verdict": decision.verdict,
        "route": decision.route,
        "stopped_by": ", ".join(failed),
        "reason": decision.reason,
        "figures": {
            f"{check.name} ({check.on})": None if check.value is None else round(check.value, 4)
            for check in decision.checks
            if "class:" not in check.name
        },
    }


if __name__ == "__main__":
    main()
