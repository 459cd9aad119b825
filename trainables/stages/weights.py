"""Weights that a stage trains, with what moves them and what is remembered of them."""

from collections.abc import Mapping

import torch
from torch import nn

from trainables.pruning.views import Cuts
from trainables.recipe import Recipe
from trainables.stages.averaging import WeightAverage
from trainables.stages.optimizers import (
    begin_momentum,
    clip_gradients,
    cut_state,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
)
from trainables.tensors import Tensors, prefixed, unprefixed


class TrainedWeights:
    """Weights and what a recipe moves them by.

    Attributes:
        parameters: the weights, by name.
        optimizer: moves them.
        average: of them over the steps.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], recipe: Recipe) -> None:
        """Begin at the weights as they are."""
        self.parameters = dict(parameters)
        self.optimizer: torch.optim.Optimizer = make_optimizer(self.parameters.values(), recipe)
        self.average = WeightAverage(self.parameters, recipe.ema)
        self._recipe = recipe

    def step(self) -> None:
        """Move them by their gradients, which are scaled down where the recipe says so."""
        clip_gradients(self.parameters.values(), self._recipe)
        begin_momentum(self.optimizer)
        self.optimizer.step()
        self.average.update()

    def cut(self, cuts: Cuts) -> None:
        """Forget what is remembered of weights that have gone."""
        cut_state(self.optimizer, cuts)
        self.average.cut(cuts)

    def state(self) -> Tensors:
        """What the optimiser remembers of them, and their average; not they themselves."""
        tensors = prefixed("optimizer", optimizer_state(self.optimizer, self.parameters))
        return tensors | prefixed("average", self.average.tensors)

    def load_state(self, tensors: Tensors) -> None:
        """Put back what `state` gave, among other tensors; the weights are as wide as they were then."""
        load_optimizer_state(self.optimizer, self.parameters, unprefixed("optimizer", tensors))
        self.average.load(unprefixed("average", tensors))
