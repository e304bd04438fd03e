"""A year of the learning loop in weeks, on generated videos whose world changes at known weeks; with the loop and without.

Every week brings new videos, each a recording of its own. The bundle in production labels them, the teacher audits them (all
sixty: of 60 000 a week that would be one in a thousand), and every fourth week the loop turns: examples are selected from
the audits of the last twelve weeks, a candidate is trained from the student in production, judged by the gate on a frozen
benchmark and on audits, and promoted or not. The teacher never
changes. The world does: other backgrounds from week 12, motions half as fast again from week 24, and from week 36 one class
that nobody had seen. Each week the share of videos on which the cascade agrees with the teacher on every clip, and the
share of clips that it asks the teacher about, for the loop and for the first bundle left alone.

Selection, training, calibration, replay and gate are the product's own; tables, registry and flows are left out (tests have
them), and videos are encoded, decoded and shown to the teacher once, in a pool that the years draw from. Nothing is timed.
Usage: python benchmarks/simulate_year.py [--seeds 0 1 2] [--pool FOLDER] [--only-pool NUMBER] [--json] [--plot FILE]
Seeds may be lived in processes of their own, with --json, and their documents be put together: --join FILE ...
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from document import argument_parser, document
from gate_trials import KnownAnswers, Pool, Trained, mean_probability, role_clips, side
from matplotlib import pyplot
from numpy.typing import NDArray

from cdmodel.bundle import DEMO_BUNDLE
from cdmodel.bundle_fit import fit_bundle, to_cached
from cdmodel.decode import ClipReader
from cdmodel.decode_limits import DecodeLimits
from cdmodel.descent import Keeper
from cdmodel.encode import encode_mp4
from cdmodel.example_selection import Example, LabeledRow, role_of, select_examples
from cdmodel.example_settings import CollectSettings
from cdmodel.gate import BundleFacts, GateDecision, GateSettings, SetAnswers, decide
from cdmodel.models import limit_threads, load_bundle
from cdmodel.replay import ClipFlops, Replay, calibrate, replay
from cdmodel.role_clips import ClipPixels, FitRole, RoleClips, RoleLogits
from cdmodel.scenes import FRAMES_PER_SECOND, LABELS, VIDEOS_PER_GROUP, SceneSpec, draw_scene, render
from cdmodel.teacher_source import TeacherSettings
from cdmodel.train_settings import StudentSettings, TrainSettings
from cdmodel.training import score_student

WEEKS, WEEKS_PER_CYCLE, VIDEOS_PER_WEEK = 52, 4, 60
FIRST_VIDEOS, BENCHMARK_VIDEOS = 400, 320
AUDIT_SHARE = 1.0
WEEKS_KEPT = 12
"""What was labeled before is neither learned from nor judged by; the first world's videos stay."""
NEW_CLASS = "circle_cw"
PHASES: tuple[tuple[str, int, SceneSpec], ...] = (
    ("before", 0, SceneSpec(seed=9000, absent_labels=(NEW_CLASS,))),
    ("backgrounds", 12, SceneSpec(seed=9001, absent_labels=(NEW_CLASS,), backdrop="stripes")),
    ("motions", 24, SceneSpec(seed=9002, absent_labels=(NEW_CLASS,), backdrop="stripes", vigour=1.5)),
    ("new class", 36, SceneSpec(seed=9003, backdrop="stripes", vigour=1.5)),
)
"""Name, first week and world."""
COLLECT = CollectSettings(max_videos=1200)
GATE = GateSettings(accuracy_margin=0.05, min_groups=60, untaught_labels=(NEW_CLASS,))
"""As it is by default, but for what 320 videos can tell, for audits that are too few to tell anything, and for a class that
is not to be seen for most of the year."""


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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the weeks' draws and of training")
    parser.add_argument("--pool", type=Path, default=Path("benchmarks/results/year_pool"))
    parser.add_argument("--only-pool", type=int, help="make the pool of this phase and no more")
    parser.add_argument("--join", type=Path, nargs="+", help="documents of some seeds each, instead of living them")
    parser.add_argument("--plot", type=Path, help="draw the weeks to this file")
    arguments = parser.parse_args()
    limit_threads(1)
    if arguments.only_pool is not None:
        load_pool(arguments.pool, arguments.only_pool)
        return
    if arguments.join:
        years = read_years(arguments.join)
    else:
        pools = [load_pool(arguments.pool, phase) for phase in range(len(PHASES))]
        years = {seed: Year(pools, seed).live() for seed in arguments.seeds}
    if arguments.plot:
        draw(years, arguments.plot)
    report = document("year", cases(years), len(years))
    report["weeks"] = {seed: [asdict(week) for week in weeks] for seed, weeks in years.items()}
    print(json.dumps(report) if arguments.json else as_text(report))


def read_years(files: Sequence[Path]) -> dict[int, list[Week]]:
    """Return the weeks of several documents, by seed."""
    documents = [json.loads(file.read_text()) for file in files]
    return {
        int(seed): [Week(**week) for week in weeks] for found in documents for seed, weeks in found["weeks"].items()
    }


def draw(years: dict[int, list[Week]], file: Path) -> None:
    """Draw agreement and escalated share over the weeks, means of four weeks and all seeds, and where the world changed."""
    figure, axes = pyplot.subplots(2, 1, sharex=True, figsize=(9, 6), layout="constrained")
    for axis, name, title in (
        (axes[0], "agreement", "agreement with the dense teacher"),
        (axes[1], "escalated_share", "clips asked about"),
    ):
        for suffix, label, colour in (("", "with the loop", "tab:blue"), ("_off", "without", "tab:orange")):
            by_seed = np.array([[getattr(week, name + suffix) for week in weeks] for weeks in years.values()])
            by_cycle = by_seed.reshape(len(years), -1, WEEKS_PER_CYCLE).mean(axis=2)
            middles = np.arange(by_cycle.shape[1]) * WEEKS_PER_CYCLE + (WEEKS_PER_CYCLE - 1) / 2
            for seed in by_cycle:
                axis.plot(middles, seed, color=colour, alpha=0.3, linewidth=1)
            axis.plot(middles, by_cycle.mean(axis=0), color=colour, marker="o", label=label)
        for phase, start, _ in PHASES[1:]:
            axis.axvline(start - 0.5, color="grey", linestyle=":")
            axis.annotate(phase, (start, 0.02), xycoords=("data", "axes fraction"), color="grey")
        axis.set_ylabel(title)
    axes[0].legend()
    axes[1].set_xlabel("week")
    figure.savefig(file, dpi=110)


def load_pool(folder: Path, phase: int) -> Pool:
    """Return the videos of a phase, made once."""
    file = folder / f"phase-{phase}.npz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.savez(file, **asdict(make_pool(PHASES[phase][2], videos_of(phase))))
    with np.load(file) as kept:
        return Pool(**kept)


def videos_of(phase: int) -> int:
    """Return how many videos the weeks of a phase show; the first world is also learned from and judged by."""
    end = PHASES[phase + 1][1] if phase + 1 < len(PHASES) else WEEKS
    weekly = (end - PHASES[phase][1]) * VIDEOS_PER_WEEK
    return weekly + (FIRST_VIDEOS + BENCHMARK_VIDEOS if phase == 0 else 0)


def make_pool(spec: SceneSpec, videos: int) -> Pool:
    """Encode and decode the first video of so many recordings, and let the teacher look at every clip."""
    models = load_bundle(DEMO_BUNDLE)
    views = (models.student.geometry, models.teacher.geometry)
    pixels, logits, clips, labels = [], [], [], []
    for number in range(videos):
        scene = draw_scene(spec, number * VIDEOS_PER_GROUP)
        content = encode_mp4(render(scene), FRAMES_PER_SECOND)
        reader = ClipReader(io.BytesIO(content), str(number), models.manifest.sampling, DecodeLimits())
        batches = list(reader.read_views(views))
        pixels += [small.to_host() for small, _ in batches]
        logits += [models.teacher.score(large.pixels_NTCHW) for _, large in batches]
        clips.append(sum(len(small.spans) for small, _ in batches))
        labels.append(LABELS.index(scene.label))
    return Pool(
        student_NTCHW=np.concatenate(pixels),
        teacher_NK=np.concatenate(logits),
        clips_V=np.array(clips),
        label_V=np.array(labels),
        group_V=np.arange(videos),
    )


class Year:
    """One year: what is in production, and what has been labeled so far."""

    def __init__(self, pools: Sequence[Pool], seed: int) -> None:
        self._seed = seed
        self._pool = join(pools)
        self._dense_V = dense_labels(self._pool)
        models = load_bundle(DEMO_BUNDLE)
        self._flops = ClipFlops(student=models.student.flops_per_clip, teacher=models.teacher.flops_per_clip)
        random = np.random.default_rng((seed, 1))
        ends = np.cumsum([len(pool.clips_V) for pool in pools])
        by_phase = [
            random.permutation(np.arange(end - len(pool.clips_V), end)) for pool, end in zip(pools, ends, strict=True)
        ]
        self._base, self._benchmark, by_phase[0] = np.split(
            by_phase[0], [FIRST_VIDEOS, FIRST_VIDEOS + BENCHMARK_VIDEOS]
        )
        self._weekly = np.concatenate(by_phase).reshape(WEEKS, VIDEOS_PER_WEEK)
        self._rows: list[LabeledRow] = []

    def live(self) -> list[Week]:
        """Live it, and return its weeks."""
        first = self._train(self._of_base(), None, "m-first", steps=1500)
        production, weeks = first, []
        for week in range(WEEKS):
            videos = self._weekly[week]
            agreement, share = self._label(production, week)
            agreement_off, share_off = self._look(first, videos)
            event, before = "", production
            if week % WEEKS_PER_CYCLE == WEEKS_PER_CYCLE - 1:
                production, event = self._turn(production, week)
            weeks.append(
                Week(
                    week=week,
                    agreement=agreement,
                    escalated_share=share,
                    agreement_off=agreement_off,
                    escalated_share_off=share_off,
                    model_version=before.facts.model_version,
                    event=event,
                )
            )
            print(f"seed {self._seed} {weeks[-1]}", file=sys.stderr, flush=True)
        return weeks

    def _turn(self, production: Trained, week: int) -> tuple[Trained, str]:
        """Turn the loop once; return what is in production then, and why."""
        self._rows = [row for row in self._rows if int(row.run_id) > week - WEEKS_KEPT]
        selection = select_examples(self._rows, {}, LABELS, replace(COLLECT, seed=self._seed))
        examples = [*self._of_base(), *selection.examples]
        candidate = self._train(examples, production, f"m-week-{week}", steps=800)
        decision = self._judge(candidate, production)
        return (candidate if decision.promoted else production), f"{decision.verdict}: {decision.reason}"

    def _of_base(self) -> list[Example]:
        return [
            Example(
                uri=str(video),
                label=LABELS[self._pool.label_V[video]],
                group=str(video),
                split=role_of(f"{self._seed} {video}"),
                weight=1.0,
                source="base",
            )
            for video in self._base
        ]

    def _train(self, examples: Sequence[Example], production: Trained | None, name: str, *, steps: int) -> Trained:
        roles: dict[FitRole, RoleClips] = {}
        logits: dict[str, NDArray[np.float32]] = {}
        for role in ("train", "conf", "cal", "test"):
            of_role = [example for example in examples if example.split == role]
            videos = np.array([int(example.uri) for example in of_role])
            label_V = np.array([LABELS.index(example.label) for example in of_role])
            clips = role_clips(self._pool, videos, label_V)
            weight_V = np.array([example.weight for example in of_role])
            roles[role] = replace(clips, weight_V=weight_V)
            logits[role] = self._pool.teacher_NK[self._pool.rows(videos)]
        settings = TrainSettings(
            seed=self._seed,
            teacher=TeacherSettings(weights=str(DEMO_BUNDLE), learn="nothing"),
            student=StudentSettings(steps=steps, learning_rate=0.004 if production is None else 0.001),
        )
        start = None if production is None else production.fitted.networks.student
        keeper = Keeper(checkpoints=KnownAnswers(logits, start), every_seconds=1e9)
        fitted = fit_bundle(roles, LABELS, settings, lambda progress: None, keeper)
        shown_K = roles["train"].truth_VK.any(axis=0)
        untaught = tuple(label for label, shown in zip(LABELS, shown_K, strict=True) if not shown)
        facts = BundleFacts(model_version=name, labels=LABELS, label_kind="single", untaught=untaught)
        return Trained(facts=facts, fitted=fitted, teacher_KK=np.eye(len(LABELS), dtype=np.float32))

    def _judge(self, candidate: Trained, production: Trained) -> GateDecision:
        """Judge by the benchmark, and by the audited videos that nothing learns from."""
        audits = np.array([int(row.uri) for row in self._rows if row.teacher_label and role_of(row.group) == "test"])
        sets = []
        for name, videos, label_V in (
            ("benchmark", self._benchmark, self._pool.label_V[self._benchmark]),
            ("audits", audits, self._dense_V[audits] if len(audits) else audits),
        ):
            if len(videos):
                sets.append(
                    SetAnswers(
                        name=name,  # type: ignore[arg-type] # one of two literals
                        groups=tuple(map(str, videos)),
                        labels=tuple((LABELS[label],) for label in label_V),
                        candidate=side(self._pool, candidate, videos, label_V, self._flops),
                        production=side(self._pool, production, videos, label_V, self._flops),
                        videos_unreadable=0,
                    )
                )
        return decide(candidate.facts, production.facts, sets, GATE)

    def _look(self, trained: Trained, videos: NDArray[np.int64]) -> tuple[float, float]:
        """Return agreement with the dense teacher, and the share of clips that go to the teacher."""
        return self._compare(self._replay(trained, videos), videos)

    def _label(self, trained: Trained, week: int) -> tuple[float, float]:
        """Label the videos of a week, audit them, and remember the rows."""
        videos = self._weekly[week]
        answers = self._replay(trained, videos)
        for place, video in enumerate(videos):
            probabilities_K = answers.probabilities_VK[place]
            self._rows.append(
                LabeledRow(
                    video_id=str(video),
                    uri=str(video),
                    video_version=str(video),
                    size_bytes=None,
                    group=f"{self._seed} {video}",
                    label=LABELS[probabilities_K.argmax()],
                    confidence=float(probabilities_K.max()),
                    escalated=bool(answers.asked_V[place]),
                    teacher_label=LABELS[self._dense_V[video]],
                    audit_share=AUDIT_SHARE,
                    run_id=str(week),
                    model_version=trained.facts.model_version,
                )
            )
        return self._compare(answers, videos)

    def _compare(self, answers: Replay, videos: NDArray[np.int64]) -> tuple[float, float]:
        agrees_V = answers.probabilities_VK.argmax(axis=1) == self._dense_V[videos]
        return float(agrees_V.mean()), float(answers.escalated_share)

    def _replay(self, trained: Trained, videos: NDArray[np.int64]) -> Replay:
        """Return what the bundle's default would have answered to videos."""
        clips = role_clips(self._pool, videos, self._pool.label_V[videos])
        networks, decisions = trained.fitted.networks, trained.fitted.decisions
        output = score_student(networks.student, networks.student_spec, ClipPixels.of(clips.student_NTCHW))
        logits = RoleLogits(
            student_NK=output.logits_NK.numpy(),
            q_teacher_N=output.q_teacher_logit_N.numpy(),
            q_student_N=output.q_student_logit_N.numpy(),
            teacher_NK=self._pool.teacher_NK[self._pool.rows(videos)],
        )
        scored = [calibrate(video, decisions.calibration, "single") for video in to_cached(clips, logits)]
        return replay(decisions.policy, decisions.judge("single"), scored, self._flops)


def join(pools: Sequence[Pool]) -> Pool:
    """Return all videos behind one another."""
    whole = {name: np.concatenate([getattr(pool, name) for pool in pools]) for name in Pool.__slots__}
    return Pool(**{**whole, "group_V": np.arange(len(whole["clips_V"]))})


def dense_labels(pool: Pool) -> NDArray[np.int64]:
    """Return what the teacher on every clip says of each video, by the plain mean."""
    ends_V = np.cumsum(pool.clips_V)
    spans = zip(ends_V - pool.clips_V, ends_V, strict=True)
    return np.array([mean_probability(pool.teacher_NK[start:end]).argmax() for start, end in spans])


def cases(years: dict[int, list[Week]]) -> dict[str, Any]:
    """Return, for each cycle after each change, both agreements and both shares, the mean of all seeds."""
    found: dict[str, Any] = {}
    for name, first, last in spans():
        part = [week for weeks in years.values() for week in weeks if first <= week.week < last]
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


def spans() -> list[tuple[str, int, int]]:
    """Return name, first week and the week after the last of every cycle, counted from each change."""
    found = []
    for phase, (name, start, _) in enumerate(PHASES):
        end = PHASES[phase + 1][1] if phase + 1 < len(PHASES) else WEEKS
        cycles = range(start, end, WEEKS_PER_CYCLE)
        found += [(f"{name}, cycle {number}", first, first + WEEKS_PER_CYCLE) for number, first in enumerate(cycles)]
    return found


def as_text(report: dict[str, Any]) -> str:
    """Return one line for each case."""
    return "\n".join(
        f"{name}: {case['ours']} with the loop, {case['others']['without the loop']} without"
        for name, case in report["cases"].items()
    )


if __name__ == "__main__":
    main()
