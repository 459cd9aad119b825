"""What must hold of a network before it is pruned, checked on the network itself in seconds.

The dense network with its gates closed and the narrow network agree; the closed form of the MACs is the count of the
narrow network; what is saved of the narrow network gives its outputs back; a training step succeeds and tells channels
apart. Weights are drawn anew for the first of these, so that nothing hides behind a weight that is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from trainables.errors import InputError
from trainables.networks.models import require_real_parameters
from trainables.pruning.channels import ChannelMap
from trainables.pruning.dependencies import find_groups
from trainables.pruning.draws import draws
from trainables.pruning.first_step import require_none_kept, take_step
from trainables.pruning.possible_sizes import floor_fraction
from trainables.pruning.probe import TOLERANCE, Probe
from trainables.pruning_config import Pruning, SizeUnit
from trainables.recipe import Precision
from trainables.seeds import seeded_layers


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Findings:
    """What was found out about a network that keeps the contracts.

    Attributes:
        channel_map: its channel groups, and what is held whole and why.
        silent: groups whose saliency is zero for every channel, as behind a zero-initialised layer.
        smallest: fraction of the MACs, or of the parameters where sizes are counted in these, that is left when all
            groups are at their floors, in (0, 1). Of latency nothing is known yet.
        difference: between the scores of the gated and the narrow network, relative to what closing the gates changes.
        probabilities: whether the scores are none below zero and sum to one for each image, as behind a softmax.
    """

    channel_map: ChannelMap
    silent: tuple[str, ...]
    smallest: float
    difference: float
    probabilities: bool


def check_contracts(
    network: nn.Module,
    input_shape: tuple[int, int, int],
    *,
    pruning: Pruning,
    criteria: Sequence[str] = (),
    precisions: Sequence[Precision] = ("fp32",),
) -> Findings:
    """Check a network as it will be used; it is left as it was.

    Args:
        network: on the CPU.
        input_shape: channels, height and width of an image.
        pruning: what is kept, and the floors.
        criteria: names of those for saliency, of which the user's own are tried.
        precisions: that training steps are tried in.

    Raises:
        InputError: if a contract does not hold, naming the group of channels and the reason, or a criterion gives no
            scores.
    """
    require_real_parameters(network)
    channel_map = find_groups(network, input_shape, keep=pruning.keep)
    require_none_kept(network)  # hooks that are functions write to the network itself when its copy is traced
    for pattern, floor in pruning.floors.items():
        widths = [group.num_channels * group.block for group in channel_map.groups if group.gives(pattern)]
        if not widths:
            raise InputError(
                f"cascade.pruning.floors has {pattern!r}, but no layer whose channels can be removed is called so; "
                f"there are {', '.join(group.name for group in channel_map.groups[:3])} …"
            )
        if floor > max(widths):
            raise InputError(
                f"cascade.pruning.floors of {pattern} is {floor}, but what is called so has {max(widths)} channels at "
                "the most; lower it, or leave them all alone by cascade.pruning.keep"
            )
    generator = torch.Generator().manual_seed(0)
    images_NCHW = torch.randn(2, *input_shape, generator=generator)
    unit: SizeUnit = "params" if pruning.size_in == "params" else "macs"
    with seeded_layers(0, torch.device("cpu")):
        silent = take_step(network, channel_map, images_NCHW, criteria, precisions)
        probe = Probe(network, channel_map, images_NCHW, generator)
        difference = probe.check(draws(channel_map.groups, pruning, generator), pruning)
    return Findings(
        channel_map=channel_map,
        silent=silent,
        smallest=floor_fraction(probe.sizes[unit], channel_map, pruning),
        difference=difference,
        probabilities=_gives_probabilities(probe.dense_NK),
    )


def _gives_probabilities(scores_NK: torch.Tensor) -> bool:
    """Tell whether each image's scores are a distribution over the classes."""
    sums_N = scores_NK.sum(1)
    return bool((scores_NK >= 0).all()) and torch.allclose(sums_N, torch.ones_like(sums_N), atol=TOLERANCE)
