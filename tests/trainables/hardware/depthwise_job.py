"""Depthwise convolutions and their gradients, as training computes them, against float64."""

import torch
from torch import nn

from tests.trainables.hardware.shortcuts_job import differences

NUM_DRAWN = 120


def worst_difference(generator: torch.Generator) -> float:
    """Over drawn kernels, strides, dilations, paddings, images, layouts and numbers of threads; none may be NaN."""

    def drawn(least: int, most: int) -> int:
        return int(torch.randint(least, most + 1, (), generator=generator))

    found = []
    for number in range(NUM_DRAWN):
        torch.set_num_threads(1 + number % 2)
        kernel, dilation = (drawn(1, 7), drawn(1, 7)), (drawn(1, 2), drawn(1, 2))
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        padding = (drawn(0, reach[0] + 1), drawn(0, reach[1] + 1))  # wider than a kernel, too
        least = [max(1, r + 1 - 2 * p) for r, p in zip(reach, padding, strict=True)]
        channels = drawn(2, 40)
        layer = nn.Conv2d(
            channels,
            channels,
            kernel,
            stride=(drawn(1, 3), drawn(1, 3)),
            padding=padding,
            dilation=dilation,
            groups=channels,
            bias=bool(drawn(0, 1)),
        )
        images = torch.randn(drawn(1, 4), channels, drawn(least[0], 17), drawn(least[1], 17))
        layout = torch.contiguous_format if number % 5 == 0 else torch.channels_last
        found += differences(layer, images.contiguous(memory_format=layout))
    return float(torch.stack(found).max())
