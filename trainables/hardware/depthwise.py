"""Depthwise convolutions on a processor, and gradients of them that its library has fast kernels for.

Where channels lie last, oneDNN 3.13.3, of torch 2.15, has kernels for depthwise convolutions, forward and backward, but
not for all gradients of them. Without one it takes that of grouped convolutions or one of plain loops:

- of weights: unless there are three columns or fewer, and the image is larger than the kernel. With 5x5 and 7x7, as in
  EfficientNet and ConvNeXt, it takes 8 to 13 times as long as the forward pass in float32, and 25 to 60 times in
  bfloat16; with 3x3 on images of 2x2 it is 20 and 50 times. Strips of three columns have their kernel, whatever their
  height, over images to which the padding has been added. With dilation there is none for strips, either, and for
  kernels of one row they take longer in float32.
- of images: in bfloat16 with a stride it takes a hundred times as long as the forward pass. Zeros between the gradients
  of the outputs make it one without a stride, and that is a forward pass with the kernel turned around.
"""

import torch
import torch.nn.functional as F

from trainables.hardware.library import Steps, gradient

_MOST_COLUMNS = 3


def of_images(above: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, steps: Steps) -> torch.Tensor:
    """The gradient of images, of that of what came out, which lies channels last."""
    if steps.stride != (1, 1):
        if above.dtype != torch.bfloat16:
            return gradient("images", above, images, weight, steps, groups=len(weight))
        above = _with_zeros_between(above, images, weight, steps)
    beside = [d * (k - 1) - p for k, p, d in zip(weight.shape[2:], steps.padding, steps.dilation, strict=True)]
    return F.conv2d(above, weight.flip(2, 3), None, 1, beside, steps.dilation, groups=len(weight))


def _with_zeros_between(above: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Gradients of the outputs as they would be without a stride, where those that it leaves out count nothing."""
    rows, columns = (
        size + 2 * p - d * (k - 1)
        for size, k, p, d in zip(images.shape[2:], weight.shape[2:], steps.padding, steps.dilation, strict=True)
    )
    spread_NHWC = above.new_zeros(len(above), rows, columns, above.shape[1])
    spread_NHWC[:, :: steps.stride[0], :: steps.stride[1]] = above.permute(0, 2, 3, 1)
    return spread_NHWC.permute(0, 3, 1, 2)


def of_weight(above: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, steps: Steps) -> torch.Tensor:
    """The gradient of the weight, likewise."""
    if not _is_faster_in_strips(images, weight, steps):
        return gradient("weight", above, images, weight, steps, groups=len(weight))
    rows, columns = steps.padding
    padded = F.pad(images, (columns, columns, rows, rows))
    unpadded = steps._replace(padding=(0, 0))
    stride = steps.stride[1]
    strips = []
    for left, kernel in enumerate(torch.split(weight, _MOST_COLUMNS, dim=3)):
        first = left * _MOST_COLUMNS
        seen = (above.shape[3] - 1) * stride + kernel.shape[3]
        strip = padded[..., first : first + seen].contiguous(memory_format=torch.channels_last)
        strips.append(gradient("weight", above, strip, kernel, unpadded, groups=len(weight)))
    return torch.cat(strips, dim=3)


def _is_faster_in_strips(images: torch.Tensor, weight: torch.Tensor, steps: Steps) -> bool:
    rows, columns = weight.shape[2:]
    if steps.dilation != (1, 1) or (rows == 1 and weight.dtype != torch.bfloat16):
        return False
    return columns > _MOST_COLUMNS or any(size <= k for size, k in zip(images.shape[2:], weight.shape[2:], strict=True))
