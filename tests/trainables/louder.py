"""A layer that tells whether what it counts goes on where training stopped."""

import torch
from torch import nn


class LouderEachTime(nn.Module):
    """Counts its steps of training in a buffer that is not saved with the network."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        self.seen += 1
        return x * (1 + self.seen / 10)
