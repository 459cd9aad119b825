"""How images lie in memory: with their channels last, or first."""

import torch
from torch import nn


@torch.no_grad()
def find_layout(network: nn.Module, images_NCHW: torch.Tensor) -> torch.memory_format:
    """Channels last, as narrow convolutions are up to a third faster so.

    A network that views a feature map as flat, which only works where channels come first, gets them first.

    Args:
        network: left in evaluation mode.
        images_NCHW: some that it is tried on.
    """
    try:
        network.eval()(images_NCHW.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last
