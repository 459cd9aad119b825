"""What training computes in: float32, or bfloat16 in layers that multiply, but for those that a processor is slow at.

The gradient of a depthwise convolution's images, in bfloat16 and with a stride, takes a processor two hundred times as
long as in float32 (oneDNN has no kernel for it), and four such layers most of a step of MobileNetV2. Depthwise
convolutions multiply little, so that all of them stay in float32 there.

A convolution of single pixels is a product of matrices, images' pixels times channels. On a processor oneDNN's product
takes 0.5 to 0.95 of the time of its convolution in bfloat16, forward and backward, where images are small. In float32
torch multiplies by another library, which takes twice as long on some processors.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from trainables.recipe import Recipe

# Of an image, before a stride; with more, the convolution is as fast or faster (64 images, 8 to 1600 channels).
_MOST_PIXELS, _MOST_PIXELS_STRIDED = 16 * 16, 8 * 8


@contextmanager
def autocast(recipe: Recipe, device: torch.device) -> Iterator[None]:
    """Within it layers compute in the recipe's precision; parameters and their gradients stay float32."""
    if recipe.precision == "fp32":
        yield
    elif device.type == "cpu":
        with torch.autocast("cpu", dtype=torch.bfloat16), _ByWhatIsFast():
            yield
    else:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            yield


class _ByWhatIsFast(TorchFunctionMode):
    """Within it depthwise convolutions stay in float32, and those of single pixels become products of matrices."""

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
            product = None if kwargs else _as_product(images, weight, *others)
            if product is not None:
                return product
        return func(*args, **(kwargs or {}))


def _as_product(  # noqa: PLR0913, PLR0917 - those of a convolution
    images: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    _dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> torch.Tensor | None:
    """A convolution as the product of matrices that it is; `None` where it is none, or is not faster so."""
    if weight.shape[2:] != (1, 1) or groups > 1 or padding not in (0, (0, 0), "valid"):
        return None
    rows, columns = (stride, stride) if isinstance(stride, int) else (stride[0], stride[-1])
    most_pixels = _MOST_PIXELS if rows == columns == 1 else _MOST_PIXELS_STRIDED
    if not _lies_channels_last(images) or images.shape[2:].numel() > most_pixels or images.shape[1] != weight.shape[1]:
        return None
    pixels_NHWC = images.permute(0, 2, 3, 1)[:, ::rows, ::columns].contiguous()
    return F.linear(pixels_NHWC, weight.flatten(1), bias).permute(0, 3, 1, 2)


def _lies_channels_last(images: torch.Tensor) -> bool:
    """Whether a convolution of them would lie so; images of one channel, which lie both ways, stay as they are."""
    return (
        images.ndim == 4
        and images.is_contiguous(memory_format=torch.channels_last)
        and (images.shape[2:] == (1, 1) or not images.is_contiguous())
    )
