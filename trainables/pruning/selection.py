"""Which channels go next: those that cost the least saliency for what they save, until the size is reached.

Shape legend: G groups, B choices that are compared.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from trainables.pruning.channels import ChannelGroup, ChannelMap, Kept
from trainables.pruning.cost import FloatVector, IntVector, SizeModel
from trainables.pruning.saliency import fault_of
from trainables.pruning_config import Pruning, amount

TOLERANCE = 0.02
"""Largest relative difference between a level's size and what was asked, where widths are not rounded."""

# Of the search for a size that the cheapest channels miss: choices that are gone on from, and how often.
_BEAM_WIDTH = 64
_BEAM_DEPTH = 16


class SelectionError(Exception):
    """No choice of channels is possible; the message says why and names the group where one is to blame.

    Attributes:
        reason: the message.
        group: the group to blame, if there is one.
        only_protected: whether protected channels alone are in the way, so that the reason leaves the mend open.
    """

    def __init__(self, reason: str, *, group: str | None = None, only_protected: bool = False) -> None:
        """Keep the reason and what is to blame."""
        super().__init__(reason)
        self.reason = reason
        self.group = group
        self.only_protected = only_protected


@dataclass(frozen=True, kw_only=True, slots=True)
class _Queue:
    """Removable channels of one group, the least salient first, ties by index."""

    channels: tuple[int, ...]
    saliency: tuple[float, ...]


def check_scores(scores: Mapping[str, torch.Tensor]) -> None:
    """Refuse saliency that says nothing.

    Raises:
        SelectionError: if a group's scores are not finite, or all zero where there is a choice.
    """
    for group, scores_C in scores.items():
        fault = fault_of(scores_C)
        if fault == "not finite":
            raise SelectionError("saliency is not finite; lower the learning rate", group=group)
        if fault == "all zero":
            raise SelectionError(
                "saliency is zero for every channel, so that nothing can be told apart; is the group cut off from "
                "the loss (a zero-initialised layer, say), or has training killed it? Then lower the learning rate",
                group=group,
            )


def least_channels(group: ChannelGroup, pruning: Pruning) -> int:
    """How many channels of a group must stay: the floor of its layers, which counts outputs, and once rounded."""
    floors = [floor for pattern, floor in pruning.floors.items() if group.gives(pattern)]
    floor = max(floors, default=pruning.min_channels)
    return min(max(math.ceil(floor / group.block), channel_multiple(group, pruning)), group.num_channels)


def channel_multiple(group: ChannelGroup, pruning: Pruning) -> int:
    """Channels of a group that go together so that widths become multiples; a channel may stand for many outputs."""
    return pruning.round_to // math.gcd(pruning.round_to, group.block)


def possible_counts(group: ChannelGroup, pruning: Pruning) -> range:
    """How many channels of a group may be left, ascending: the multiples from its floor on, or else all of them."""
    multiple = channel_multiple(group, pruning)
    first = math.ceil(least_channels(group, pruning) / multiple) * multiple
    return range(first, group.num_channels + 1, multiple) or range(group.num_channels, group.num_channels + 1)


def select(  # noqa: PLR0913
    kept: Kept,
    scores: Mapping[str, torch.Tensor],
    *,
    target: float,
    final: float,
    sizes: SizeModel,
    channel_map: ChannelMap,
    pruning: Pruning,
    protected: Kept | None = None,
) -> dict[str, torch.Tensor]:
    """Choose the channels that a level keeps so that it falls to `target`.

    Where that is the final size, the result lies within 2 % of it; on the way there, it is the first size at or below
    the target from which whole channels can still meet the final one, or else the final one itself. Rounded widths
    stop at the first size at or below the target.

    Args:
        kept: what the level keeps now.
        scores: saliency of each channel that it keeps now, by group.
        target: size to reach now.
        final: size that the level has in the end, at most `target`.
        sizes: the size as a function of counts.
        channel_map: the groups.
        pruning: floor, rounding and cost.
        protected: channels that must stay (those that a nested smaller level keeps now). On the way to the final size
            they are fewer later on, so that a target that they are in the way of is missed and not refused; where
            nothing can go, all of `kept` stays.

    Raises:
        SelectionError: if the target cannot be reached.
    """
    chooser = _Chooser(kept, scores, sizes, channel_map, pruning, protected)
    return chooser.kept_without(chooser.fall(target, final=final))


class _Chooser:
    """One choice: the order in which the channels of each group go, and how many of each go.

    Nothing of it changes. How many have gone, `gone_G`, is handed from method to method.
    """

    def __init__(  # noqa: PLR0913
        self,
        kept: Kept,
        scores: Mapping[str, torch.Tensor],
        sizes: SizeModel,
        channel_map: ChannelMap,
        pruning: Pruning,
        protected: Kept | None,
    ) -> None:
        self._kept = kept
        self._scores = scores
        self._sizes = sizes
        self._channel_map = channel_map
        self._pruning = pruning
        self._protected = protected
        self._rounds = pruning.round_to > 1
        self._names = [group.name for group in channel_map.groups]
        self._queues = []
        floors = []
        for group in channel_map.groups:
            held = set() if protected is None else set(protected[group.name].tolist())
            order = torch.argsort(scores[group.name], stable=True).tolist()
            pairs = [(int(kept[group.name][i]), float(scores[group.name][i])) for i in order]
            pairs = [pair for pair in pairs if pair[0] not in held]
            self._queues.append(_Queue(channels=tuple(c for c, _ in pairs), saliency=tuple(s for _, s in pairs)))
            floor = max(least_channels(group, pruning), len(held))
            floors.append(min(floor, len(kept[group.name])))
        self._multiple_G: IntVector = np.array([channel_multiple(group, pruning) for group in channel_map.groups])
        self._start_G: IntVector = np.array([len(kept[name]) for name in self._names])
        self._floor_G: IntVector = np.array(floors)
        self._available_G: IntVector = np.array([len(queue.channels) for queue in self._queues])
        self._none_G: IntVector = np.zeros(len(self._names), dtype=np.int64)

    def fall(self, target: float, *, final: float) -> IntVector:
        """How many of each group's cheapest channels go so that the size is met.

        Raises:
            SelectionError: if the target cannot be reached.
        """
        gone_G = self._greedy(self._none_G, target, final)
        met = self._size(gone_G) <= target * (1 + TOLERANCE)
        on_the_way = target > final
        if met and (not on_the_way or self._reaches(final, gone_G, self._protected)):
            return gone_G
        # On the way this is a dead end: from here whole channels miss the final size. Go there now, while there is a
        # choice.
        landed_G = self._land(self._none_G if on_the_way else gone_G, final)
        if landed_G is not None:
            return landed_G
        if on_the_way and self._protected is not None:
            # Less is protected later: go as far as leaves the final size within reach then.
            return gone_G if self._reaches(final, gone_G, None) else self._none_G
        if not met:
            raise self._missed(target, gone_G)
        return gone_G

    def kept_without(self, gone_G: IntVector) -> dict[str, torch.Tensor]:
        """What is kept once so many have gone, sorted."""
        kept = {}
        for name, queue, gone in zip(self._names, self._queues, gone_G, strict=True):
            removed = torch.tensor(queue.channels[:gone], dtype=torch.int64)
            kept[name] = self._kept[name][~torch.isin(self._kept[name], removed)]
        return kept

    def _missed(self, target: float, gone_G: IntVector) -> SelectionError:
        """Why the target is not met, and what to change."""
        free = _Chooser(self._kept, self._scores, self._sizes, self._channel_map, self._pruning, None)
        only_protected = self._protected is not None and free._land(free._none_G, target) is not None
        mend = (
            "; ask for a larger macs_kept, or relax pruning.min_channels, pruning.floors, pruning.round_to or "
            "pruning.keep"
        )
        unit = self._pruning.size_in
        return SelectionError(
            f"{amount(self._size(gone_G), unit)} is as close as whole channels come to {amount(target, unit)}"
            f"{'' if only_protected else mend}",
            only_protected=only_protected,
        )

    def _size(self, gone_G: IntVector) -> float:
        return self._sizes.total(self._start_G - gone_G)

    def _next(self, gone_G: IntVector) -> IntVector:
        """Channels that would go together next of each group: down to the next multiple; 0 where the floor forbids."""
        counts_G = self._start_G - gone_G
        over_G = counts_G % self._multiple_G
        next_G = np.where(over_G > 0, over_G, self._multiple_G)
        allowed_G = (counts_G - next_G >= self._floor_G) & (self._available_G - gone_G >= next_G)
        return np.where(allowed_G, next_G, 0)

    def _cost(self, gone_G: IntVector, next_G: IntVector, saved_G: FloatVector) -> FloatVector:
        """Saliency of the channels that would go next of each group, by `pruning.cost` for what they save."""
        saliency_G = np.array(
            [
                sum(queue.saliency[gone : gone + number])
                for queue, gone, number in zip(self._queues, gone_G, next_G, strict=True)
            ]
        )
        if self._pruning.cost == "none":
            return saliency_G
        cost_G: FloatVector = saliency_G / np.where(saved_G > 0, saved_G, 1.0)
        return cost_G

    def _greedy(self, gone_G: IntVector, target: float, final: float) -> IntVector:
        """Let the cheapest channels go, too, until `target` is met or nothing fits above the final size."""
        gone_G = gone_G.copy()
        # Rounded widths cannot land exactly; they may fall below by what their last multiple is worth.
        least = 0.0 if self._rounds else final * (1 - TOLERANCE)
        if self._rounds:
            gone_G += np.where((self._start_G - gone_G) % self._multiple_G > 0, self._next(gone_G), 0)
        size = self._size(gone_G)
        while size > target:
            next_G = self._next(gone_G)
            saved_G = self._sizes.saved(self._start_G - gone_G, next_G)
            fits_G = (next_G > 0) & (saved_G > 0) & (size - saved_G >= least)
            if not fits_G.any():
                break
            best = int(np.argmin(np.where(fits_G, self._cost(gone_G, next_G, saved_G), np.inf)))
            gone_G[best] += next_G[best]
            size -= float(saved_G[best])
        return gone_G

    def _reaches(self, final: float, gone_G: IntVector, protected: Kept | None) -> bool:
        """Tell whether the final size can be met by a later choice, with so much protected then."""
        kept = self.kept_without(gone_G)
        scores = {name: self._scores[name][torch.isin(self._kept[name], kept[name])] for name in self._names}
        later = _Chooser(kept, scores, self._sizes, self._channel_map, self._pruning, protected)
        return later._land(later._none_G, final) is not None

    def _land(self, gone_G: IntVector, final: float) -> IntVector | None:
        """Fall to the final size, exchanging channels of this choice where the cheapest alone miss it.

        Returns:
            How many of each group go, or `None` where no choice that was looked at meets the size.
        """
        greedy_G = self._greedy(gone_G, final, final)
        if self._size(greedy_G) <= final * (1 + TOLERANCE):
            return greedy_G
        if self._rounds:
            return None
        # Beam search around the greedy choices: the fewest channels exchanged, then the least saliency lost.
        one_GG = np.eye(len(self._names), dtype=np.int64)
        beam_BG = self._detours(greedy_G, final)
        for _ in range(_BEAM_DEPTH):
            off_B = np.abs(self._sizes.totals(self._start_G - beam_BG) / final - 1)
            if (off_B <= TOLERANCE).any():
                met_G: IntVector = min(beam_BG[off_B <= TOLERANCE], key=self._lost)
                return met_G
            beam_BG = beam_BG[np.argsort(off_B, kind="stable")[:_BEAM_WIDTH]]
            near_BG = np.concatenate([beam_BG + move_G for move_G in (*one_GG, *-one_GG)])
            beam_BG = self._possible(np.unique(near_BG, axis=0))
        return None

    def _detours(self, greedy_G: IntVector, final: float) -> IntVector:
        """The greedy choice, and those that first take one channel more from one group than it did."""
        choices = [greedy_G]
        for one_G in np.eye(len(self._names), dtype=np.int64):
            first_G = one_G * (greedy_G + 1)
            if len(self._possible(first_G[None])) > 0:
                choices.append(self._greedy(first_G, final, final))
        return np.stack(choices)

    def _possible(self, gone_BG: IntVector) -> IntVector:
        """Those of several choices that neither take back what was gone before nor fall below a floor."""
        most_G = np.minimum(self._available_G, self._start_G - self._floor_G)
        possible_BG: IntVector = gone_BG[((gone_BG >= 0) & (gone_BG <= most_G)).all(axis=1)]
        return possible_BG

    def _lost(self, gone_G: IntVector) -> float:
        """Saliency of all that goes."""
        return float(sum(sum(queue.saliency[:gone]) for queue, gone in zip(self._queues, gone_G, strict=True)))
