"""Which sizes the channels of a network can be pruned to, before any of them is chosen."""

import itertools
import math

import numpy as np

from trainables.pruning.channels import ChannelMap
from trainables.pruning.cost import FloatVector, SizeModel
from trainables.pruning.selection import TOLERANCE, least_channels, possible_counts
from trainables.pruning_config import Pruning

_MOST_CHOICES = 2**16


def floor_fraction(sizes: SizeModel, channel_map: ChannelMap, pruning: Pruning) -> float:
    """Part of the size that is left when all groups are at their floors, or the multiples above them, in (0, 1]."""
    full_G = np.array([group.num_channels for group in channel_map.groups])
    return _smallest(sizes, channel_map, pruning) / sizes.total(full_G)


def smallest_target(sizes: SizeModel, channel_map: ChannelMap, pruning: Pruning) -> float:
    """Size below which no size can be asked for: every group at its floor or the multiple above it, less the tolerance.

    What is asked above it is met as well where widths are not rounded, but for gaps that single channels leave
    (`possible_sizes`).
    """
    return _smallest(sizes, channel_map, pruning) / (1 + TOLERANCE)


def _smallest(sizes: SizeModel, channel_map: ChannelMap, pruning: Pruning) -> float:
    return sizes.total(np.array([possible_counts(group, pruning)[0] for group in channel_map.groups]))


def possible_sizes(sizes: SizeModel, channel_map: ChannelMap, pruning: Pruning) -> FloatVector | None:
    """All sizes that whole channels give, ascending, or `None` where there are too many to look at all of them.

    Few channels leave gaps of more than the tolerance between their sizes; many leave none. Rounded widths are not held
    to sizes.
    """
    floors = [least_channels(group, pruning) for group in channel_map.groups]
    spans = [range(floor, group.num_channels + 1) for floor, group in zip(floors, channel_map.groups, strict=True)]
    if pruning.round_to > 1 or math.prod(map(len, spans)) > _MOST_CHOICES:
        return None
    return np.unique(sizes.totals(np.array(list(itertools.product(*spans)))))


def nearest_size(possible: FloatVector, target: float) -> float:
    """The one of some sizes, ascending, that is next to a target."""
    after = np.searchsorted(possible, target)
    around = possible[max(after - 1, 0) : after + 1]
    return float(around[np.argmin(np.abs(around - target))])


def nearest_of_missed(possible: FloatVector | None, target: float) -> float | None:
    """The size next to a target that no size meets; `None` where one does, or where not all sizes are known."""
    if possible is None:
        return None
    nearest = nearest_size(possible, target)
    return None if abs(nearest / target - 1) <= TOLERANCE else nearest
