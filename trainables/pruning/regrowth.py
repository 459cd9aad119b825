"""Which channels may come back to a level: those it has lost whose return would change its loss the most.

A pruning event then chooses among what the level keeps and these, so that channels are exchanged where saliency says
so. That what went may return where gradients ask for it is of RigL (Evci et al. 2020), and that its weights stay
meanwhile of soft filter pruning (He et al. 2018).

Shape legend: C channels of a group in θ.
"""

import math
from collections.abc import Mapping

import torch

from trainables.pruning.channels import Kept


def share_at(fraction: float, regrowth: float) -> float:
    """Share of channels that may come back after a fraction of the ramp, in [0, 1]; none at its end, as in RigL."""
    return regrowth * 0.5 * (1.0 + math.cos(math.pi * fraction)) if fraction < 1.0 else 0.0


def may_return(
    kept: Kept, shared: Kept, scores: Mapping[str, torch.Tensor], *, share: float
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """What a level keeps, and of each group the channels that may come back.

    Args:
        kept: what the level keeps, by group.
        shared: what θ has, by group; all of `kept` is part of it.
        scores: saliency of each channel that θ has, by group.
        share: how many may come back, as a part of those that the level keeps of the group, rounded; the most salient
            do, and of equal ones those with the lowest numbers.

    Returns:
        The channels by group, sorted, and their saliency.
    """
    pool, found = {}, {}
    for group, shared_C in shared.items():
        chosen_C = torch.isin(shared_C, kept[group])
        lost = (~chosen_C).nonzero().flatten()
        order = torch.argsort(scores[group][lost], descending=True, stable=True)
        chosen_C[lost[order[: math.floor(share * len(kept[group]) + 0.5)]]] = True
        pool[group], found[group] = shared_C[chosen_C], scores[group][chosen_C]
    return pool, found
