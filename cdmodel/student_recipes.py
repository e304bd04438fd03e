"""What a student can be taught, as values, and which of them the arms of the ablation need.

Torch-free. Arms with equal recipes are one trained network: they differ only in the score that routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

from cdmodel.errors import ConfigError
from cdmodel.targets import ConfidenceTarget

ConfidenceLoss = Literal["bce", "rank"]
Refinement = Literal["none", "gatekeeper", "post_hoc"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StudentRecipe:
    """How one student is trained."""

    distillation_share: float = 0.7
    """Of the class loss: imitating the teacher's softened answers; the rest is the labels."""
    target: ConfidenceTarget = "tcp"
    """What q_teacher is taught as."""
    confidence_loss: ConfidenceLoss = "bce"
    """``rank``: q_teacher only orders the clips of a video by their targets."""
    confidence_clips: Literal["conf", "train"] = "conf"
    """Where q_teacher learns. ``train`` are clips the teacher knows by heart: the pitfall, shown on purpose."""
    shapes_features: bool = True
    """Whether the loss of q_teacher changes the features, or its own head alone."""
    shuffle_targets: bool = False
    """A placebo: the targets are dealt out anew among clips with the same labels."""
    refinement: Refinement = "none"
    """What follows the training: a fine-tune with the Gatekeeper loss, or a new head on the frozen network's class scores
    that learns (p_teacher(label) - p_student(label) + 1) / 2 and takes the place of q_teacher."""
    gatekeeper_weight: float = 0.5
    """Of the clips that the student gets right, in the Gatekeeper loss."""

    def __post_init__(self) -> None:
        for name in ("distillation_share", "gatekeeper_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(name, f"must lie between 0 and 1, got {getattr(self, name)}")

    def without_refinement(self) -> StudentRecipe:
        """Return the training that the refinement starts from."""
        return replace(self, refinement="none")


_LABELS_ALONE = StudentRecipe(distillation_share=0.0, shapes_features=False)
_PLAIN = StudentRecipe(shapes_features=False)
"""Labels and distillation; both confidence heads learn beside it and touch nothing but themselves."""
_FULL = StudentRecipe()

ABLATIONS: Mapping[str, StudentRecipe] = MappingProxyType(
    {
        "A0": _LABELS_ALONE,
        "A1": _PLAIN,
        "A2": _PLAIN,
        "A3": _PLAIN,
        "A4": StudentRecipe(shuffle_targets=True),
        "A5": StudentRecipe(target="maxprob"),
        "A6": StudentRecipe(confidence_clips="train"),
        "A7": _FULL,
        "A8": _FULL,
        "A9": StudentRecipe(shapes_features=False, refinement="gatekeeper"),
        "A10": StudentRecipe(shapes_features=False, refinement="post_hoc"),
        "A11": StudentRecipe(confidence_loss="rank"),
        "A12": _PLAIN,
        "A8_correct": StudentRecipe(target="correct"),
        "A8_context": _FULL,
        "A3_context": _PLAIN,
        "A8_rank": _FULL,
        "A2_rank": _PLAIN,
    }
)
"""The training of each arm; the score that routes it is in ``ablation``."""


def needed_trainings(arms: Iterable[str]) -> dict[StudentRecipe, tuple[str, ...]]:
    """Return the distinct trainings of these arms with the arms each serves; what a refinement starts from comes first.

    Eighteen arms are ten trainings, two of which are short refinements of one of the others.
    """
    served: dict[StudentRecipe, tuple[str, ...]] = {}
    for arm in arms:
        recipe = ABLATIONS[arm]
        served.setdefault(recipe.without_refinement(), ())
        served[recipe] = (*served.get(recipe, ()), arm)
    return dict(sorted(served.items(), key=lambda item: item[0].refinement != "none"))
