"""Epochs of a stage, whole or in parts: batches, learning rate, what layers draw, and going on in the midst of one."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits
from trainables.datasets.images import num_batches
from trainables.hardware.ranks import Ranks
from trainables.recipe import Recipe
from trainables.seeds import drawn_layers, seeded_layers
from trainables.stages.batches import batch_layout, epoch_batches
from trainables.stages.midway import Midway, Pace, mean_losses
from trainables.stages.optimizers import learning_rate, set_learning_rate
from trainables.tensors import Tensors, prefixed, unprefixed

Step = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, Sequence[bool]]]
"""Trains on images and labels; the loss of each level, detached, and which of the levels took part."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """What an epoch came to.

    Attributes:
        losses: mean of each level over the steps that it took part in.
        learning_rate: of the last step.
        seconds: that its parts took.
    """

    losses: Sequence[float]
    learning_rate: float
    seconds: float


class Epochs:
    """Gives steps the batches of one epoch after the other; leaves off within one, and goes on there.

    Attributes:
        done: epochs that are done.
        steps_per_epoch: batches of an epoch.
    """

    def __init__(  # noqa: PLR0913
        self,
        num_epochs: int,
        *,
        network: nn.Module,
        recipe: Recipe,
        data: DataSplits,
        augmentation: Augmentation,
        num_levels: int,
        ranks: Ranks,
    ) -> None:
        """Prepare them.

        Args:
            num_epochs: in all, over which the learning rate has its schedule.
            network: that reads the images, which lie in memory as it can read them; left in evaluation mode.
            recipe: batches and learning rate.
            data: gives the training images.
            augmentation: what they go through.
            num_levels: losses of a step.
            ranks: who train together.
        """
        self.done = 0
        self.steps_per_epoch = num_batches(len(data.train), recipe.batch_size)
        self._num_epochs = num_epochs
        self._recipe = recipe
        self._data = data
        self._augmentation: Augmentation = augmentation
        self._layout = batch_layout(network, data)
        self._num_levels = num_levels
        self._device = next(network.parameters()).device
        self._ranks = ranks
        self._midway: Midway | None = None

    @property
    def num_steps(self) -> int:
        """Steps in all."""
        return self._num_epochs * self.steps_per_epoch

    @property
    def steps_taken(self) -> int:
        """Steps that are done, those of an epoch that is not done among them."""
        return self.done * self.steps_per_epoch + (0 if self._midway is None else self._midway.place)

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.done >= self._num_epochs

    def train(
        self, seconds: float, step: Step, *, optimizer: torch.optim.Optimizer, seed: int, seed_of_batches: int
    ) -> Epoch | None:
        """Train what is left of an epoch, or a part of it.

        Args:
            seconds: that a part takes, about; infinity for all that is left; the same on all ranks.
            step: called for each batch.
            optimizer: gets the learning rate of each step before it.
            seed: of what layers draw; the same for all parts of an epoch.
            seed_of_batches: of order, augmentation and mixing; likewise.

        Returns:
            What the epoch came to, or `None` where it goes on.
        """
        started, rate = time.perf_counter(), 0.0
        begun = Midway.fresh(self._num_levels, self._device) if self._midway is None else self._midway
        place, totals, num_steps = begun.place, begun.totals.clone(), list(begun.num_steps)
        first_step = self.done * self.steps_per_epoch
        pace = Pace(seconds, self._ranks, self._device)
        with seeded_layers(seed, self._device, begun.draws):
            for images, labels in epoch_batches(
                self._data, self._recipe, self._augmentation, seed_of_batches, self._layout, start=place
            ):
                rate = learning_rate(first_step + place, self.num_steps, self._recipe)
                set_learning_rate(optimizer, rate)
                step_losses, took_part = step(images, labels)
                totals += step_losses
                num_steps = [number + int(took) for number, took in zip(num_steps, took_part, strict=True)]
                place += 1
                if pace.is_over(totals):
                    break
            draws = drawn_layers(self._device)
        losses = mean_losses(totals, num_steps)  # waits for a card, so that its time counts
        seconds_taken = begun.seconds + time.perf_counter() - started
        if place < self.steps_per_epoch:
            self._midway = Midway(
                place=place, totals=totals, num_steps=tuple(num_steps), seconds=seconds_taken, draws=draws
            )
            return None
        self._midway = None
        self.done += 1
        return Epoch(losses=losses, learning_rate=rate, seconds=seconds_taken)

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Where they are: tensors, and plain values."""
        if self._midway is None:
            return {}, {"epoch": self.done, "midway": None}
        tensors, values = self._midway.state()
        return prefixed("midway", tensors), {"epoch": self.done, "midway": values}

    def load_state(self, tensors: Tensors, values: Mapping[str, Any]) -> None:
        """Go on from what `state` gave, among other tensors and values."""
        self.done = values["epoch"]
        self._midway = None
        if values.get("midway") is not None:  # earlier versions knew whole epochs alone
            self._midway = Midway.from_state(unprefixed("midway", tensors), values["midway"], self._device)
