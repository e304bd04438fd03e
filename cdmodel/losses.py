"""What the networks are trained for: the classes, the teacher's opinion, and how far each model can be trusted.

N clips, K classes.
"""

from __future__ import annotations

from typing import Literal, assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

ConfidenceTarget = Literal["tcp", "correct"]
"""What the teacher's confidence is taught as: its probability of the true class, or whether it was right."""

DISTILLATION_TEMPERATURE = 4.0
DISTILLATION_SHARE = 0.7


def class_loss(logits_NK: Tensor, label_N: Tensor, background_weight: float) -> Tensor:
    """Return the cross-entropy of the video's label, clips that do not show it counting less.

    Clip i weighs max(p_i(label), ``background_weight``) by the network's own present opinion, so 1 weighs all alike.
    A video's label is wrong for its background clips, and this keeps them from being learnt by heart.
    Source: self-paced learning, Kumar et al. 2010, with soft weights.
    """
    loss_N = functional.cross_entropy(logits_NK, label_N, reduction="none")
    weight_N = torch.exp(-loss_N.detach()).clamp(min=background_weight)
    return (weight_N * loss_N).sum() / weight_N.sum()


def distillation_loss(student_logits_NK: Tensor, teacher_logits_NK: Tensor) -> Tensor:
    """Return T^2 KL(teacher || student) of the softened classes, T = 4, mean over clips.

    Source: Hinton et al. 2015, section 2.
    """
    softened_NK = functional.log_softmax(student_logits_NK / DISTILLATION_TEMPERATURE, dim=1)
    target_NK = functional.log_softmax(teacher_logits_NK / DISTILLATION_TEMPERATURE, dim=1)
    divergence = functional.kl_div(softened_NK, target_NK, reduction="batchmean", log_target=True)
    return divergence * DISTILLATION_TEMPERATURE**2


def confidence_loss(logit_N: Tensor, target_N: Tensor) -> Tensor:
    """Return the binary cross-entropy with soft targets 0 to 1, mean over clips.

    A proper score: its minimum is the expected target, so the head learns a probability.
    Source: Gneiting and Raftery 2007.
    """
    return functional.binary_cross_entropy_with_logits(logit_N, target_N)


def teacher_targets(
    target: ConfidenceTarget, probabilities_NK: NDArray[np.float32], label_N: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return what the student's opinion of the teacher is taught as, [N], 0 to 1.

    ``probabilities_NK`` must be calibrated and of clips the teacher was not trained on; else all targets are near 1.
    Source: ``tcp`` is the true-class probability of Corbiere et al. 2019.
    """
    match target:
        case "tcp":
            return np.asarray(probabilities_NK[np.arange(len(label_N)), label_N], dtype=np.float32)
        case "correct":
            return np.asarray(probabilities_NK.argmax(axis=1) == label_N, dtype=np.float32)
        case _:
            assert_never(target)
