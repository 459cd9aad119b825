"""The schedules, the optimisers and what they remember."""

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR

from trainables.recipe import Recipe
from trainables.stages.optimizers import (
    clip_gradients,
    cut_state,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    optimizer_state,
    set_learning_rate,
)

SGD = Recipe()
ADAMW = Recipe(optimizer="adamw", learning_rate=0.01)


def step(layer: nn.Module, optimizer: torch.optim.Optimizer, gradient: float = 1.0) -> None:
    for parameter in layer.parameters():
        parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()


@given(st.integers(2, 500), st.floats(0, 0.9), st.sampled_from(["cosine", "one-cycle"]))
def test_the_rate_rises_to_its_peak_and_falls_towards_zero(num_steps: int, warmup: float, schedule: Any) -> None:
    recipe = Recipe(learning_rate=0.5, warmup=warmup, learning_rate_schedule=schedule)
    rates = [learning_rate(step, num_steps, recipe) for step in range(num_steps)]
    peak = rates.index(max(rates))
    assert all(0 < rate <= 0.5 for rate in rates)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert abs(peak - warmup * num_steps) <= 2
    if warmup == 0 and schedule == "cosine":
        assert rates[0] == 0.5


def test_the_rate_is_its_formula() -> None:
    recipe = Recipe(learning_rate=0.8, warmup=0.25)
    rates = [learning_rate(step, 8, recipe) for step in range(8)]
    cosine = [0.8 * (1 + math.cos(math.pi * done / 6)) / 2 for done in range(6)]
    assert rates == pytest.approx([0.8 / 3, 1.6 / 3, *cosine])


@given(st.integers(2, 300), st.floats(0, 0.9), st.floats(1e-4, 10))
def test_one_cycle_is_torchs(num_steps: int, warmup: float, peak: float) -> None:
    if warmup * num_steps == 1:  # torch divides by zero where the rise has a single step
        return
    recipe = Recipe(learning_rate=peak, warmup=warmup, learning_rate_schedule="one-cycle")
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = OneCycleLR(optimizer, peak, total_steps=num_steps, pct_start=warmup, cycle_momentum=False)
    wanted = [scheduler.get_last_lr()[0]]
    for _ in range(num_steps - 1):
        optimizer.step()
        scheduler.step()
        wanted.append(scheduler.get_last_lr()[0])
    assert [learning_rate(step, num_steps, recipe) for step in range(num_steps)] == pytest.approx(wanted, rel=1e-6)


def test_one_cycle_with_a_single_step_of_rise_starts_at_its_peak() -> None:
    recipe = Recipe(learning_rate=0.5, warmup=0.25, learning_rate_schedule="one-cycle")
    assert learning_rate(0, 4, recipe) == 0.5


def test_only_weights_are_decayed() -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    for recipe in (Recipe(weight_decay=0.1, momentum=0.0), replace(ADAMW, weight_decay=0.1)):
        before = copy.deepcopy(network.state_dict())
        optimizer = make_optimizer(network.parameters(), recipe)
        set_learning_rate(optimizer, 0.5)
        step(network, optimizer, gradient=0.0)
        after = network.state_dict()
        torch.testing.assert_close(after.pop("0.weight"), before.pop("0.weight") * (1 - 0.5 * 0.1))
        assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_adamw_is_its_formula() -> None:
    """Loshchilov & Hutter 2019, algorithm 2, written out for three steps of one weight."""
    weight = nn.Parameter(torch.full((1, 1), 2.0))
    recipe = replace(ADAMW, momentum=0.8, weight_decay=0.1)
    optimizer = make_optimizer([weight], recipe)
    value, first, second = 2.0, 0.0, 0.0
    for number, gradient in enumerate((0.5, -1.0, 2.0), start=1):
        weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        first, second = 0.8 * first + 0.2 * gradient, 0.999 * second + 0.001 * gradient**2
        moved = first / (1 - 0.8**number) / (math.sqrt(second / (1 - 0.999**number)) + 1e-8)
        value -= 0.01 * (moved + 0.1 * value)
        assert weight.item() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize("recipe", [SGD, ADAMW], ids=["sgd", "adamw"])
def test_what_is_remembered_comes_back_as_it_was(recipe: Recipe) -> None:
    layer = nn.Linear(2, 2)
    optimizer = make_optimizer(layer.parameters(), recipe)
    assert optimizer_state(optimizer, dict(layer.named_parameters())) == {}
    step(layer, optimizer)
    other = copy.deepcopy(layer)
    again = make_optimizer(other.parameters(), recipe)
    state = optimizer_state(optimizer, dict(layer.named_parameters()))
    load_optimizer_state(again, dict(other.named_parameters()), state)
    for gradient in (0.5, -3.0):
        step(layer, optimizer, gradient)
        step(other, again, gradient)
    assert all(torch.equal(a, b) for a, b in zip(layer.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(
    ("recipe", "quantities"),
    [(SGD, {"momentum_buffer"}), (ADAMW, {"exp_avg", "exp_avg_sq"}), (replace(SGD, momentum=0.0), set())],
)
def test_what_is_remembered_is_cut_as_the_parameter_was(recipe: Recipe, quantities: set[str]) -> None:
    layer = nn.Linear(3, 2)
    optimizer = make_optimizer(layer.parameters(), recipe)
    cuts = {layer.weight: (torch.tensor([1]), torch.tensor([0, 2]))}
    cut_state(optimizer, cuts)  # nothing is remembered yet
    step(layer, optimizer)
    before = {name: t.clone() for name, t in optimizer.state[layer.weight].items() if t is not None}
    cut_state(optimizer, cuts)
    state = {name: t for name, t in optimizer.state[layer.weight].items() if t is not None and t.ndim}
    assert state.keys() == quantities
    for name, tensor in state.items():
        assert torch.equal(tensor, before[name][1:, [0, 2]])
    assert all(t.shape in ((2,), ()) for t in optimizer.state[layer.bias].values() if t is not None)


@pytest.mark.parametrize(("limit", "norm"), [(1.0, 1.0), (None, 5.0), (10.0, 5.0)])
def test_gradients_are_clipped_only_above_the_recipes_norm(limit: float | None, norm: float) -> None:
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    clip_gradients([parameter], Recipe(max_grad_norm=limit))
    assert float(parameter.grad.norm()) == pytest.approx(norm, rel=1e-5)
