"""What training computes in: float32, or bfloat16 in layers that multiply."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from trainables.hardware.convolutions import cpu_convolutions
from trainables.recipe import Recipe


@contextmanager
def autocast(recipe: Recipe, network: nn.Module, device: torch.device) -> Iterator[None]:
    """Within it the network's layers compute in the recipe's precision; parameters and their gradients stay float32.

    On a processor some convolutions are computed in another way, or stay in float32: see `convolutions`.
    """
    in_bf16 = recipe.precision == "bf16"
    with (
        torch.autocast(device.type, dtype=torch.bfloat16) if in_bf16 else nullcontext(),
        cpu_convolutions(network, recipe.precision, device),
    ):
        yield
