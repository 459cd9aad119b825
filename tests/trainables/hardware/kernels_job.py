"""More kernels of oneDNN than it keeps by itself, twice: what it says of the second time goes to standard output."""

import trainables  # noqa: F401, I001 - before torch's first convolution

import torch
import torch.nn.functional as F

WIDTHS = range(17, 317)


def step() -> None:
    """A convolution of every width, there and back."""
    for width in WIDTHS:
        images = torch.ones(2, 3, 8, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
        weight = torch.ones(width, 3, 3, 3, requires_grad=True)
        F.conv2d(images, weight).sum().backward()  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    torch.set_num_threads(1)
    step()
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON_CREATION):
        step()
