"""What training computes in: float32, or bfloat16 in layers that multiply, but for those that a processor is slow at.

The gradient of a depthwise convolution's images, in bfloat16 and with a stride, takes a processor two hundred times as
long as in float32 (oneDNN has no kernel for it), and four such layers most of a step of MobileNetV2. Depthwise
convolutions multiply little, so that all of them stay in float32 there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from trainables.recipe import Recipe


@contextmanager
def autocast(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Within it layers compute in the recipe's precision; parameters and their gradients stay float32."""
    if recipe.precision == "fp32":
        yield
    elif device.type == "cpu":
        with torch.autocast("cpu", dtype=torch.bfloat16), _DepthwiseInFloat32():
            yield
    else:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield


class _DepthwiseInFloat32(TorchFunctionMode):
    """Within it autocast leaves convolutions alone whose every channel is a group of its own."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        if func is F.conv2d and len(args) > 1:
            images, weight, *others = args
            if weight.shape[1] == 1 < images.shape[-3]:
                with torch.autocast("cpu", enabled=False):
                    return func(images.to(weight.dtype), weight, *others, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
