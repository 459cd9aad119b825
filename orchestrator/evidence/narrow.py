"""A network narrowed evenly: every group keeps the same part of its channels, with fresh random weights."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from orchestrator.words import percent
from trainables.errors import InputError
from trainables.model_config import ModelConfig
from trainables.networks.layers import initialise
from trainables.networks.models import build
from trainables.pruning.channels import ChannelMap, network_widths, resize
from trainables.pruning.cost import FloatVector, IntVector, SizeModel, macs_model
from trainables.pruning.dependencies import find_groups
from trainables.pruning.selection import TOLERANCE, possible_counts
from trainables.pruning_config import Pruning


def even_counts(channel_map: ChannelMap, pruning: Pruning, sizes: SizeModel, target: float) -> IntVector:
    """Channels of each group, the same part of all of them but for rounding, whose size is within 2 % of a target.

    Each is a number that a level may be left with. Multiples may come no closer than a smaller size.

    Raises:
        InputError: if no such widths are found.
    """
    possible = [possible_counts(group, pruning) for group in channel_map.groups]
    full_G = np.array([group.num_channels for group in channel_map.groups])
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if sizes.total(_nearest(possible, full_G * middle)) <= target else (low, middle)
    counts_G = _nearest(possible, full_G * low)
    for _ in range(4 * len(full_G)):  # rounding left some room: one step here and there
        choices = [counts_G]
        for place, counts in enumerate(possible):
            for step in (counts.step, -counts.step):
                if counts_G[place] + step in counts:
                    choices.append(counts_G.copy())
                    choices[-1][place] += step
        if pruning.round_to > 1:
            choices = [choice for choice in choices if sizes.total(choice) <= target] or choices[:1]
        closest = min(choices, key=lambda choice: abs(sizes.total(choice) - target))
        if closest is counts_G:
            break
        counts_G = closest
    off = sizes.total(counts_G) / target - 1
    if off > TOLERANCE or (off < -TOLERANCE and pruning.round_to == 1):
        raise InputError(
            f"no even widths come within {percent(TOLERANCE, 0)} of {target / 1e6:.4g} M MACs; ask for more"
        )
    return counts_G


def _nearest(possible: Sequence[range], wanted_G: FloatVector) -> IntVector:
    places = [
        min(max(round((wanted - counts.start) / counts.step), 0), len(counts) - 1)
        for counts, wanted in zip(possible, wanted_G, strict=True)
    ]
    return np.array([counts[place] for counts, place in zip(possible, places, strict=True)])


def even_network(
    model: ModelConfig,
    *,
    num_classes: int,
    input_shape: tuple[int, int, int],
    size: float,
    seed: int,
    pruning: Pruning | None = None,
) -> nn.Module:
    """A model's network at a fraction of its MACs, with weights drawn from a seed.

    Widths are such as pruning may leave: layers that it keeps are whole, and floors and multiples hold.
    """
    pruning = Pruning() if pruning is None else pruning
    network = build(model, num_classes=num_classes, in_channels=input_shape[0], seed=seed)
    channel_map = find_groups(network, input_shape, keep=pruning.keep)
    sizes = macs_model(network, channel_map, input_shape)
    whole = sizes.total(np.array([group.num_channels for group in channel_map.groups]))
    counts_G = even_counts(channel_map, pruning, sizes, size * whole)
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
