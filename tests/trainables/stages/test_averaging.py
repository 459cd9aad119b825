"""The average of weights: its formula, its place, and none at all."""

import pytest
import torch
from torch import nn

from trainables.stages.averaging import WeightAverage


def weights(*values: float) -> dict[str, nn.Parameter]:
    return {f"w{number}": nn.Parameter(torch.full((2,), value)) for number, value in enumerate(values)}


def test_it_is_its_formula() -> None:
    parameters = weights(1.0, -2.0)
    average = WeightAverage(parameters, 0.9)
    wanted = {"w0": 1.0, "w1": -2.0}
    for step in range(5):
        for name, parameter in parameters.items():
            parameter.data.add_(step + 1.0)
            wanted[name] = 0.9 * wanted[name] + 0.1 * parameter.data[0].item()
        average.update()
    assert {name: tensor[0].item() for name, tensor in average.tensors.items()} == pytest.approx(wanted)


def test_it_takes_the_parameters_place_and_gives_it_back() -> None:
    parameters = weights(1.0)
    average = WeightAverage(parameters, 0.5)
    parameters["w0"].data.fill_(3.0)
    average.update()

    def now() -> tuple[float, float]:
        return parameters["w0"].data[0].item(), average.tensors["w0"][0].item()

    def stumble() -> None:
        with average.in_place():
            assert now() == (2.0, 3.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stumble()
    assert now() == (3.0, 2.0)
    average.take()
    assert now() == (2.0, 2.0)
    average.load({"w0": torch.full((2,), 7.0)})
    assert now() == (2.0, 7.0)


def test_without_a_decay_the_parameters_stand_for_their_average() -> None:
    parameters = weights(1.0)
    average = WeightAverage(parameters, None)
    average.update()
    with average.in_place():
        assert parameters["w0"].data[0].item() == 1.0
    average.take()
    average.load({})
    assert average.tensors == {}
