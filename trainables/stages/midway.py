"""The midst of an epoch: when to leave off there, and what it takes to go on as if nothing had been."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from trainables.hardware.ranks import Ranks
from trainables.tensors import Tensors, prefixed, unprefixed

PACED_BATCHES = 20
"""Batches from which it is told how many fit into some seconds; no part of an epoch has fewer, but the last."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Midway:
    """What an epoch has come to that is not done, beside what changes with every step.

    Attributes:
        place: batches that are done.
        totals: of each level the sum of its losses.
        num_steps: of each level how many those are.
        seconds: that they took.
        draws: where generators are that layers draw from, as `seeds.drawn_layers` gives it.
    """

    place: int
    totals: torch.Tensor
    num_steps: tuple[int, ...]
    seconds: float
    draws: Tensors

    @classmethod
    def fresh(cls, num_levels: int, device: torch.device) -> "Midway":
        """Of an epoch that has not begun."""
        return cls(
            place=0, totals=torch.zeros(num_levels, device=device), num_steps=(0,) * num_levels, seconds=0.0, draws={}
        )

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Tensors, and plain values."""
        values = {"place": self.place, "num_steps": list(self.num_steps), "seconds": self.seconds}
        return prefixed("draws", self.draws) | {"totals": self.totals}, values

    @classmethod
    def from_state(cls, tensors: Tensors, values: Mapping[str, Any], device: torch.device) -> "Midway":
        """Make one from what `state` gave."""
        return cls(
            place=values["place"],
            totals=tensors["totals"].to(device),
            num_steps=tuple(values["num_steps"]),
            seconds=values["seconds"],
            draws=unprefixed("draws", tensors),
        )


def mean_losses(totals: torch.Tensor, num_steps: Sequence[int]) -> list[float]:
    """Mean loss of each level, from sums over so many steps; waits until they are there."""
    means: list[float] = (totals / torch.tensor(num_steps, device=totals.device)).tolist()
    return means


class Pace:
    """Says after which batch a part of an epoch is over: the same on every rank, by the clock of the first."""

    def __init__(self, seconds: float, ranks: Ranks, device: torch.device) -> None:
        """Start the clock.

        Args:
            seconds: that the part is to take, about; infinity for all that is left.
            ranks: who train it.
            device: that they train on.
        """
        self._seconds, self._ranks, self._device = seconds, ranks, device
        self._started = time.perf_counter()
        self._num_done = 0
        self._num_batches = math.inf

    def is_over(self, losses: torch.Tensor) -> bool:
        """Whether the part is over, asked once after each batch.

        Args:
            losses: of it, which are waited for where the clock is looked at.
        """
        self._num_done += 1
        if self._num_done == PACED_BATCHES and self._seconds < math.inf:
            losses.sum().item()
            a_batch = (time.perf_counter() - self._started) / self._num_done
            fits = torch.tensor([self._seconds / a_batch], device=self._device)
            self._num_batches = max(self._num_done, int(self._ranks.collect(fits)[0]))
        return self._num_done >= self._num_batches
