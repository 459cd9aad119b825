"""A convolution's gradients as torch's library computes them, one at a time."""

from typing import Literal, NamedTuple

import torch


class Steps(NamedTuple):
    """How a kernel goes over an image, by rows and columns; zeros are `padding` wide on either side."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def outputs(self, image: torch.Size, kernel: torch.Size) -> tuple[int, int]:
        """Rows and columns of what comes out, of those of an image and a kernel; below 1 where nothing does."""
        rows, columns = (
            (size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in zip(image, kernel, *self, strict=True)
        )
        return rows, columns


def gradient(  # noqa: PLR0913
    of: Literal["images", "weight"],
    above_NCHW: torch.Tensor,
    images_NCHW: torch.Tensor,
    weight: torch.Tensor,
    steps: Steps,
    *,
    groups: int,
) -> torch.Tensor:
    """The gradient of one of a convolution's inputs.

    Args:
        of: which one.
        above_NCHW: gradient of what the convolution gave.
        images_NCHW: that it was given.
        weight: likewise.
        steps: how it went over them.
        groups: of channels.
    """
    wanted = [of == "images", of == "weight", False]
    found = torch.ops.aten.convolution_backward(
        above_NCHW,
        images_NCHW,
        weight,
        None,
        *steps,
        transposed=False,
        output_padding=(0, 0),
        groups=groups,
        output_mask=wanted,
    )
    asked: torch.Tensor = found[wanted.index(True)]
    return asked
