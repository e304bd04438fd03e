"""How the two models share the work. Torch-free, so that planning a run, or finding nothing to do, loads no models."""

from __future__ import annotations

from dataclasses import dataclass

from cdmodel.aggregation import Aggregation
from cdmodel.policies import EscalationPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class CascadeSettings:
    """Which clips the teacher sees, and how the answers about clips become one about the video."""

    policy: EscalationPolicy
    aggregation: Aggregation
