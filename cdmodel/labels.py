"""What a label means to the arithmetic: one of K classes, or any number of K labels.

The only place that knows both readings. Torch-free. N rows, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

LabelKind = Literal["single", "multi"]
"""``single``: exactly one label per video, a softmax over the classes. ``multi``: any number of them, a sigmoid each."""

Truth = NDArray[np.bool_]
"""Which labels are true, bool [N, K]; every row has at least one, with ``single`` exactly one, but see ``truth_by_name``."""


def to_truth(label_ids: list[list[int]], num_labels: int) -> Truth:
    """Return bool [N, K] from the true label ids of each row."""
    truth_NK = np.zeros((len(label_ids), num_labels), dtype=np.bool_)
    for row, ids in enumerate(label_ids):
        truth_NK[row, ids] = True
    return truth_NK


def truth_by_name(names: Sequence[Sequence[str]], labels: Sequence[str]) -> Truth:
    """Return bool [N, K] from the true labels of each row by name; one that is not among ``labels`` is no column.

    A row may then have none: no answer to it is right.
    """
    place = {label: number for number, label in enumerate(labels)}
    return to_truth([[place[name] for name in row if name in place] for row in names], len(labels))


def probabilities_of(logits_NK: NDArray[np.floating], kind: LabelKind, temperature: float = 1.0) -> NDArray[np.float64]:
    """Return P(label) from logits over a temperature, along the last axis, in float64."""
    scaled_NK = logits_NK.astype(np.float64) / temperature
    match kind:
        case "single":
            odds_NK = np.exp(scaled_NK - scaled_NK.max(axis=-1, keepdims=True))
            return np.asarray(odds_NK / odds_NK.sum(axis=-1, keepdims=True))
        case "multi":
            return np.asarray(1.0 / (1.0 + np.exp(-np.clip(scaled_NK, -60.0, 60.0))))
        case _:
            assert_never(kind)


def log_loss(logits_NK: NDArray[np.floating], truth_NK: Truth, kind: LabelKind) -> float:
    """Return the mean negative log-likelihood of the truth, in nats: cross-entropy, or its mean over the K labels."""
    scores_NK = logits_NK.astype(np.float64)
    match kind:
        case "single":
            shifted_NK = scores_NK - scores_NK.max(axis=1, keepdims=True)
            log_total_N = np.log(np.exp(shifted_NK).sum(axis=1))
            return float(np.mean(log_total_N - shifted_NK[truth_NK]))
        case "multi":
            return float(np.mean(np.logaddexp(0.0, np.where(truth_NK, -scores_NK, scores_NK))))
        case _:
            assert_never(kind)


def is_right(scores_NK: NDArray[np.floating], truth_NK: Truth) -> NDArray[np.bool_]:
    """Return bool [N]: whether the best-scored label is a true one.

    Top-1 correctness with one label; with several, the hit at 1 of Abu-El-Haija et al. 2016 (YouTube-8M, section 4.1).
    """
    return np.asarray(truth_NK[np.arange(len(truth_NK)), scores_NK.argmax(axis=1)])
