"""Makes a network that only answers faster, without changing what it says beyond the last bits.

What each brings, and where: docs/experiments.md, 2026-12-01.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode

CLIPS_ON_CPU = 8
"""At once: what a larger batch leaves between two layers does not stay in a core's cache."""
_FOLDED = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Fold batch norms into the convolutions right before them, in place, and return the network; for inference only."""
    for layers in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for position, (layer, following) in enumerate(pairwise(list(layers))):
            if any(type(layer) is conv and type(following) is norm for conv, norm in _FOLDED):
                layers[position] = fuse_conv_bn_eval(layer.eval(), following.eval())  # type: ignore[type-var, arg-type]
                layers[position + 1] = nn.Identity()
    return network


class OneDnnConvolutions(TorchFunctionMode):
    """Within it 3-D convolutions of float32 on a CPU are oneDNN's, whatever the size of the batch; for inference only.

    For a single clip, and for kernels that are one pixel wide on a single thread, torch takes a routine of its own instead
    (``slow_conv3d``; see ``use_mkldnn`` in its ATen/native/Convolution.cpp). For networks of (2+1)D convolutions that is about
    twice as slow, and a cascade asks its teacher about a few clips of a video at a time.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, or ours in place of ``torch.conv3d``."""
        return (_convolve if func is torch.conv3d else func)(*args, **(kwargs or {}))


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    is_ours = input.dim() == 5 and input.device.type == "cpu" and input.dtype == weight.dtype == torch.float32
    if not is_ours or isinstance(padding, str) or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return torch.conv3d(input, weight, bias, stride, padding, dilation, groups)
    by_axis = [[value] * 3 if isinstance(value, int) else list(value) for value in (padding, stride, dilation)]
    found: Tensor = torch.ops.aten.mkldnn_convolution(input, weight, bias, *by_axis, groups)
    return found
