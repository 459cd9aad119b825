"""Weights that are trained: what is remembered of them goes on elsewhere as it would have here."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from trainables.files.states import load_state, save_state
from trainables.recipe import Recipe
from trainables.stages.weights import TrainedWeights


def take_steps(weights: TrainedWeights, *gradients: float) -> None:
    for gradient in gradients:
        for parameter in weights.parameters.values():
            parameter.grad = torch.full_like(parameter, gradient)
        weights.step()


def test_they_go_on_from_a_state_as_if_nothing_had_been() -> None:
    recipe = Recipe(ema=0.5, max_grad_norm=1.0)
    layer = nn.Linear(3, 2)
    weights = TrainedWeights(dict(layer.named_parameters()), recipe)
    take_steps(weights, 1.0, -3.0)
    state = {name: tensor.clone() for name, tensor in weights.state().items()}
    again = TrainedWeights(dict(copy.deepcopy(layer).named_parameters()), recipe)
    again.load_state(state | {"other": torch.zeros(1)})
    for each in (weights, again):
        take_steps(each, 2.0)
    for name, parameter in weights.parameters.items():
        assert torch.equal(again.parameters[name], parameter)
        assert torch.equal(again.average.tensors[name], weights.average.tensors[name])
    names = ("weight", "bias")
    assert set(state) == {*(f"optimizer.{n}.momentum_buffer" for n in names), *(f"average.{n}" for n in names)}


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_remembered_lies_in_memory_as_the_weights_do(tmp_path: Path, optimizer: str) -> None:
    """Files hold it row by row; torch's fused steps take numbers as they lie, whichever weights they are of."""
    recipe = Recipe(optimizer=optimizer, learning_rate=0.01, ema=0.5)
    layer = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    weights = TrainedWeights(dict(layer.named_parameters()), recipe)
    gradient = torch.randn(6, 4, 3, 3).to(memory_format=torch.channels_last)
    layer.weight.grad, layer.bias.grad = gradient, torch.ones(6)
    weights.step()
    save_state(tmp_path / "state", weights.state(), {})
    again = TrainedWeights(dict(copy.deepcopy(layer).named_parameters()), recipe)
    again.load_state(load_state(tmp_path / "state")[0])
    again.parameters["weight"].grad, again.parameters["bias"].grad = gradient, torch.ones(6)
    for each in (weights, again):
        each.step()
    for name, parameter in weights.parameters.items():
        assert torch.equal(again.parameters[name], parameter)
    for name, tensor in weights.state().items():
        assert torch.equal(again.state()[name], tensor)
        assert again.state()[name].stride() == tensor.stride()
