"""An exponential moving average of weights: less noisy than the weights of any one step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainables.pruning.views import Cuts, pick
from trainables.tensors import Tensors, laid_out


class WeightAverage:
    """The average of some parameters over the steps so far (Polyak & Juditsky 1992, with weights that fade).

    Attributes:
        tensors: the average of each parameter, by name; none where nothing is averaged.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float | None) -> None:
        """Start at the parameters as they are.

        Args:
            parameters: of floating point, by name; they are left as they are.
            decay: part of the average that stays at each step, in (0, 1); with `None` nothing is averaged, and the
                parameters stand for their average.
        """
        self._parameters = dict(parameters) if decay is not None else {}
        self._update = None if decay is None else get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.tensors: Tensors = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the parameters after a step."""
        if self._update is not None:
            self._update(list(self.tensors.values()), list(self._parameters.values()), 0)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Put the average where the parameters are, and them back afterwards; nothing is copied."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def take(self) -> None:
        """Make the parameters what their average is, for good."""
        for name, parameter in self._parameters.items():
            parameter.copy_(self.tensors[name])

    def cut(self, cuts: Cuts) -> None:
        """Cut the average of parameters as they were cut."""
        for name, parameter in self._parameters.items():
            if parameter in cuts:
                self.tensors[name] = pick(self.tensors[name], cuts[parameter])

    def load(self, tensors: Tensors) -> None:
        """Put back what was in `tensors`, which may be smaller by now."""
        self.tensors = {name: laid_out(tensors[name], p) for name, p in self._parameters.items()}

    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            parameter.data, self.tensors[name] = self.tensors[name], parameter.data
