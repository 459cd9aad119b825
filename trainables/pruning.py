"""How a level falls to its size: when channels go, and one level on its way."""

from collections.abc import Mapping

import numpy as np
import torch

from trainables.channels import Kept
from trainables.config import Pruning, Ramp
from trainables.cost import SizeModel
from trainables.levels import Cuts, Level
from trainables.saliency import Criterion, SaliencyMeter
from trainables.selection import TOLERANCE, SelectionError, check_scores, select


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
        final_macs: the size that it has in the end.
    """

    def __init__(  # noqa: PLR0913
        self,
        level: Level,
        *,
        criterion: Criterion,
        sizes: SizeModel,
        start_macs: float,
        final_macs: float,
        pruning: Pruning,
    ) -> None:
        """Take a level that keeps everything.

        Args:
            level: the level.
            criterion: what saliency is.
            sizes: MACs as a function of what is kept.
            start_macs: MACs of everything.
            final_macs: MACs that the level has in the end.
            pruning: how channels are chosen.
        """
        self.level = level
        self.meter = SaliencyMeter(criterion, level.shared.channel_map)
        self.final_macs = final_macs
        self._sizes = sizes
        self._start_macs = start_macs
        self._pruning = pruning
        self.meter.reset(level.network, level.kept)

    @property
    def macs(self) -> int:
        """What `count_macs` of the level's network gives, without running it."""
        groups = self.level.shared.channel_map.groups
        return round(self._sizes.macs(np.array([len(self.level.kept[group.name]) for group in groups])))

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
        target = size_at(fraction, start=self._start_macs, end=self.final_macs, ramp=self._pruning.ramp)
        cuts = self._remove(target, protected) if self.macs > target else {}
        self.meter.reset(self.level.network, self.level.kept)
        return cuts

    def _remove(self, target: float, protected: Kept | None) -> Cuts:
        before = self.macs
        scores = self.meter.scores()
        check_scores(scores)
        kept = select(
            self.level.kept,
            scores,
            target_macs=target,
            final_macs=self.final_macs,
            sizes=self._sizes,
            channel_map=self.level.shared.channel_map,
            pruning=self._pruning,
            protected=protected,
        )
        cuts = self.level.keep(kept)
        if self.macs == before and before > target * (1 + TOLERANCE):
            raise SelectionError("a pruning step removed nothing")
        return cuts

    def check_size(self, macs: int) -> None:
        """Compare a count of the finished network with what was asked.

        Raises:
            SelectionError: if they differ by more than the tolerance (rounded widths may lie below).
        """
        too_small = macs < self.final_macs * (1 - TOLERANCE) and self._pruning.round_to == 1
        if too_small or macs > self.final_macs * (1 + TOLERANCE):
            raise SelectionError(
                f"{macs} MACs, but {self.final_macs:.0f} were asked and at most {TOLERANCE:.0%} may lie between"
            )

    def load(self, kept: Kept, buffers: Mapping[str, torch.Tensor], sums: Mapping[str, torch.Tensor], num: int) -> None:
        """Go on from what a level kept, its statistics, and its saliency so far.

        Args:
            kept: channels by group.
            buffers: of the level's network, by name.
            sums: of scores, by group.
            num: batches that the sums are over.
        """
        self.level.keep(kept)
        for name, buffer in self.level.network.named_buffers():
            buffer.copy_(buffers[name])
        self.meter.reset(self.level.network, self.level.kept)
        self.meter.num_batches = num
        for group, scores in sums.items():
            self.meter.sums[group].copy_(scores)
