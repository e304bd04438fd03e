"""What the networks are trained for: the classes, the teacher's opinion, and how far each model can be trusted.

N clips, K labels.
"""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor
from torch.nn import functional

from cdmodel.labels import LabelKind

DISTILLATION_TEMPERATURE = 4.0
RANK_MARGIN = 1.0
"""In logits: by how much the clip that the teacher does better on should outscore the other one of the same video."""
LEAST_RANKED_DIFFERENCE = 0.05
"""Two clips whose targets are closer than this are not ranked."""


def class_loss(logits_NK: Tensor, truth_NK: Tensor, kind: LabelKind, background_weight: float) -> Tensor:
    """Return the cross-entropy of the video's label, clips that do not show it counting less.

    Clip i weighs max(p_i(label), ``background_weight``) by the network's own present opinion, so 1 weighs all alike.
    A video's label is wrong for its background clips, and this keeps them from being learnt by heart.
    Source: self-paced learning, Kumar et al. 2010, with soft weights. With several labels it is the mean binary
    cross-entropy of all of them, every clip alike: a clip that shows one of three labels is no background.

    Args:
        logits_NK: floats.
        truth_NK: bool; one true label in each row of ``single``.
        kind: how to read both.
        background_weight: 0 to 1.
    """
    match kind:
        case "single":
            loss_N = functional.cross_entropy(logits_NK, truth_NK.to(torch.uint8).argmax(dim=1), reduction="none")
            weight_N = torch.exp(-loss_N.detach()).clamp(min=background_weight)
            return (weight_N * loss_N).sum() / weight_N.sum()
        case "multi":
            return functional.binary_cross_entropy_with_logits(logits_NK, truth_NK.to(logits_NK.dtype))
        case _:
            assert_never(kind)


def distillation_loss(student_logits_NK: Tensor, teacher_logits_NK: Tensor, kind: LabelKind) -> Tensor:
    """Return T^2 KL(teacher || student) of the softened answers, T = 4, mean over clips.

    Source: Hinton et al. 2015, section 2. With several labels each is a distribution over yes and no; their mean counts.
    """
    softened_NK = student_logits_NK / DISTILLATION_TEMPERATURE
    target_NK = teacher_logits_NK / DISTILLATION_TEMPERATURE
    match kind:
        case "single":
            divergence = functional.kl_div(
                functional.log_softmax(softened_NK, dim=1),
                functional.log_softmax(target_NK, dim=1),
                reduction="batchmean",
                log_target=True,
            )
        case "multi":
            divergence = _binary_divergence(target_NK, softened_NK).mean()
        case _:
            assert_never(kind)
    return divergence * DISTILLATION_TEMPERATURE**2


def confidence_loss(logit_N: Tensor, target_N: Tensor) -> Tensor:
    """Return the binary cross-entropy with soft targets 0 to 1, mean over clips.

    A proper score: its minimum is the expected target, so the head learns a probability.
    Source: Gneiting and Raftery 2007.
    """
    return functional.binary_cross_entropy_with_logits(logit_N, target_N)


def rank_loss(score_N: Tensor, target_N: Tensor, video_N: Tensor) -> Tensor:
    """Return the mean hinge by which pairs of clips of one video are not in the order of their targets.

    Pairs whose targets are nearly alike do not count; without a pair the loss is 0.
    Source: the saliency ranking of Korbar et al. 2019 (SCSampler), section 3.2.
    """
    difference_NN = target_N[:, None] - target_N[None, :]
    # Each pair once: with the better clip first.
    pairs_NN = (video_N[:, None] == video_N[None, :]) & (difference_NN >= LEAST_RANKED_DIFFERENCE)
    hinge_NN = (RANK_MARGIN - (score_N[:, None] - score_N[None, :])).clamp(min=0)
    return (hinge_NN * pairs_NN).sum() / pairs_NN.sum().clamp(min=1)


def gatekeeper_loss(logits_NK: Tensor, truth_NK: Tensor, kind: LabelKind, right_weight: float) -> Tensor:
    """Return b 1[right] CE + (1 - b) 1[wrong] KL(student || uniform), mean over clips, b = ``right_weight``.

    Makes a network surer where it is right and less sure where it is wrong. Source: Gatekeeper, Rabanser et al. 2025. With
    several labels: right is a true best-scored label, CE the binary one, and the uniform answer to each label a half.
    """
    right_N = truth_NK.gather(1, logits_NK.detach().argmax(dim=1, keepdim=True)).squeeze(1)
    match kind:
        case "single":
            log_probabilities_NK = functional.log_softmax(logits_NK, dim=1)
            taught_N = -(log_probabilities_NK * truth_NK).sum(dim=1)
            entropy_N = -(log_probabilities_NK.exp() * log_probabilities_NK).sum(dim=1)
            calmed_N = torch.log(logits_NK.new_tensor(float(logits_NK.shape[1]))) - entropy_N
        case "multi":
            target_NK = truth_NK.to(logits_NK.dtype)
            taught_N = functional.binary_cross_entropy_with_logits(logits_NK, target_NK, reduction="none").mean(dim=1)
            calmed_N = _binary_divergence(logits_NK, torch.zeros_like(logits_NK)).mean(dim=1)
        case _:
            assert_never(kind)
    return torch.where(right_N, right_weight * taught_N, (1 - right_weight) * calmed_N).mean()


def share_of_truth(logits_NK: Tensor, truth_NK: Tensor, kind: LabelKind) -> Tensor:
    """Return what share of all scores the true labels hold [N]: with one label its probability."""
    match kind:
        case "single":
            scores_NK = logits_NK.softmax(dim=1)
        case "multi":
            scores_NK = logits_NK.sigmoid()
        case _:
            assert_never(kind)
    return (scores_NK * truth_NK).sum(dim=1) / scores_NK.sum(dim=1).clamp(min=1e-12)


def _binary_divergence(from_logits_NK: Tensor, to_logits_NK: Tensor) -> Tensor:
    """Return KL(p || q) of p = sigmoid(from), q = sigmoid(to), elementwise."""
    p_NK = from_logits_NK.sigmoid()
    yes_NK = functional.logsigmoid(from_logits_NK) - functional.logsigmoid(to_logits_NK)
    no_NK = functional.logsigmoid(-from_logits_NK) - functional.logsigmoid(-to_logits_NK)
    return p_NK * yes_NK + (1 - p_NK) * no_NK
