"""Fitting what a bundle is calibrated with, on cached answers of held-out videos (the role ``cal``).

None of these videos may serve as test. N clips, F features, K labels, V videos.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss as binary_log_loss
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from cdmodel.calibration import (
    ALONE_FEATURES,
    ANSWER_FEATURES,
    CLIP_FEATURES,
    Calibration,
    ConfidenceMap,
    calibrate_student,
    describe_alone,
    describe_answers,
    describe_clips,
)
from cdmodel.errors import TrainingError
from cdmodel.labels import LabelKind, Truth, is_right, log_loss, probabilities_of
from cdmodel.replay import CachedVideo, truth_of
from cdmodel.scores import BoolArray

Float64Array = NDArray[np.float64]

COLDEST, HOTTEST = 0.05, 20.0
FOLDS = 5
RIDGE = 0.1
"""Inverse strength of the penalty on standardised weights: a few hundred clips must not fit ten weights freely."""


def fit_temperature(logits_NK: NDArray[np.floating], truth_NK: Truth, kind: LabelKind) -> float:
    """Return the temperature, between 0.05 and 20, that minimises the mean negative log-likelihood of the truth.

    Source: Guo et al. 2017, section 4.2.
    """
    _require(len(truth_NK), "temperature")
    scores_NK = logits_NK.astype(np.float64)
    found = minimize_scalar(
        lambda log_temperature: log_loss(scores_NK / math.exp(log_temperature), truth_NK, kind),
        bounds=(math.log(COLDEST), math.log(HOTTEST)),
        method="bounded",
        options={"xatol": 1e-5},
    )
    return math.exp(found.x)


def video_logits(probabilities_VK: Float64Array, kind: LabelKind) -> Float64Array:
    """Return the logits of probabilities after aggregation, whose temperature is the video temperature."""
    p_VK = np.clip(probabilities_VK, 1e-12, 1.0)
    return np.asarray(np.log(p_VK) if kind == "single" else np.log(p_VK / np.maximum(1 - p_VK, 1e-12)))


def fit_calibration(videos: Sequence[CachedVideo], kind: LabelKind, *, in_context: bool = True) -> Calibration:
    """Fit everything but the video temperature. All confidences become P(right), whatever they were taught as.

    Without ``in_context`` each confidence is a function of one thing alone, as in the ablations: of its own head's answer
    to its own clip, and where the teacher was not preceded by a student, of its largest probability.
    """
    _require(len(videos), "calibration")
    clips_V = [len(video.teacher_logits_NK) for video in videos]
    truth_NK = np.repeat(truth_of(videos), clips_V, axis=0)
    group_N = np.repeat([video.group for video in videos], clips_V)
    student_NK = np.concatenate([video.student.logits_NK for video in videos])
    teacher_NK = np.concatenate([video.teacher_logits_NK for video in videos])
    student_temperature = fit_temperature(student_NK, truth_NK, kind)
    teacher_temperature = fit_temperature(teacher_NK, truth_NK, kind)
    teacher_right_N, student_right_N = is_right(teacher_NK, truth_NK), is_right(student_NK, truth_NK)
    choose = fit_confidence if in_context else fit_platt
    clip_features_NF = np.concatenate([describe_clips(video.student, student_temperature, kind) for video in videos])
    calibration = Calibration(
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        q_teacher=choose(clip_features_NF, teacher_right_N, group_N, CLIP_FEATURES.index("q_teacher_logit")),
        q_student=choose(clip_features_NF, student_right_N, group_N, CLIP_FEATURES.index("q_student_logit")),
    )
    answers_NF = np.concatenate([_describe_answers(video, calibration, kind) for video in videos])
    alone_NF = describe_alone(probabilities_of(teacher_NK, kind, teacher_temperature), kind)
    return Calibration(
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
        q_teacher=calibration.q_teacher,
        q_student=calibration.q_student,
        teacher_answer=choose(answers_NF, teacher_right_N, group_N, ANSWER_FEATURES.index("q_teacher_logit")),
        teacher_alone=choose(alone_NF, teacher_right_N, group_N, ALONE_FEATURES.index("log_peak")),
    )


def fit_confidence(features_NF: Float64Array, right_N: BoolArray, group_N: NDArray[np.str_], own: int) -> ConfidenceMap:
    """Return the logistic map from features to P(right) with the smaller cross-validated log-loss of two.

    One uses every feature, with a ridge penalty; the other is Platt scaling of the feature ``own`` alone. Folds keep
    groups together. With one outcome only, the map is constant: Laplace's rule of succession.
    """
    if right_N.all() or not right_N.any():
        return _constant(features_NF.shape[1], right_N)
    narrow = _validated_loss(features_NF[:, [own]], right_N, group_N)
    wide = _validated_loss(features_NF, right_N, group_N)
    if wide is None or narrow is None or narrow <= wide:
        return fit_platt(features_NF, right_N, group_N, own)
    return _unscaled(_logistic().fit(features_NF, right_N), range(features_NF.shape[1]), features_NF.shape[1])


def fit_platt(features_NF: Float64Array, right_N: BoolArray, group_N: NDArray[np.str_], own: int) -> ConfidenceMap:
    """Return the logistic map from the one feature ``own`` to P(right). Source: Platt 1999."""
    if right_N.all() or not right_N.any():
        return _constant(features_NF.shape[1], right_N)
    return _unscaled(_logistic().fit(features_NF[:, [own]], right_N), [own], features_NF.shape[1])


def _constant(features: int, right_N: BoolArray) -> ConfidenceMap:
    _require(len(right_N), "confidence")
    odds = (right_N.sum() + 1) / ((~right_N).sum() + 1)
    return ConfidenceMap(weights=(0.0,) * features, bias=math.log(odds))


def _describe_answers(video: CachedVideo, calibration: Calibration, kind: LabelKind) -> Float64Array:
    probabilities_NK = probabilities_of(video.teacher_logits_NK, kind, calibration.teacher_temperature)
    asked_N = np.ones(len(probabilities_NK), dtype=np.bool_)
    return describe_answers(probabilities_NK, asked_N, calibrate_student(video.student, calibration, kind), kind)


def _logistic() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=RIDGE, max_iter=1000))


def _validated_loss(features_NF: Float64Array, right_N: BoolArray, group_N: NDArray[np.str_]) -> float | None:
    """Return the log-loss out of fold; None where the groups or the outcomes are too few to tell."""
    folds = min(FOLDS, len(np.unique(group_N)))
    if folds < 2:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fold with one outcome says so in its own words, and loses
        try:
            p_N2 = cross_val_predict(
                _logistic(), features_NF, right_N, groups=group_N, cv=GroupKFold(folds), method="predict_proba"
            )
        except ValueError:
            return None
    return float(binary_log_loss(right_N, p_N2[:, 1], labels=[False, True]))


def _unscaled(fitted: Pipeline, used: Sequence[int], features: int) -> ConfidenceMap:
    """Fold the standardisation into the weights."""
    scaler, model = fitted[0], fitted[1]
    used_weights = model.coef_[0] / scaler.scale_
    weights = np.zeros(features)
    weights[list(used)] = used_weights
    bias = float(model.intercept_[0] - used_weights @ scaler.mean_)
    return ConfidenceMap(weights=tuple(float(weight) for weight in weights), bias=bias)


def _require(count: int, what: str) -> None:
    if not count:
        raise TrainingError(what, "nothing to fit it on: no readable video in the role cal")
