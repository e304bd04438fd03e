"""Making probabilities mean what they say: temperatures for class scores, Platt maps for yes-or-no confidences.

NumPy only: fitted once when a bundle is trained, applied in every run and every replay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from cdmodel.scores import FloatArray
from cdmodel.setting_groups import FORBID_UNKNOWN

Float64Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlattMap:
    """P(yes) = sigmoid(slope * logit + bias). Source: Platt 1999."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    slope: float = 1.0
    bias: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Every calibration of a bundle. The defaults change nothing."""

    __pydantic_config__: ClassVar = FORBID_UNKNOWN
    student_temperature: float = 1.0
    teacher_temperature: float = 1.0
    video_temperature: float = 1.0
    """Applied after aggregation, under the bundle's default policy and aggregation."""
    q_teacher: PlattMap = PlattMap()
    q_student: PlattMap = PlattMap()

    def __post_init__(self) -> None:
        if not all(value > 0 for value in (self.student_temperature, self.teacher_temperature, self.video_temperature)):
            raise ValueError(f"temperatures must be above 0, got {self}")


def softmax(logits_NK: NDArray[np.floating], temperature: float) -> FloatArray:
    """Return the softmax of the logits over a temperature, along the last axis; float32, computed in float64."""
    scaled_NK = logits_NK.astype(np.float64) / temperature
    odds_NK = np.exp(scaled_NK - scaled_NK.max(axis=-1, keepdims=True))
    return np.asarray(odds_NK / odds_NK.sum(axis=-1, keepdims=True), dtype=np.float32)


def sigmoid(logits_N: NDArray[np.floating], platt: PlattMap) -> FloatArray:
    """Return P(yes) of each logit under a Platt map, float32; large inputs saturate without a warning."""
    scaled_N = np.clip(platt.slope * logits_N.astype(np.float64) + platt.bias, -60.0, 60.0)
    return np.asarray(1.0 / (1.0 + np.exp(-scaled_N)), dtype=np.float32)


def temper(probabilities: Float64Array, temperature: float) -> Float64Array:
    """Return the probabilities at another temperature, over the last axis; 1 leaves them as they are."""
    log_probabilities = np.log(np.maximum(probabilities, 1e-12)) / temperature
    odds = np.exp(log_probabilities - log_probabilities.max(axis=-1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=-1, keepdims=True))
