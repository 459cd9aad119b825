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


@pytest.mark.parametrize("momentum", [0.9, 0.0])
def test_weights_without_a_gradient_stay_and_begin_when_they_have_one_as_in_plain_sgd(
    tmp_path: Path, momentum: float
) -> None:
    """A network that leaves layers out by chance: torch's fused steps take momenta of all weights or of none."""
    recipe = Recipe(learning_rate=0.1, momentum=momentum, weight_decay=0.0)
    fused, plain = (
        {name: nn.Parameter(torch.full((2, 2), 3.0)) for name in ("first", "second", "third")} for _ in range(2)
    )
    weights = TrainedWeights(fused, recipe)
    optimizer = torch.optim.SGD(plain.values(), lr=0.1, momentum=momentum, nesterov=momentum > 0)
    for number, names in enumerate((["first"], ["second"], ["first", "second"], ["third", "first"], ["second"])):
        for parameters in (fused, plain):
            for name, parameter in parameters.items():
                parameter.grad = torch.full_like(parameter, number - 1.5) if name in names else None
        before = {name: parameter.detach().clone() for name, parameter in fused.items()}
        weights.step()
        optimizer.step()
        for name, parameter in fused.items():
            torch.testing.assert_close(parameter, plain[name])
            assert torch.equal(parameter, before[name]) is (name not in names)
        save_state(tmp_path / "state", weights.state(), {})
        weights = TrainedWeights(fused, recipe)
        weights.load_state(load_state(tmp_path / "state")[0])
