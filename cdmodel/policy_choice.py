"""From what a user asks for to a policy that decides by itself: budgets and certificates become thresholds.

Torch-free; called when a run is planned, so that the run's record and fingerprint hold the threshold itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cdmodel.bundle import BundleManifest
from cdmodel.errors import ConfigError
from cdmodel.policies import Budgeted, Certified, DenseTeacher, EscalationPolicy, PolicyChoice, VideoRank
from cdmodel.risk import Certificate, certify


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedPolicy:
    """A policy that decides by itself, and what the user should know of how it came about."""

    policy: EscalationPolicy
    remark: str
    """Empty where there is nothing to say."""


def resolve_policy(choice: PolicyChoice, manifest: BundleManifest) -> ResolvedPolicy:
    """Turn a choice into a policy, by what the bundle remembers of its ``cal`` and ``risk`` videos.

    Raises:
        ConfigError: the bundle remembers nothing that could answer the choice.
    """
    match choice:
        case Budgeted():
            return _within_budget(choice, manifest)
        case Certified():
            return _with_certificate(choice, manifest)
        case _:
            return ResolvedPolicy(policy=choice, remark="")


def _within_budget(choice: Budgeted, manifest: BundleManifest) -> ResolvedPolicy:
    values = manifest.value_at_share
    if not values:
        raise ConfigError(
            "escalation.teacher_share", "this bundle remembers no values; train it again, or set min_value"
        )
    match choice.teacher_share:
        # Nothing and everything are meant for every archive, whatever values ``cal`` happened to have.
        case 0:
            value = 1.0
        case 1:
            value = -1.0
        case share:
            value = float(np.interp(share, np.linspace(0, 1, len(values)), values))
    return ResolvedPolicy(policy=VideoRank(min_value=value), remark="")


def _with_certificate(choice: Certified, manifest: BundleManifest) -> ResolvedPolicy:
    if manifest.risk is None:
        raise ConfigError(
            "escalation", "this bundle had no videos in the role risk, so that nothing can be certified; set min_value"
        )
    found = certify(manifest.risk, choice.epsilon, choice.delta)
    if isinstance(found, Certificate):
        return ResolvedPolicy(
            policy=VideoRank(min_value=found.min_value),
            remark=(
                f"certified on {found.groups} groups: harm above {choice.epsilon:g} has probability {choice.delta:g} "
                f"at most; clips worth more than {found.min_value:.4g} go to the teacher"
            ),
        )
    return ResolvedPolicy(policy=DenseTeacher(), remark=f"{found.reason}; the teacher labels every clip")
