"""What the student's opinion of its teacher is taught as: one number per clip, 0 to 1.

Torch-free. Probabilities must be calibrated and of clips that the teacher was not trained on; else all targets are near
1 and there is nothing to learn. With several labels per video a clip's answer counts as right if its best-scored label
is a true one, and every target below is about that answer. N clips, K labels, M views of a clip.
"""

from __future__ import annotations

from typing import Literal, assert_never, get_args

import numpy as np
from numpy.typing import NDArray

from cdmodel.calibration import normalised_entropy, top_margin
from cdmodel.labels import LabelKind, Truth, is_right

OneLookTarget = Literal["tcp", "correct", "tcpr", "maxprob", "entropy", "margin"]
ViewsTarget = Literal["tta_mi", "vote", "vote_mode"]
ConfidenceTarget = Literal[
    "tcp", "correct", "tcpr", "maxprob", "entropy", "margin", "diffprob", "tta_mi", "vote", "vote_mode"
]
"""``tcp``: the teacher's probability of the true class (Corbiere et al. 2019). ``correct``: whether it was right.
``tcpr``: tcp over the largest probability. ``maxprob``, ``entropy``, ``margin``: its own certainty. ``diffprob``: its
probability of the true class less the student's. ``tta_mi``, ``vote``, ``vote_mode``: agreement over shifted views."""

Float32Array = NDArray[np.float32]
_TINY = 1e-12


def needs_views(target: ConfidenceTarget) -> bool:
    """Tell whether the teacher has to answer several views of each clip."""
    return target in get_args(ViewsTarget)


def targets_from_scores(
    target: OneLookTarget, probabilities_NK: NDArray[np.floating], truth_NK: Truth, kind: LabelKind
) -> Float32Array:
    """Return the targets [N] that one answer of the teacher to each clip gives.

    With several labels: ``tcp`` is the share of all scores that true labels hold, the chance that a label drawn by score
    is true; ``tcpr`` the best true label's over the best; ``entropy`` a mean over labels; ``margin`` that of the best
    label against its own absence.
    """
    targets_N: NDArray[np.floating]
    match target:
        case "tcp":
            targets_N = true_share(probabilities_NK, truth_NK)
        case "correct":
            targets_N = is_right(probabilities_NK, truth_NK).astype(np.float64)
        case "tcpr":
            best_true_N = np.where(truth_NK, probabilities_NK, 0.0).max(axis=1)
            targets_N = best_true_N / np.maximum(probabilities_NK.max(axis=1), _TINY)
        case "maxprob":
            targets_N = probabilities_NK.max(axis=1)
        case "entropy":
            targets_N = 1.0 - normalised_entropy(probabilities_NK, kind)
        case "margin":
            targets_N = _margin(probabilities_NK, kind)
        case _:
            assert_never(target)
    return _to_targets(targets_N)


def targets_from_views(
    target: ViewsTarget, probabilities_MNK: NDArray[np.floating], truth_NK: Truth, kind: LabelKind
) -> Float32Array:
    """Return the targets [N] that the teacher's answers to M views of each clip give.

    ``tta_mi`` is 1 - (entropy of the mean answer - mean entropy of the answers), each over the largest possible: how far
    the answers are one (Houlsby et al. 2011). ``vote`` is the share of views whose answer is true, ``vote_mode`` the
    share that gives the commonest answer; an answer is the best-scored label.
    """
    match target:
        case "tta_mi":
            apart_N = normalised_entropy(probabilities_MNK.mean(axis=0), kind)
            within_N = np.stack([normalised_entropy(view_NK, kind) for view_NK in probabilities_MNK]).mean(axis=0)
            return _to_targets(1.0 - (apart_N - within_N))
        case "vote":
            return _to_targets(np.stack([is_right(view_NK, truth_NK) for view_NK in probabilities_MNK]).mean(axis=0))
        case "vote_mode":
            votes_MNK = np.eye(probabilities_MNK.shape[2])[probabilities_MNK.argmax(axis=2)]
            return _to_targets(votes_MNK.mean(axis=0).max(axis=1))
        case _:
            assert_never(target)


def true_share(probabilities_NK: NDArray[np.floating], truth_NK: Truth) -> NDArray[np.float64]:
    """Return what share of all scores the true labels hold [N]: with one label its probability."""
    scores_NK = probabilities_NK.astype(np.float64)
    return np.asarray(np.where(truth_NK, scores_NK, 0.0).sum(axis=1) / np.maximum(scores_NK.sum(axis=1), _TINY))


def shuffle_within_classes(target_N: Float32Array, truth_NK: Truth, seed: int) -> Float32Array:
    """Return the targets, dealt out anew among the clips with the same labels: a placebo with the same class means."""
    random = np.random.default_rng(seed)
    shuffled_N = target_N.copy()
    _, set_N = np.unique(truth_NK, axis=0, return_inverse=True)
    for number in range(int(set_N.max(initial=-1)) + 1):
        rows = np.flatnonzero(set_N.reshape(-1) == number)
        shuffled_N[rows] = target_N[random.permutation(rows)]
    return shuffled_N


def _margin(probabilities_NK: NDArray[np.floating], kind: LabelKind) -> NDArray[np.floating]:
    match kind:
        case "single":
            return top_margin(probabilities_NK)
        case "multi":
            return np.asarray(2.0 * probabilities_NK.max(axis=1) - 1.0)
        case _:
            assert_never(kind)


def _to_targets(values_N: NDArray[np.floating]) -> Float32Array:
    return np.asarray(np.clip(values_N, 0.0, 1.0), dtype=np.float32)
