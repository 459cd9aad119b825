"""How a level falls to its size: when channels go, and one level on its way."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from trainables.pruning.channels import Kept
from trainables.pruning.cost import IntVector, SizeModel
from trainables.pruning.levels import Level
from trainables.pruning.regrowth import may_return, share_at
from trainables.pruning.saliency import SaliencyMeter, find_criterion
from trainables.pruning.selection import TOLERANCE, SelectionError, check_scores, select
from trainables.pruning.views import Cuts
from trainables.pruning_config import Pruning, Ramp, amount
from trainables.tensors import Tensors, prefixed, unprefixed


def size_at(fraction: float, *, start: float, end: float, ramp: Ramp) -> float:
    """Size after a fraction of the ramp, in [0, 1]; cubic: Zhu & Gupta 2017, eq. 1, with sizes for sparsities."""
    left = 1.0 - min(1.0, fraction)
    return end + (start - end) * (left**3 if ramp == "cubic" else left)


def pruning_steps(pruning: Pruning, num_steps: int) -> dict[int, float]:
    """Steps of a stage after which channels go, with the fraction of the ramp that is done then."""
    ramp_steps = max(1, round(pruning.ramp_fraction * num_steps))
    number = min(pruning.num_prunings, ramp_steps)
    return {round(event * ramp_steps / number): event / number for event in range(1, number + 1)}


class LevelPruner:
    """One level on its way to its size.

    Attributes:
        level: the level.
        meter: saliency of the channels that it keeps.
        final: the size that it has in the end, in the unit of its sizes.
    """

    def __init__(self, level: Level, *, sizes: SizeModel, final: float, pruning: Pruning) -> None:
        """Take a level that keeps everything.

        Args:
            level: the level.
            sizes: the size as a function of what is kept.
            final: size that the level has in the end.
            pruning: how channels are chosen.

        Raises:
            InputError: if the criterion is unknown.
        """
        self.level = level
        self.meter = SaliencyMeter(find_criterion(pruning.saliency), level.shared.channel_map)
        self.final = final
        self._sizes = sizes
        self._start = self.size
        self._pruning = pruning
        self.meter.reset(level.network, level.kept)

    @property
    def counts_G(self) -> IntVector:  # noqa: N802 - its shape
        """How many channels of each group the level keeps."""
        return np.array([len(self.level.kept[group.name]) for group in self.level.shared.channel_map.groups])

    @property
    def size(self) -> float:
        """What counting the level's network gives, without running it."""
        return self._sizes.total(self.counts_G)

    def fall(self, fraction: float, *, protected: Kept | None) -> Cuts:
        """Remove channels until the size at this fraction of the ramp is met, and look at saliency anew.

        Args:
            fraction: of the ramp, in (0, 1].
            protected: channels that must stay.

        Returns:
            What stayed of the level's private parameters that became smaller.

        Raises:
            SelectionError: if saliency says nothing, or the size cannot be met.
        """
        if fraction >= 1.0 and self.final < self._start:
            self._require_all_ran()
        target = size_at(fraction, start=self._start, end=self.final, ramp=self._pruning.ramp)
        kept = self._choose(target, fraction, protected) if self.size > target else self.level.kept
        cuts = self.level.keep(kept)  # where nothing goes, too: what is wide becomes narrow again
        self.meter.reset(self.level.network, self.level.kept)
        return cuts

    def widen(self) -> None:
        """Look at the saliency of all channels that θ has: for the last step before channels go and come back.

        What was seen of the level's own channels since the last pruning stays.
        """
        level, meter = self.level, self.meter
        seen, num_batches, ran = meter.sums, meter.num_batches, meter.ran
        level.widen()
        meter.reset(level.network, level.shared.kept)
        for group, sums in seen.items():
            meter.sums[group][torch.searchsorted(level.shared.kept[group], level.kept[group])] = sums
        meter.num_batches, meter.ran = num_batches, ran

    def add_scores(self) -> None:
        """Add the saliency of the batch whose backward pass has just run."""
        self.level.open_gates()
        self.meter.add_scores()

    def _choose(self, target: float, fraction: float, protected: Kept | None) -> Kept:
        """What the level keeps from now on, of what it keeps and of what may come back to it."""
        scores: Mapping[str, torch.Tensor] = self.meter.scores()
        left_out = self.meter.left_out(scores)
        check_scores({group: scores_C for group, scores_C in scores.items() if group not in left_out})
        if left_out:
            protected = self._with_whole(left_out, protected)
        pool: Kept = self.level.kept
        if self.level.is_wide:
            pool, scores = self._with_lost(scores, share_at(fraction, self._pruning.regrowth))
        try:
            return select(
                pool,
                scores,
                target=target,
                final=self.final,
                sizes=self._sizes,
                channel_map=self.level.shared.channel_map,
                pruning=self._pruning,
                protected=protected,
            )
        except SelectionError as error:
            if not left_out:
                raise
            raise SelectionError(
                f"{error.reason}; nothing could go from {', '.join(left_out)}, which no batch has run since the last "
                f"pruning: take fewer pruning.num_prunings than {self._pruning.num_prunings}"
            ) from error

    def _require_all_ran(self) -> None:
        """See that each group that can be pruned had its turn, where what goes is told by gradients.

        Raises:
            SelectionError: if no batch of the whole ramp has run one of them.
        """
        left_out = self.meter.left_out(self.meter.scores())
        never = next((group for group in left_out if group not in self.meter.ever_ran), None)
        if never is not None:
            raise SelectionError(
                "no batch up to the last pruning has run it and given it a gradient, so that nothing can be told "
                "apart; leave it out less often, train more epochs, or name its layers in pruning.keep",
                group=never,
            )

    def _with_whole(self, left_out: Sequence[str], protected: Kept | None) -> Kept:
        """What must stay where no batch has run some groups since the last pruning: these, whole."""
        kept = self.level.kept
        stays = {group: channels[:0] for group, channels in kept.items()} if protected is None else dict(protected)
        return stays | {group: kept[group] for group in left_out}

    def _with_lost(self, scores: Mapping[str, torch.Tensor], share: float) -> tuple[Kept, Mapping[str, torch.Tensor]]:
        """What the level keeps and what may come back to it, with the saliency of both."""
        kept, shared = self.level.kept, self.level.shared.kept
        # What the level had lost was seen in the last batch alone.
        means = {
            group: torch.where(torch.isin(shared[group], kept[group]), scores_C, scores_C * self.meter.num_batches)
            for group, scores_C in scores.items()
        }
        return may_return(kept, shared, means, share=share)

    def check_size(self, size: float) -> None:
        """Compare a count of the finished network with what was asked.

        Raises:
            SelectionError: if they differ by more than the tolerance (rounded widths may lie below).
        """
        too_small = size < self.final * (1 - TOLERANCE) and self._pruning.round_to == 1
        if too_small or size > self.final * (1 + TOLERANCE):
            unit = self._pruning.size_in
            raise SelectionError(
                f"it has {amount(size, unit)}, but {amount(self.final, unit)} was asked and at most "
                f"{100 * TOLERANCE:.0f} % may lie between"
            )

    def tensors(self) -> Tensors:
        """What the level keeps, its statistics, and its saliency so far, under names with its number."""
        number = self.level.number
        buffers = dict(self.level.network.named_buffers())
        return (
            prefixed(f"kept.{number}", self.level.kept)
            | prefixed(f"buffers.{number}", buffers)
            | prefixed(f"saliency.{number}", self.meter.sums)
        )

    def load(self, tensors: Tensors, *, num_batches: int, ran: Mapping[str, bool]) -> None:
        """Go on from what `tensors` gave, among others.

        Args:
            tensors: of the level, and any others.
            num_batches: that saliency so far is of.
            ran: groups that any batch has run, and whether one has since the last pruning.
        """
        number = self.level.number
        self.level.keep(unprefixed(f"kept.{number}", tensors))
        buffers = unprefixed(f"buffers.{number}", tensors)
        for name, buffer in self.level.network.named_buffers():
            buffer.copy_(buffers[name])
        self.meter.reset(self.level.network, self.level.kept)
        self.meter.num_batches = num_batches
        self.meter.ran, self.meter.ever_ran = {group for group, lately in ran.items() if lately}, set(ran)
        for group, sums_C in unprefixed(f"saliency.{number}", tensors).items():
            self.meter.sums[group].copy_(sums_C)
