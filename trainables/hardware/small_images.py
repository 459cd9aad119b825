"""Convolutions to few pixels in bfloat16 on a processor, whose weights' gradient is a product of matrices.

On a processor with AMX oneDNN 3.13.3, of torch 2.15, takes three to seven times as long for that gradient as for the
forward pass where outputs have 4x4 pixels or fewer, as the last layers of VGG16 and ResNet-18 on small images. The
outputs' gradients times what the kernel saw of the images, side by side for each output, takes 0.05 to 0.6 of that.
With more pixels the convolution is the faster one, and so it is in float32 and on processors without AMX.
"""

import torch
import torch.nn.functional as F

from trainables.hardware.library import Steps, gradient

MOST_OUTPUTS = 4 * 4
"""Pixels of an image that comes out."""


def of_images(above: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, steps: Steps) -> torch.Tensor:
    """The gradient of images, of that of what came out, which lies channels last: the library's."""
    return gradient("images", above, images, weight, steps, groups=1)


def of_weight(above: torch.Tensor, images: torch.Tensor, weight: torch.Tensor, steps: Steps) -> torch.Tensor:
    """The gradient of the weight, likewise."""
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
