"""Which channels are removed to try a network: numbers of them that a network which cannot do without would fail at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from trainables.pruning.channels import ChannelGroup, Kept
from trainables.pruning.selection import possible_counts
from trainables.pruning_config import Pruning

_STEPS = (5**0.5 / 2 - 0.5, 2**0.5 - 1)  # multiples of such numbers, modulo 1, keep apart


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Draw:
    """Channels of each group that are kept, what is said of them, and the most of each that may be left of fewer."""

    text: str
    kept: Kept
    most: Kept


def draws(groups: Sequence[ChannelGroup], pruning: Pruning, generator: torch.Generator) -> list[Draw]:
    """Other numbers of channels in each group, twice; every other group whole; as few in each as a level may have."""

    def kept(numbers: Iterable[int]) -> Kept:
        return {
            group.name: torch.randperm(group.num_channels, generator=generator)[:number].sort()[0]
            for group, number in zip(groups, numbers, strict=True)
        }

    unlike = [_unlike(group, turn, pruning) for turn, group in enumerate(groups, start=1)]
    full = tuple(group.num_channels for group in groups)
    one, other = zip(*unlike, strict=True)
    alternate = tuple(full[index] if index % 2 else min(pair) for index, pair in enumerate(unlike))
    most = kept(_fewer(group, pruning)[-1] for group in groups)
    return [
        *(
            Draw(text="without some of its channels", kept=kept(numbers), most=most)
            for numbers in (one, other, alternate)
            if numbers != full
        ),
        Draw(
            text="with as few channels as it may be left with",
            kept=kept(possible_counts(group, pruning)[0] for group in groups),
            most=most,
        ),
    ]


def _fewer(group: ChannelGroup, pruning: Pruning) -> list[int]:
    """How many channels may be left of a group that loses some, ascending; all of them where none can go."""
    counts = possible_counts(group, pruning)
    return [number for number in counts if number < group.num_channels] or [*counts]


def _unlike(group: ChannelGroup, turn: int, pruning: Pruning) -> tuple[int, int]:
    """Two numbers of channels, of parts that are far apart where groups follow one another; alike if there is but one.

    All of its channels are such a number, too: where few numbers are left, some groups are whole while others are not.
    Where a network cuts its channels in two halves or turns their order around, half of them may be right by chance,
    so that is taken only if there are no two others.
    """
    counts = possible_counts(group, pruning)
    not_half = [number for number in counts if 2 * number != group.num_channels]
    choices = not_half if len(not_half) > 1 else counts
    one, other = (int(turn * step % 1 * len(choices)) for step in _STEPS)
    return choices[one], choices[other if other != one else one - 1]
