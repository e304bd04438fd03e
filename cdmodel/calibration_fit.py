"""Fitting what a bundle is calibrated with, and the policy it ships with, on scores of held-out videos.

NumPy only. Everything is chosen on the videos it is given (the role ``cal``); none of them may serve as test.
N clips, K classes, V videos.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cdmodel.aggregation import Aggregation, LogPool, aggregate, merge_answers
from cdmodel.calibration import PlattMap
from cdmodel.errors import TrainingError
from cdmodel.escalation import (
    DenseTeacher,
    EscalationPolicy,
    Gain,
    MaxProbability,
    select_for_escalation,
)
from cdmodel.scores import StudentScores, TeacherScores

Float64Array = NDArray[np.float64]

PRICE_OF_DENSE_TEACHER = 0.05
"""Video accuracy that the teacher on every clip has to bring to be worth it, in choosing the default policy."""
COLDEST, HOTTEST = 0.05, 20.0
_GAINS = tuple(round(0.02 * step, 2) for step in range(-20, 41))
_POOLS: tuple[LogPool, ...] = tuple(
    LogPool(confidence_power=power, independence=independence)
    for power in (1.0, 2.0, 3.0)
    for independence in (0.0, 0.5)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoScores:
    """What both models said of every clip of one labeled video, calibrated."""

    student: StudentScores
    teacher: TeacherScores
    label_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOutcome:
    """What a policy would have done on some videos."""

    video_accuracy: float
    escalated_share: float
    """Of the clips of all videos."""
    probabilities_VK: Float64Array
    """One row for each video, before the video temperature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChosenDefaults:
    """The policy and the aggregation a bundle ships with."""

    policy: Gain
    aggregation: LogPool


def fit_temperature(logits_NK: NDArray[np.floating], label_N: NDArray[np.int64]) -> float:
    """Return the temperature that minimises the mean negative log-likelihood of the labels.

    Source: Guo et al. 2017, section 4.2. The likelihood is concave in 1 / temperature, so a golden-section search finds
    the only minimum, between 0.05 and 20.
    """
    _require(len(label_N), "temperature")
    scores_NK = logits_NK.astype(np.float64)

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(scores_NK / math.exp(log_temperature), label_N)

    return math.exp(_minimise(loss, math.log(COLDEST), math.log(HOTTEST)))


def negative_log_likelihood(logits_NK: Float64Array, label_N: NDArray[np.int64]) -> float:
    """Return the mean of -log softmax(logits)[label], in nats."""
    shifted_NK = logits_NK - logits_NK.max(axis=1, keepdims=True)
    log_total_N = np.log(np.exp(shifted_NK).sum(axis=1))
    return float(np.mean(log_total_N - shifted_NK[np.arange(len(label_N)), label_N]))


def fit_platt(logit_N: NDArray[np.floating], was_right_N: NDArray[np.bool_]) -> PlattMap:
    """Return the slope and bias that minimise the binary cross-entropy, by Newton's method.

    Source: Platt 1999, with his targets (n + 1) / (n + 2) and 1 / (n + 2), which keep a separable set finite. A head
    that has learnt nothing, or the reverse, gets slope 0 rather than a negative one: the mean rate.
    """
    _require(len(logit_N), "Platt map")
    rights = int(was_right_N.sum())
    wrongs = len(was_right_N) - rights
    target_N = np.where(was_right_N, (rights + 1) / (rights + 2), 1 / (wrongs + 2))
    inputs_N2 = np.stack([logit_N.astype(np.float64), np.ones(len(logit_N))], axis=1)
    weights_2 = np.array([0.0, math.log((rights + 1) / (wrongs + 1))])
    base_rate_bias = float(weights_2[1])
    for _ in range(50):
        guess_N = 1 / (1 + np.exp(-np.clip(inputs_N2 @ weights_2, -60, 60)))
        gradient_2 = inputs_N2.T @ (guess_N - target_N)
        curvature_22 = (inputs_N2 * (guess_N * (1 - guess_N))[:, None]).T @ inputs_N2
        step_2 = np.linalg.solve(curvature_22 + 1e-6 * np.eye(2), gradient_2)
        weights_2 = weights_2 - np.clip(step_2, -2, 2)
        if np.abs(step_2).max() < 1e-9:
            break
    slope, bias = float(weights_2[0]), float(weights_2[1])
    return PlattMap(slope=slope, bias=bias) if slope > 0 else PlattMap(slope=0.0, bias=base_rate_bias)


def fit_video_temperature(probabilities_VK: Float64Array, label_V: NDArray[np.int64]) -> float:
    """Return the temperature for probabilities after aggregation, as ``calibration.temper`` applies it."""
    return fit_temperature(np.log(np.maximum(probabilities_VK, 1e-12)), label_V)


def replay(policy: EscalationPolicy, aggregation: Aggregation, videos: Sequence[VideoScores]) -> PolicyOutcome:
    """Return what the cascade would have answered and asked, from scores alone. The dense teacher has no student."""
    _require(len(videos), "replay")
    escalated = 0
    rows: list[Float64Array] = []
    for video in videos:
        escalated_N = select_for_escalation(policy, video.student)
        student = None if isinstance(policy, DenseTeacher) else video.student
        teacher = None
        if escalated_N.any():
            teacher = TeacherScores(probabilities_NK=video.teacher.probabilities_NK[escalated_N])
        rows.append(aggregate(aggregation, merge_answers(student, teacher, escalated_N)).probabilities_K)
        escalated += int(escalated_N.sum())
    probabilities_VK = np.stack(rows)
    label_V = np.array([video.label_id for video in videos])
    return PolicyOutcome(
        video_accuracy=float(np.mean(probabilities_VK.argmax(axis=1) == label_V)),
        escalated_share=escalated / sum(len(video.student.q_teacher_N) for video in videos),
        probabilities_VK=probabilities_VK,
    )


def choose_defaults(videos: Sequence[VideoScores]) -> ChosenDefaults:
    """Pick the pool with the best accuracy over all thresholds, then its threshold with the best trade.

    The trade is accuracy minus ``PRICE_OF_DENSE_TEACHER`` times the escalated share. "The cheapest one within half a
    point of the dense teacher" was tried first: on a few hundred videos half a point is less than the noise, and the
    choice jumped between a fifth and all of the clips.
    """
    pool = max(_POOLS, key=lambda pool: _mean_accuracy(pool, videos))
    outcomes = [(gain, replay(Gain(min_gain=gain), pool, videos)) for gain in _GAINS]
    best, _ = max(outcomes, key=lambda pair: _worth(pair[1]))
    return ChosenDefaults(policy=Gain(min_gain=best), aggregation=pool)


def max_probability_at_share(videos: Sequence[VideoScores], escalated_share: float) -> MaxProbability:
    """Return the usual cascade rule with the threshold at which it escalates this share of the videos' clips."""
    peaks_N = np.concatenate([video.student.probabilities_NK.max(axis=1) for video in videos])
    return MaxProbability(threshold=float(np.clip(np.quantile(peaks_N, escalated_share), 0, 1)))


def _mean_accuracy(pool: LogPool, videos: Sequence[VideoScores]) -> float:
    return float(np.mean([replay(Gain(min_gain=gain), pool, videos).video_accuracy for gain in _GAINS[::4]]))


def _worth(outcome: PolicyOutcome) -> float:
    return outcome.video_accuracy - PRICE_OF_DENSE_TEACHER * outcome.escalated_share


def _minimise(loss: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function with one minimum has it. Source: golden-section search, Kiefer 1953."""
    shrink = (math.sqrt(5) - 1) / 2
    left, right = high - shrink * (high - low), low + shrink * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > 1e-5:
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - shrink * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + shrink * (high - low)
            loss_right = loss(right)
    return (low + high) / 2


def _require(count: int, what: str) -> None:
    if not count:
        raise TrainingError(what, "nothing to fit it on: no readable video in the role cal")
