"""Which levels a step of a joint stage trains: the largest, the smallest, and some of those between.

The sandwich rule of Yu & Huang 2019, "Universally slimmable networks and improved training techniques", section 4.1:
what lies between the two ends is drawn anew for each step, so that a step costs less and all of it is trained in time.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

import torch

from trainables.seeds import derive_seed


@dataclass(frozen=True, kw_only=True, slots=True)
class Sandwich:
    """Says of every step of a stage which levels take part in it.

    All of them do in the first step of an epoch, so that each has a loss to tell, and in a step after which channels
    go, so that each has a saliency.

    Attributes:
        levels: of the stage, the largest first.
        levels_a_step: how many take part, at least 3; `None` for all.
        steps_per_epoch: at least 1.
        prunings: after how many steps channels go.
        seed: what is drawn comes from it and the number of the step alone.
    """

    levels: tuple[int, ...]
    levels_a_step: int | None
    steps_per_epoch: int
    prunings: Container[int]
    seed: int

    def __call__(self, step: int) -> Sequence[int]:
        """Levels that take part in a step, the largest first; the first step is 0."""
        whole = step % self.steps_per_epoch == 0 or step + 1 in self.prunings
        if whole or not leaves_out(len(self.levels), self.levels_a_step):
            return self.levels
        assert self.levels_a_step is not None
        between = self.levels[1:-1]
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "levels", step))
        drawn = torch.randperm(len(between), generator=generator)[: self.levels_a_step - 2]
        return (self.levels[0], *(between[place] for place in drawn.sort().values.tolist()), self.levels[-1])


def leaves_out(num_levels: int, levels_a_step: int | None) -> bool:
    """Whether there are steps in which not all of a stage's levels take part."""
    return levels_a_step is not None and num_levels > levels_a_step


def num_whole_steps(first: int, after: int, *, steps_per_epoch: int, pruned: bool) -> int:  # noqa: FBT001
    """How many steps of some in a row all levels take part in.

    Args:
        first: of them, counted from 0.
        after: the step after the last of them, above `first`.
        steps_per_epoch: at least 1.
        pruned: whether channels go after the last of them, and after no other.
    """
    last_begins_epoch = (after - 1) % steps_per_epoch == 0
    return -(-after // steps_per_epoch) + (-first // steps_per_epoch) + int(pruned and not last_begins_epoch)
