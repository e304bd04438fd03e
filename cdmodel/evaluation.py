"""The evaluation document: every policy and baseline replayed on ``test``, what they cost, and how far to trust it.

Pure: cached answers in, one document out, which ``evaluation.json`` is made of (``docs/evaluation.md``). Settings that
have to be chosen are chosen on ``cal``; ``test`` decides nothing. V videos, K labels.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from cdmodel.ablation import FULL_METHOD, REFERENCE, ROUTES, Ablation, ArmAnswers, difference, run_ablations
from cdmodel.aggregation import Aggregation, Judge, MeanProbability
from cdmodel.calibration import Calibration
from cdmodel.evaluation_points import (
    CalibrationPoint,
    CertifiedPoint,
    DensePoint,
    Evaluation,
    ParityPoint,
    PolicyPoint,
    RivalPoint,
)
from cdmodel.intervals import bootstrap_mean
from cdmodel.labels import LabelKind, is_right
from cdmodel.metrics import (
    area_under_roc,
    augrc,
    debiased_calibration_error,
    expected_calibration_error,
    mean_average_precision,
)
from cdmodel.oracles import replay_oracles
from cdmodel.policies import DenseStudent, DenseTeacher, EscalationPolicy, Gain, RandomClips, VideoGain, VideoRank
from cdmodel.replay import CachedVideo, ClipFlops, Replay, ReplayBench, ScoredVideo, calibrate, harm, replay, truth_of
from cdmodel.risk import Certificate, RiskCurve, certify
from cdmodel.sweeps import Ladder, Side, build_ladders

PARITY_POINTS = 0.5
RANDOM_DRAWS = 20
PLAIN_MEAN = MeanProbability()
COMPARED = (
    (FULL_METHOD, REFERENCE),
    ("A8", "A3"),
    ("A8", "A9"),
    ("A8", "A10"),
    ("A8", "A11"),
    ("A7", "A4"),
    ("A12", "A2"),
    ("A8_rank", "A2"),
    ("A8_rank", "A2_rank"),
    ("A8_rank", "A11"),
)
"""Ablations whose difference is reported: the first is the registered one; A12 and A2 share one student."""
OnReplay = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSettings:
    """What an evaluation certifies and how it draws, as ``tasks.evaluation_settings`` declares it."""

    epsilon: float
    delta: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The bundle under evaluation, as far as a replay needs it."""

    model_version: str
    label_kind: LabelKind
    calibration: Calibration
    policy: EscalationPolicy
    aggregation: Aggregation
    flops: ClipFlops
    risk: RiskCurve | None

    @property
    def judge(self) -> Judge:
        """How the bundle's clips become a video's answer."""
        return self.judge_with(self.aggregation)

    def judge_with(self, aggregation: Aggregation) -> Judge:
        """Return the judge under another aggregation."""
        return Judge(
            aggregation=aggregation,
            label_kind=self.label_kind,
            video_temperature=self.calibration.video_temperature,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """One policy at one setting on both roles."""

    ladder: Ladder
    setting: float | None
    policy: EscalationPolicy
    aggregation: Aggregation
    cal: Replay
    test: Replay


def keep_quiet(done: int, total: int) -> None:
    """Stand in for nobody who listens."""


def evaluate(
    cal: Sequence[CachedVideo],
    test: Sequence[CachedVideo],
    subject: Subject,
    arms: Mapping[str, Sequence[ArmAnswers]],
    settings: EvaluationSettings,
    on_replay: OnReplay = keep_quiet,
) -> Evaluation:
    """Replay everything. No network is run; ``on_replay`` is told how many settings are done, and of how many."""
    kind = subject.label_kind
    scored_cal = [calibrate(video, subject.calibration, kind) for video in cal]
    scored_test = [calibrate(video, subject.calibration, kind) for video in test]
    bench = _Bench(scored_test, subject, settings.seed)
    runs = _climb(scored_cal, scored_test, subject, on_replay)
    default = replay(subject.policy, subject.judge, scored_test, subject.flops)
    return Evaluation(
        metric="accuracy_top1" if kind == "single" else "accuracy_hit1",
        dense_teacher=bench.dense_point(DenseTeacher()),
        dense_student=bench.dense_point(DenseStudent()),
        default=bench.point(subject.policy.kind, subject.aggregation.kind, _setting(subject.policy), default),
        default_minus_dense_ci95=bench.margin(default),
        at_parity=_find_parity(runs, scored_cal, bench, subject),
        policies=_points(runs, bench, "policies"),
        baselines=(*_points(runs, bench, "baselines"), *_oracle_points(scored_test, bench, subject)),
        ablations=_describe_ablations(arms, kind, settings.seed),
        calibration=measure_calibration(scored_test, default),
        certified=_certify(scored_test, bench, subject, settings),
        at_default_cost=_compare_at_cost(runs, default, bench),
        requested_and_realised=_compare_shares(runs, subject.aggregation),
    )


class _Bench:
    """The test videos with the dense teacher's answers, against which everything is measured."""

    def __init__(self, videos: Sequence[ScoredVideo], subject: Subject, seed: int) -> None:
        self.videos = videos
        self._subject = subject
        self._seed = seed
        self._groups = [video.group for video in videos]
        self._truth_VK = truth_of(videos)
        self.dense = replay(DenseTeacher(), subject.judge_with(PLAIN_MEAN), videos, subject.flops)

    def dense_point(self, policy: DenseTeacher | DenseStudent) -> DensePoint:
        """Return one model alone, under the plain mean."""
        run = replay(policy, self._subject.judge_with(PLAIN_MEAN), self.videos, self._subject.flops)
        seconds = [video.seconds for video in self.videos]
        teacher = isinstance(policy, DenseTeacher)
        return DensePoint(
            accuracy=run.accuracy,
            flops_per_video=float(run.flops_V.mean()),
            seconds_per_video=float(run.seconds_V.mean()),
            decode_seconds_per_video=float(
                np.mean([s.decode_teacher if teacher else s.decode_student for s in seconds])
            ),
            mean_average_precision=self._mean_average_precision(run),
        )

    def point(self, policy: str, aggregation: str, setting: float | None, run: Replay) -> PolicyPoint:
        """Return one replay against the dense teacher."""
        accuracy = bootstrap_mean(run.right_V, self._groups, seed=self._seed)
        return PolicyPoint(
            policy=policy,
            aggregation=aggregation,
            setting=setting,
            accuracy=run.accuracy,
            accuracy_ci95=(accuracy.low, accuracy.high),
            flops_per_video=float(run.flops_V.mean()),
            seconds_per_video=float(run.seconds_V.mean()),
            saved_flops_share=1.0 - float(run.flops_V.sum() / self.dense.flops_V.sum()),
            saved_seconds_share=1.0 - float(run.seconds_V.sum() / self.dense.seconds_V.sum()),
            escalated_clip_share=run.escalated_share,
            harmful_flips=int(harm(run, self.dense).sum()),
            helpful_flips=int(harm(self.dense, run).sum()),
            mean_average_precision=self._mean_average_precision(run),
        )

    def margin(self, run: Replay) -> tuple[float, float]:
        """Return the interval of accuracy minus the dense teacher's, paired by video."""
        return self.margin_over(run, self.dense.right_V.astype(np.float64))

    def margin_over(self, run: Replay, rival_V: NDArray[np.float64]) -> tuple[float, float]:
        """Return the interval of accuracy minus a rival's, whose chance of being right on each video is given."""
        interval = bootstrap_mean(run.right_V.astype(np.float64) - rival_V, self._groups, seed=self._seed)
        return interval.low, interval.high

    def _mean_average_precision(self, run: Replay) -> float | None:
        if self._subject.label_kind == "single":
            return None
        return mean_average_precision(run.probabilities_VK, self._truth_VK)


def _climb(
    cal: Sequence[ScoredVideo], test: Sequence[ScoredVideo], subject: Subject, on_replay: OnReplay
) -> list[_Run]:
    """Replay every rung of every ladder on both roles, under the bundle's aggregation and under the plain mean."""
    aggregations = tuple(dict.fromkeys((subject.aggregation, PLAIN_MEAN)))
    ladders = [build_ladders(cal, subject.judge_with(aggregation)) for aggregation in aggregations]
    total = sum(len(ladder.rungs) for several in ladders for ladder in several)
    runs: list[_Run] = []
    for aggregation, several in zip(aggregations, ladders, strict=True):
        judge = subject.judge_with(aggregation)
        cal_bench, test_bench = (ReplayBench(videos, judge, subject.flops) for videos in (cal, test))
        for ladder, (setting, policy) in ((steps, rung) for steps in several for rung in steps.rungs):
            on_replay(len(runs), total)
            runs.append(
                _Run(
                    ladder=ladder,
                    setting=setting,
                    policy=policy,
                    aggregation=aggregation,
                    cal=cal_bench.replay(policy),
                    test=_replay_drawn(policy, test_bench),
                )
            )
    on_replay(total, total)
    return runs


def _replay_drawn(policy: EscalationPolicy, bench: ReplayBench) -> Replay:
    """Replay; a random policy is drawn again and again, and the draw of median accuracy stands for them."""
    if not isinstance(policy, RandomClips):
        return bench.replay(policy)
    draws = [bench.replay(replace(policy, seed=draw)) for draw in range(RANDOM_DRAWS)]
    return sorted(draws, key=lambda draw: draw.accuracy)[RANDOM_DRAWS // 2]


def _points(runs: Sequence[_Run], bench: _Bench, side: Side) -> tuple[PolicyPoint, ...]:
    return tuple(
        bench.point(run.ladder.name, run.aggregation.kind, run.setting, run.test)
        for run in runs
        if run.ladder.side == side
    )


def _oracle_points(videos: Sequence[ScoredVideo], bench: _Bench, subject: Subject) -> tuple[PolicyPoint, ...]:
    judge = subject.judge_with(PLAIN_MEAN)
    return tuple(
        bench.point(name, PLAIN_MEAN.kind, setting, run)
        for name, setting, run in replay_oracles(videos, judge, subject.flops)
    )


def _find_parity(runs: Sequence[_Run], cal: Sequence[ScoredVideo], bench: _Bench, subject: Subject) -> ParityPoint:
    dense = replay(DenseTeacher(), subject.judge_with(PLAIN_MEAN), cal, subject.flops)
    floor = dense.accuracy - PARITY_POINTS / 100
    good = [run for run in runs if run.ladder.side == "policies" and run.cal.accuracy >= floor]
    if not good:
        nothing = dict.fromkeys(("policy", "setting", "accuracy", "accuracy_minus_dense_ci95"), None)
        return ParityPoint(tolerance_points=PARITY_POINTS, **nothing, saved_flops_share=None, saved_seconds_share=None)
    best = min(good, key=lambda run: float(run.cal.flops_V.sum()))
    point = bench.point(best.ladder.name, best.aggregation.kind, best.setting, best.test)
    return ParityPoint(
        tolerance_points=PARITY_POINTS,
        policy=point.policy,
        setting=point.setting,
        accuracy=point.accuracy,
        accuracy_minus_dense_ci95=bench.margin(best.test),
        saved_flops_share=point.saved_flops_share,
        saved_seconds_share=point.saved_seconds_share,
        mean_average_precision=point.mean_average_precision,
    )


def measure_calibration(videos: Sequence[ScoredVideo], default: Replay) -> CalibrationPoint:
    """Return how far confidence in videos and clips can be trusted."""
    truth_NK = np.concatenate([np.tile(video.truth_K, (len(video.student.q_student_N), 1)) for video in videos])
    teacher_right_N = is_right(np.concatenate([video.teacher.probabilities_NK for video in videos]), truth_NK)
    student_right_N = is_right(np.concatenate([video.student.probabilities_NK for video in videos]), truth_NK)
    q_teacher_N = np.concatenate([video.student.q_teacher_N for video in videos])
    q_student_N = np.concatenate([video.student.q_student_N for video in videos])
    confidence_V = default.probabilities_VK.max(axis=1)
    return CalibrationPoint(
        video_ece=expected_calibration_error(confidence_V, default.right_V),
        video_ece_debiased=debiased_calibration_error(confidence_V, default.right_V),
        q_teacher_ece=expected_calibration_error(q_teacher_N, teacher_right_N),
        q_student_ece=expected_calibration_error(q_student_N, student_right_N),
        q_teacher_auroc=area_under_roc(q_teacher_N, teacher_right_N),
        q_student_auroc=area_under_roc(q_student_N, student_right_N),
        gain_auroc=area_under_roc(q_teacher_N - q_student_N, teacher_right_N & ~student_right_N),
        augrc=augrc(confidence_V, default.right_V),
    )


def _certify(
    videos: Sequence[ScoredVideo], bench: _Bench, subject: Subject, settings: EvaluationSettings
) -> CertifiedPoint | None:
    if subject.risk is None:
        return None
    found = certify(subject.risk, settings.epsilon, settings.delta)
    if not isinstance(found, Certificate):
        return CertifiedPoint(
            epsilon=settings.epsilon,
            delta=settings.delta,
            groups=found.groups,
            setting=None,
            harm_on_test=None,
            saved_flops_share=None,
            reason=found.reason,
        )
    run = replay(VideoRank(min_value=found.min_value), subject.judge, videos, subject.flops)
    return CertifiedPoint(
        epsilon=settings.epsilon,
        delta=settings.delta,
        groups=found.groups,
        setting=found.min_value,
        harm_on_test=float(harm(run, bench.dense).mean()),
        saved_flops_share=1.0 - float(run.flops_V.sum() / bench.dense.flops_V.sum()),
        reason=None,
    )


def _describe_ablations(
    arms: Mapping[str, Sequence[ArmAnswers]], kind: LabelKind, seed: int
) -> dict[str, dict[str, object]]:
    results = run_ablations(arms, kind, seed=seed)
    described: dict[str, dict[str, object]] = {
        name: {
            "auc_cost": result.area.estimate,
            "ci95": [result.area.low, result.area.high],
            "student_accuracy": float(result.student_right_SV.mean()),
            "meaning": ROUTES[name].meaning,
            "accuracy_by_share": result.accuracy_SVR.mean(axis=(0, 1)).tolist(),
        }
        for name, result in results.items()
    }
    for one, other in COMPARED:
        if one in results and other in results:
            described[f"{one}_minus_{other}"] = _describe_difference(results[one], results[other], arms, seed)
    return described


def _describe_difference(
    one: Ablation, other: Ablation, arms: Mapping[str, Sequence[ArmAnswers]], seed: int
) -> dict[str, object]:
    groups = [video.group for video in next(iter(arms.values()))[0].test]
    interval = difference(one, other, groups, seed=seed)
    return {"auc_cost": interval.estimate, "ci95": [interval.low, interval.high]}


def _compare_at_cost(runs: Sequence[_Run], default: Replay, bench: _Bench) -> tuple[RivalPoint, ...]:
    """Hold the default against every ladder, where that spends as much on average; others are left out."""
    spent = float(default.flops_V.mean())
    points: list[RivalPoint] = []
    for _, rungs in groupby(runs, key=lambda run: (run.aggregation, run.ladder.name)):
        climb = sorted(rungs, key=lambda run: float(run.test.flops_V.mean()))
        costs = [float(run.test.flops_V.mean()) for run in climb]
        if not costs[0] <= spent <= costs[-1]:
            continue
        above = min(bisect_left(costs, spent), len(costs) - 1)
        below = max(above - 1, 0)
        share = 0.0 if above == below else (spent - costs[below]) / (costs[above] - costs[below])
        rival_V = (1 - share) * climb[below].test.right_V + share * climb[above].test.right_V
        points.append(
            RivalPoint(
                policy=climb[0].ladder.name,
                aggregation=climb[0].aggregation.kind,
                accuracy=float(rival_V.mean()),
                default_minus_rival_ci95=bench.margin_over(default, rival_V),
            )
        )
    return tuple(points)


def _compare_shares(runs: Sequence[_Run], aggregation: Aggregation) -> tuple[dict[str, float], ...]:
    return tuple(
        {"requested": run.cal.escalated_share, "realised": run.test.escalated_share}
        for run in runs
        if run.ladder.name == "video_rank" and run.aggregation == aggregation
    )


def _setting(policy: EscalationPolicy) -> float | None:
    match policy:
        case Gain(min_gain=setting) | VideoGain(min_value=setting) | VideoRank(min_value=setting):
            return setting
        case _:
            return None
