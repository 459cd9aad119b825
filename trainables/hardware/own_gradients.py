"""Convolutions on a processor whose gradients are not all the library's: `depthwise` and `small_images` say which."""

from typing import Any

import torch
import torch.nn.functional as F

from trainables.hardware import depthwise, small_images
from trainables.hardware.library import Steps


def convolve(
    images_NCHW: torch.Tensor, weight_OIHW: torch.Tensor, bias_O: torch.Tensor | None, steps: Steps, *, groups: int
) -> torch.Tensor:
    """Convolve all channels together, or each with a kernel of its own.

    Args:
        images_NCHW: on a processor, with their channels last.
        weight_OIHW: of the same type.
        bias_O: likewise.
        steps: of the kernel; where each channel has its own, paddings are smaller than it.
        groups: 1, or as many as channels.

    Returns:
        Images whose channels lie last; gradients are those of `torch.nn.functional.conv2d`.
    """
    output: torch.Tensor = _Convolution.apply(images_NCHW, weight_OIHW, bias_O, *steps, groups)
    return output


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - a function of autograd takes what it is given by place
        ctx: Any,  # noqa: ANN401 - torch's own, which has no type
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
        groups: int,
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.steps, ctx.groups = Steps(stride, padding, dilation), groups
        return F.conv2d(images, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        images, weight = ctx.saved_tensors
        above_NCHW = above[0].contiguous(memory_format=torch.channels_last)
        gradients = small_images if ctx.groups == 1 else depthwise
        of_images, of_weight, of_bias, *_ = ctx.needs_input_grad
        return (
            gradients.of_images(above_NCHW, images, weight, ctx.steps) if of_images else None,
            gradients.of_weight(above_NCHW, images, weight, ctx.steps) if of_weight else None,
            above_NCHW.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
            None,
            None,
        )
