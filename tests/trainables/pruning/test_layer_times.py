"""Layers are timed as they run, and what they take is told as a closed form of their widths."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from trainables.pruning import layer_times
from trainables.pruning.cost import LatencyTable, latency_model
from trainables.pruning.layer_times import fit, measure_layers
from trainables.pruning_config import Pruning

SHAPE = (3, 16, 16)


class Clock:
    """Time that passes only where layers run: a microsecond a layer, one an output, and one for a thousand products."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    thread_time = perf_counter

    def spends(self, layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        products = layer.weight.shape[0] * layer.weight.shape[1] if isinstance(layer, nn.Conv2d | nn.Linear) else 0
        self.now += 1e-6 * (1 + layer.weight.shape[0] + products / 1000)


def timed(network: nn.Module) -> nn.Module:
    """The network with layers that move the clock."""
    for layer in network.modules():
        if isinstance(getattr(layer, "weight", None), nn.Parameter):
            layer.register_forward_hook(lambda *args: layer_times.time.spends(*args))
    return network


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(layer_times, "time", clock)
    return clock


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("round_to", [1, 4])
def test_times_that_follow_the_form_are_found_again(networks, random_plan, round_to: int) -> None:
    network, channel_map = networks("own")
    table = measure_layers(timed(network), SHAPE, pruning=Pruning(round_to=round_to), num_threads=1, min_seconds=0.0)
    widths = {name: network.get_submodule(name).weight.shape for name in table.layers}
    assert set(widths) == set(channel_map.widths)
    own = sum(1 + w[0] + (w[0] * w[1] / 1000 if len(w) > 1 else 0) for w in widths.values()) / 1000
    assert table.full_ms == pytest.approx(own, rel=1e-6)
    assert table.fixed_ms == pytest.approx(0.0, abs=1e-9)
    time = table.layers["merged"]
    if round_to == 1:  # else these widths are too few to tell outputs from products
        assert (time.output_ms, time.product_ms) == pytest.approx((1e-3, 1e-6), rel=1e-3)
    assert all(table.layers[name].product_ms == 0.0 for name in channel_map.blockwise)


@pytest.mark.usefixtures("clock")
def test_what_has_no_parameters_counts_for_the_layer_before(networks) -> None:
    network, _ = networks("own")
    network.pool.register_forward_hook(lambda *_: setattr(layer_times.time, "now", layer_times.time.now + 0.5))
    table = measure_layers(network, SHAPE, pruning=Pruning(), num_threads=1, min_seconds=0.0)
    assert table.layers["merged"].fixed_ms == pytest.approx(500.0)
    assert table.full_ms == pytest.approx(500.0)
    assert table.fixed_ms == pytest.approx(0.0, abs=1e-9)


@pytest.mark.usefixtures("clock")
def test_layers_that_are_kept_whole_are_in_the_fixed_part(networks) -> None:
    network, _ = networks("own")
    pruning = Pruning(keep=("merged", "hidden"))
    table = measure_layers(timed(network), SHAPE, pruning=pruning, num_threads=1, min_seconds=0.0)
    assert "scores" not in table.layers
    assert table.fixed_ms > 0
    whole = measure_layers(network, SHAPE, pruning=Pruning(), num_threads=1, min_seconds=0.0)
    assert table.full_ms == pytest.approx(whole.full_ms, rel=1e-6)


def test_layers_are_timed_at_widths_that_a_level_can_have() -> None:
    class Needs(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert x.shape[1] == 30 or x.shape[1] % 8 == 0  # all of them, or multiples
            return x.mean((2, 3))

    network = nn.Sequential(nn.Conv2d(3, 30, 3), nn.ReLU(), Needs(), nn.Linear(30, 4))
    pruning = Pruning(round_to=8, floors={"0": 12})
    assert measure_layers(network, SHAPE, pruning=pruning, num_threads=1, min_seconds=0.0).full_ms > 0


def test_a_real_measurement_leaves_no_trace_and_is_read_back_whole(networks) -> None:
    network, channel_map = networks("vgg-small")
    network.train()
    state, threads, drawn = copy.deepcopy(network.state_dict()), torch.get_num_threads(), torch.random.get_rng_state()
    table = measure_layers(network, SHAPE, pruning=Pruning(), num_threads=threads + 1, min_seconds=0.0)
    assert network.training
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in network.modules())
    assert LatencyTable.from_dict(table.to_dict()) == table
    assert table.num_threads == threads + 1
    assert table.full_ms > 0
    sizes = latency_model(network, channel_map, table)
    one = np.ones(len(channel_map.groups), dtype=np.int64)
    assert 0 < sizes.total(one) <= table.full_ms


@pytest.mark.parametrize(
    ("factors", "found"), [((3.0, 0.5, 0.25), (3.0, 0.5, 0.25)), ((0.0, 2.0, 0.0), (0.0, 2.0, 0.0))]
)
def test_factors_are_fitted_and_none_is_below_zero(factors, found) -> None:
    outputs, inputs = np.array([8.0, 4.0, 2.0, 5.0, 3.0]), np.array([4.0, 4.0, 1.0, 2.0, 3.0])
    terms = np.stack([np.ones(5), outputs, outputs * inputs], axis=1)
    assert fit(terms, terms @ factors, np.ones(5)) == pytest.approx(found, abs=1e-9)
    falling = fit(terms[:, :2], 10 - outputs, np.ones(5))
    assert falling[0] == pytest.approx(np.mean(10 - outputs))
    assert falling[1] == 0.0
