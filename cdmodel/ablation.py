"""What confidence distillation itself brings: ablations A0 to A12, replayed on cached answers.

Same student architecture, data, steps, temperature scaling and aggregation (the plain mean); only how the student was
trained and which score routes a clip differ. Registered endpoint: area under accuracy against escalated share, A8 minus
A2, paired by video, bootstrap over groups. N clips, K labels, V videos, R escalated shares, S seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from cdmodel.aggregation import Judge, MeanProbability
from cdmodel.calibration import Calibration
from cdmodel.calibration_fit import fit_calibration
from cdmodel.escalation import doubt_of, share_below
from cdmodel.intervals import Interval, bootstrap_mean
from cdmodel.labels import LabelKind, probabilities_of
from cdmodel.metrics import cost_weights
from cdmodel.replay import CachedVideo, ScoredVideo, calibrate, truth_of

Float64Array = NDArray[np.float64]
Score = Literal[
    "raw_max_prob",
    "max_prob",
    "q_student",
    "q_teacher",
    "raw_q_teacher",
    "gain",
    "rank_in_video",
    "video_rank",
    "video_max_prob",
]
ESCALATED_SHARES = np.linspace(0.0, 1.0, 41)
REFERENCE, FULL_METHOD = "A2", "A8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One ablation: which score sends a clip to the teacher. How its student was trained is in ``student_recipes``."""

    score: Score
    in_context: bool = False
    """Whether confidences may use the rest of the video; the registered comparison is without."""
    meaning: str


ROUTES: Mapping[str, Route] = {
    "A0": Route(score="max_prob", meaning="cross-entropy alone, largest probability"),
    "A1": Route(score="raw_max_prob", meaning="distilled, largest probability, uncalibrated"),
    "A2": Route(score="max_prob", meaning="distilled, largest probability, temperature-scaled"),
    "A3": Route(score="q_student", meaning="distilled, P(student right)"),
    "A4": Route(score="gain", meaning="gain, the teacher's confidence shuffled within classes"),
    "A5": Route(score="gain", meaning="gain, taught the teacher's largest probability"),
    "A6": Route(score="gain", meaning="gain, taught on clips the teacher had learnt"),
    "A7": Route(score="q_teacher", meaning="P(teacher right) alone"),
    "A8": Route(score="gain", meaning="gain: the full method"),
    "A9": Route(score="max_prob", meaning="Gatekeeper, largest probability"),
    "A10": Route(score="raw_q_teacher", meaning="frozen student, post-hoc difference of probabilities"),
    "A11": Route(score="rank_in_video", meaning="SCSampler saliency: rank within the video"),
    "A12": Route(score="gain", meaning="gain, confidence may not shape the features"),
    "A8_correct": Route(score="gain", meaning="gain, taught whether the teacher was right"),
    "A8_context": Route(score="gain", in_context=True, meaning="gain in the context of the video"),
    "A3_context": Route(score="q_student", in_context=True, meaning="A3 in the context of the video"),
    "A8_rank": Route(score="video_rank", in_context=True, meaning="rank by P(teacher right) times the video's doubt"),
    "A2_rank": Route(score="video_max_prob", meaning="rank by smallest largest probability times the video's doubt"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmAnswers:
    """What one trained student said, beside the teacher, under one seed."""

    cal: Sequence[CachedVideo]
    test: Sequence[CachedVideo]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """How one route did on the test videos."""

    accuracy_SVR: NDArray[np.bool_]
    """Right or not for each seed, video and escalated share."""
    student_right_SV: NDArray[np.bool_]
    """The student alone."""
    area: Interval
    """Mean accuracy over all escalated shares, with its 95 % interval."""


def run_ablations(arms: Mapping[str, Sequence[ArmAnswers]], kind: LabelKind, *, seed: int = 0) -> dict[str, Ablation]:
    """Return every ablation whose arm was trained; ``arms`` holds, by its name, one entry per training seed."""
    return {name: _run(route, arms[name], kind, seed) for name, route in ROUTES.items() if arms.get(name)}


def difference(one: Ablation, other: Ablation, group_V: Sequence[str], *, seed: int = 0) -> Interval:
    """Return the area of one minus that of the other, paired by seed and video, bootstrap over groups."""
    return bootstrap_mean(_areas(one.accuracy_SVR) - _areas(other.accuracy_SVR), group_V, seed=seed)


def _run(route: Route, seeds: Sequence[ArmAnswers], kind: LabelKind, seed: int) -> Ablation:
    tables = []
    for answers in seeds:
        calibration = fit_calibration(answers.cal, kind, in_context=route.in_context)
        tables.append(_escalate(route, answers.test, calibration, kind))
    accuracy_SVR = np.stack(tables)
    groups = [video.group for video in seeds[0].test]
    return Ablation(
        accuracy_SVR=accuracy_SVR,
        student_right_SV=accuracy_SVR[:, :, 0],
        area=bootstrap_mean(_areas(accuracy_SVR), groups, seed=seed),
    )


def _escalate(
    route: Route, videos: Sequence[CachedVideo], calibration: Calibration, kind: LabelKind
) -> NDArray[np.bool_]:
    """Return [V, R]: right or not under the plain mean, the best-scored share of all clips answered by the teacher."""
    scored = [calibrate(video, calibration, kind) for video in videos]
    score_N = np.concatenate([_score(route.score, v, raw, kind) for v, raw in zip(scored, videos, strict=True)])
    student_NK = np.concatenate([video.student.probabilities_NK for video in scored]).astype(np.float64)
    teacher_NK = np.concatenate([video.teacher.probabilities_NK for video in scored]).astype(np.float64)
    starts_V = np.cumsum([0, *(len(video.student.q_student_N) for video in scored)])[:-1]
    truth_VK = truth_of(scored)
    # A stable order: ties go to earlier clips, and every share is met exactly.
    place_N = np.empty(len(score_N), dtype=np.int64)
    place_N[np.argsort(-score_N, kind="stable")] = np.arange(len(score_N))
    columns = []
    for share in ESCALATED_SHARES:
        asked_N1 = (place_N < round(share * len(score_N)))[:, None]
        sum_VK = np.add.reduceat(np.where(asked_N1, teacher_NK, student_NK), starts_V, axis=0)
        columns.append(truth_VK[np.arange(len(truth_VK)), sum_VK.argmax(axis=1)])
    return np.stack(columns, axis=1)


def _score(  # noqa: PLR0911 - one case a score
    score: Score, video: ScoredVideo, raw: CachedVideo, kind: LabelKind
) -> Float64Array:
    match score:
        case "raw_max_prob":
            return np.asarray(-probabilities_of(raw.student.logits_NK, kind).max(axis=1))
        case "max_prob":
            return np.asarray(-video.student.probabilities_NK.max(axis=1).astype(np.float64))
        case "q_student":
            return np.asarray(-video.student.q_student_N.astype(np.float64))
        case "q_teacher":
            return video.student.q_teacher_N.astype(np.float64)
        case "raw_q_teacher":
            # Taught a difference of probabilities: calibrating it to P(teacher right) could turn its order around.
            return raw.student.q_teacher_logit_N.astype(np.float64)
        case "gain":
            return np.asarray(video.student.q_teacher_N.astype(np.float64) - video.student.q_student_N)
        case "rank_in_video":
            logit_N = raw.student.q_teacher_logit_N
            return np.asarray(rankdata(logit_N, method="ordinal") / (len(logit_N) + 1.0))
        case "video_rank":
            return _in_doubtful_videos(video.student.q_teacher_N, video, kind)
        case "video_max_prob":
            return _in_doubtful_videos(-video.student.probabilities_NK.max(axis=1), video, kind)
        case _:
            assert_never(score)


def _in_doubtful_videos(promise_N: NDArray[np.floating], video: ScoredVideo, kind: LabelKind) -> Float64Array:
    """Rank clips within their video, and weigh the ranks with what the student's own plain mean leaves in doubt."""
    judge = Judge(aggregation=MeanProbability(), label_kind=kind)
    return share_below(promise_N.astype(np.float64)) * doubt_of(judge.view_before(video.student), judge)


def _areas(accuracy_SVR: NDArray[np.bool_]) -> Float64Array:
    return np.asarray(accuracy_SVR @ cost_weights(ESCALATED_SHARES))
