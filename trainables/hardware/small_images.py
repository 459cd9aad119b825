"""Convolutions to few pixels in bfloat16 on a processor, whose weights' gradient is a product of matrices.

On a processor with AMX oneDNN 3.13.3, of torch 2.15, takes three to seven times as long for that gradient as for the
forward pass where outputs have 4x4 pixels or fewer, as the last layers of VGG16 and ResNet-18 on small images. The
outputs' gradients times what the kernel saw of the images, side by side for each output, takes 0.05 to 0.6 of that.
With more pixels the convolution is the faster one, and so it is in float32 and on processors without AMX.
"""

from typing import Any

import torch
import torch.nn.functional as F

from trainables.hardware.library import Steps, gradient

MOST_OUTPUTS = 4 * 4
"""Pixels of an image that comes out."""


def convolve(
    images_NCHW: torch.Tensor, weight_OIHW: torch.Tensor, bias_O: torch.Tensor | None, steps: Steps
) -> torch.Tensor:
    """Convolve all channels.

    Args:
        images_NCHW: on a processor, with their channels last.
        weight_OIHW: of the same type.
        bias_O: likewise.
        steps: of the kernel.

    Returns:
        Images whose channels lie last; gradients are those of `torch.nn.functional.conv2d`.
    """
    output: torch.Tensor = _ToFewPixels.apply(images_NCHW, weight_OIHW, bias_O, *steps)
    return output


class _ToFewPixels(torch.autograd.Function):
    @staticmethod
    def forward(  # noqa: PLR0913, PLR0917 - a function of autograd takes what it is given by place
        ctx: Any,  # noqa: ANN401 - torch's own, which has no type
        images: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> torch.Tensor:
        ctx.save_for_backward(images, weight)
        ctx.steps = Steps(stride, padding, dilation)
        return F.conv2d(images, weight, bias, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, *above: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # noqa: ANN401
        images, weight = ctx.saved_tensors
        above_NCHW = above[0].contiguous(memory_format=torch.channels_last)
        of_images, of_weight, of_bias, *_ = ctx.needs_input_grad
        return (
            gradient("images", above_NCHW, images, weight, ctx.steps, groups=1) if of_images else None,
            _of_weight(above_NCHW, images, weight, ctx.steps) if of_weight else None,
            above_NCHW.sum((0, 2, 3)) if of_bias else None,
            None,
            None,
            None,
        )


def _of_weight(above: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, steps: Steps) -> torch.Tensor:
    outputs, inputs, *kernel = weight.shape
    (rows, columns), padded_NHWC = steps.padding, images.permute(0, 2, 3, 1)
    padded_NHWC = F.pad(padded_NHWC, (0, 0, columns, columns, rows, rows))
    seen = padded_NHWC
    for side, (k, stride, dilation) in enumerate(zip(kernel, steps.stride, steps.dilation, strict=True), start=1):
        seen = seen.unfold(side, dilation * (k - 1) + 1, stride)[..., ::dilation]
    # Images, rows, columns, channels, and of the kernel rows and columns.
    seen_PK = seen.permute(0, 1, 2, 4, 5, 3).flatten(3).flatten(0, 2)
    above_PO = above.permute(0, 2, 3, 1).flatten(0, 2)
    return (above_PO.t() @ seen_PK).view(outputs, *kernel, inputs).permute(0, 3, 1, 2)
