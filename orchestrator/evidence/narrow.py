"""A network narrowed evenly: every group keeps the same part of its channels, with fresh random weights."""

import numpy as np
import torch
from torch import nn

from orchestrator.words import percent
from trainables.errors import InputError
from trainables.model_config import ModelConfig
from trainables.networks.layers import initialise
from trainables.networks.models import build
from trainables.pruning.channels import network_widths, resize
from trainables.pruning.cost import IntVector, SizeModel, macs_model
from trainables.pruning.dependencies import find_groups
from trainables.pruning.selection import TOLERANCE


def even_counts(full_G: IntVector, sizes: SizeModel, target: float) -> IntVector:
    """Channels of each group, the same part of all of them but for rounding, whose size is within 2 % of a target.

    Raises:
        InputError: if no such widths are found.
    """
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sizes.total(_part(full_G, middle)) <= target else (low, middle)
    counts_G = _part(full_G, low)
    for _ in range(4 * len(full_G)):  # rounding left some room: one channel here and there
        choices = [
            counts_G,
            *(counts_G + step * one_G for one_G in np.eye(len(full_G), dtype=np.int64) for step in (1, -1)),
        ]
        allowed = [choice for choice in choices if (choice >= 1).all() and (choice <= full_G).all()]
        closest = min(allowed, key=lambda choice: abs(sizes.total(choice) - target))
        if closest is counts_G:
            break
        counts_G = closest
    if abs(sizes.total(counts_G) / target - 1) > TOLERANCE:
        raise InputError(
            f"no even widths come within {percent(TOLERANCE, 0)} of {target / 1e6:.4g} M MACs; ask for more"
        )
    return counts_G


def _part(full_G: IntVector, part: float) -> IntVector:
    counts_G: IntVector = np.maximum(1, np.round(full_G * part)).astype(np.int64)
    return counts_G


def even_network(
    model: ModelConfig, *, num_classes: int, input_shape: tuple[int, int, int], size: float, seed: int
) -> nn.Module:
    """A model's network at a fraction of its MACs, with weights drawn from a seed."""
    network = build(model, num_classes=num_classes, in_channels=input_shape[0], seed=seed)
    channel_map = find_groups(network, input_shape)
    sizes = macs_model(network, channel_map, input_shape)
    full_G = np.array([group.num_channels for group in channel_map.groups])
    counts_G = even_counts(full_G, sizes, size * sizes.total(full_G))
    kept = {group.name: torch.arange(int(count)) for group, count in zip(channel_map.groups, counts_G, strict=True)}
    resize(network, network_widths(network) | channel_map.narrowed(kept))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for layer in network.modules():
            draw = getattr(layer, "reset_parameters", None)
            if callable(draw):
                draw()
        initialise(network)
    return network
