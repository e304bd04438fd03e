"""Counts the FLOPs of a network on one clip, by torch's own formulas.

Not by torch's ``FlopCounterMode``, which loads torch's compiler: two seconds of CPU in each worker, for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from cdmodel.sampling import ClipGeometry


def count_flops(network: nn.Module, geometry: ClipGeometry, device: torch.device) -> int:
    """Measure the FLOPs of one clip, a multiply-accumulate being two; elementwise operations are not counted.

    Attention is counted as the two matrix products it is: there are no formulas for every fused kernel, that of CPUs
    for one, and the count must not depend on the device.
    """
    clip_NTCHW = torch.zeros(1, geometry.frames, 3, geometry.height, geometry.width, device=device)
    # No inference mode: in it operations that consist of others arrive whole.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), _FlopCount() as count:
        network(clip_NTCHW)
    return int(count.flops)


class _FlopCount(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what the operations within it take."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Ask for nothing of the compiler, which would be loaded for it. Should torch drop this, only time is lost."""
        return False

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)  # type: ignore[attr-defined]
        if formula is not None:
            self.flops += int(formula(*args, **(kwargs or {}), out_val=found))
        return found
