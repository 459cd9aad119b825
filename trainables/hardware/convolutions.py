"""Convolutions on a processor, some of which its library gets wrong, and some of which it is slow at.

Wrong: oneDNN 3.13.3, of torch 2.15, writes past its own memory in the gradient of a weight of single pixels, with a
stride, over images whose channels lie last and are fewer than its block of them
(https://github.com/uxlfoundation/oneDNN/issues/6035). It was seen with AVX2, whose block is of 8: with one thread the
process crashes sooner or later, with several the gradient is wrong. Shortcuts of pruned ResNets are such layers.
Without a stride it is right, and the pixels that a stride leaves out can be left out before.

Slow: some gradients of depthwise convolutions, and of convolutions to few pixels (see `depthwise`, `small_images`). A
convolution of single pixels is a product of
matrices, images' pixels times channels, which in bfloat16 takes 0.5 to 0.95 of the time of the convolution, forward and
backward, where images are small. In float32 torch multiplies by another library, which takes twice as long on some
processors.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from trainables.hardware.library import Steps
from trainables.hardware.own_gradients import convolve
from trainables.hardware.small_images import MOST_OUTPUTS
from trainables.recipe import Precision

# Channels of an image: the larger block, that of AVX-512, as a precaution.
_BLOCK = 16
# Of an image, before a stride; with more, the convolution is as fast or faster (64 images, 8 to 1600 channels).
_MOST_PIXELS, _MOST_PIXELS_STRIDED = 16 * 16, 8 * 8


def cpu_convolutions(network: nn.Module, precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Within it a network's convolutions are computed as a processor computes them right, and fast.

    Where nothing of it is wrong or slow, and on a card, calls are left alone: each that is looked at takes some
    microseconds.

    Args:
        network: as wide as it is now.
        precision: that layers compute in, but where the network has an autocast of its own.
        device: of network and images.
    """
    if device.type == "cpu" and (precision == "bf16" or any(map(_may_be_wrong_or_slow, network.modules()))):
        return _Convolutions()
    return nullcontext()


def _may_be_wrong_or_slow(layer: nn.Module) -> bool:
    if not isinstance(layer, nn.Conv2d):
        return False
    if layer.weight.shape[2:] == (1, 1):
        return max(layer.stride) > 1 and layer.weight.shape[1] < _BLOCK
    return layer.weight.shape[1] == 1 < layer.groups


class _Convolutions(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._convolve = partial(_convolve, has_kernels=has_kernels_for_bf16(), has_matrix_unit=has_matrix_unit())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        if func is F.conv2d:
            return self._convolve(_Convolution(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))


class _Convolution(NamedTuple):
    """What `torch.nn.functional.conv2d` is given, in its order and by its names."""

    input: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None = None
    stride: int | Sequence[int] = 1
    padding: str | int | Sequence[int] = 0
    dilation: int | Sequence[int] = 1
    groups: int = 1

    @property
    def strides(self) -> tuple[int, int]:
        """Of rows and columns."""
        return _pair(self.stride)

    @property
    def steps(self) -> Steps | None:
        """How kernels of several pixels go over images whose channels lie last; `None` if it is anything else."""
        kernel, images = self.weight.shape[2:], self.input
        if max(kernel) == 1 or isinstance(self.padding, str) or not _lies_channels_last(images):
            return None
        return Steps(_pair(self.stride), _pair(self.padding), _pair(self.dilation))

    @property
    def depthwise_steps(self) -> Steps | None:
        """Those of kernels of one channel each, which are wider than the padding; `None` if it is anything else."""
        channels, of_each, *kernel = self.weight.shape
        steps = self.steps
        if steps is None or not of_each == 1 < channels == self.groups == self.input.shape[1]:
            return None
        beyond = [p > d * (k - 1) for k, p, d in zip(kernel, steps.padding, steps.dilation, strict=True)]
        return None if any(beyond) else steps

    @property
    def steps_to_few_pixels(self) -> Steps | None:
        """Those of kernels of all channels, from which few pixels come out; `None` if it is anything else."""
        steps = self.steps
        if steps is None or self.groups > 1 or self.weight.shape[1] != self.input.shape[1]:
            return None
        rows, columns = steps.outputs(self.input.shape[2:], self.weight.shape[2:])
        return steps if min(rows, columns) > 0 and rows * columns <= MOST_OUTPUTS else None

    @property
    def is_of_single_pixels(self) -> bool:
        unpadded = self.padding in (0, "valid") or not (isinstance(self.padding, str | int) or any(self.padding))
        return unpadded and self.weight.shape[2:] == (1, 1)

    @property
    def pixels_read(self) -> torch.Tensor:
        """The images without the pixels that the stride of one of single pixels leaves out, lying as they do."""
        rows, columns = self.strides
        layout = torch.channels_last if _lies_channels_last(self.input) else torch.contiguous_format
        return self.input[..., ::rows, ::columns].contiguous(memory_format=layout)


def _pair(of_each_side: int | Sequence[int]) -> tuple[int, int]:
    """Of rows and columns; torch takes one number for both."""
    return (of_each_side, of_each_side) if isinstance(of_each_side, int) else (of_each_side[0], of_each_side[-1])


def _convolve(convolution: _Convolution, *, has_kernels: bool, has_matrix_unit: bool) -> torch.Tensor:
    """A convolution in the precision of the autocast that it stands in: the recipe's, or one of the network's own."""
    if not torch.is_autocast_enabled("cpu"):
        return _in_float32(convolution)
    # An autocast leaves numbers of 64 bits as they are.
    if torch.get_autocast_dtype("cpu") != torch.bfloat16 or convolution.input.dtype == torch.float64:
        return _stride_first(convolution)
    return _in_bfloat16(convolution, has_kernels=has_kernels, has_matrix_unit=has_matrix_unit)


def _in_float32(convolution: _Convolution) -> torch.Tensor:
    steps = convolution.depthwise_steps
    if steps is None:
        return _stride_first(convolution)
    return convolve(*convolution[:3], steps, groups=convolution.groups)


def _stride_first(convolution: _Convolution) -> torch.Tensor:
    """A convolution; a narrow one of single pixels after its stride, so that its gradient is right."""
    if convolution.is_of_single_pixels and convolution.strides != (1, 1) and convolution.weight.shape[1] < _BLOCK:
        convolution = convolution._replace(input=convolution.pixels_read, stride=1)
    return F.conv2d(*convolution)  # type: ignore[arg-type]


@cache
def has_kernels_for_bf16() -> bool:
    """Whether this processor has, for depthwise convolutions; without, they take up to eighty times as long."""
    return bool(torch.cpu.get_capabilities().get("avx512_f"))


@cache
def has_matrix_unit() -> bool:
    """Whether this processor multiplies matrices in bfloat16 by a unit of its own, Intel's AMX."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))


def _in_bfloat16(convolution: _Convolution, *, has_kernels: bool, has_matrix_unit: bool) -> torch.Tensor:
    steps = convolution.depthwise_steps if has_kernels else None
    if steps is None and has_matrix_unit:
        steps = convolution.steps_to_few_pixels
    images, weight, bias = convolution[:3]
    if steps is not None:
        in_bf16 = None if bias is None else bias.bfloat16()
        return convolve(images.bfloat16(), weight.bfloat16(), in_bf16, steps, groups=convolution.groups)
    if weight.shape[1] == 1 < images.shape[-3]:
        with torch.autocast("cpu", enabled=False):
            return _in_float32(convolution._replace(input=images.to(weight.dtype)))
    return _as_product(convolution) if _is_product(convolution) else _stride_first(convolution)


def _is_product(convolution: _Convolution) -> bool:
    """Whether a convolution is a product of matrices, and faster so."""
    images, weight = convolution.input, convolution.weight
    if not convolution.is_of_single_pixels or convolution.groups > 1:
        return False
    most_pixels = _MOST_PIXELS if convolution.strides == (1, 1) else _MOST_PIXELS_STRIDED
    return (
        _lies_channels_last(images) and images.shape[2:].numel() <= most_pixels and images.shape[1] == weight.shape[1]
    )


def _as_product(convolution: _Convolution) -> torch.Tensor:
    pixels_NHWC = convolution.pixels_read.permute(0, 2, 3, 1)
    return F.linear(pixels_NHWC, convolution.weight.flatten(1), convolution.bias).permute(0, 3, 1, 2)


def _lies_channels_last(images: torch.Tensor) -> bool:
    """Whether a convolution of them would lie so; images of one channel, which lie both ways, stay as they are."""
    try:
        channels_last = images.ndim == 4 and images.is_contiguous(memory_format=torch.channels_last)
    except RuntimeError:  # within torch.func.vmap, which knows of one layout
        return False
    return channels_last and (images.shape[2:] == (1, 1) or not images.is_contiguous())
