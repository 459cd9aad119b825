"""MACs and parameters against closed forms, PyTorch's own counter, and networks that are really narrowed."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from trainables.errors import InputError
from trainables.model_config import ModelConfig
from trainables.networks.models import build
from trainables.pruning.channels import resize
from trainables.pruning.cost import (
    LatencyTable,
    LayerTime,
    count_macs,
    count_params,
    latency_model,
    macs_model,
    params_model,
    size_model,
)
from trainables.pruning.dependencies import find_groups

# Convolution: pixels x outputs x inputs x kernel; depthwise: one input; linear: outputs x inputs.
OWN_MACS = (
    16 * 16 * 8 * 3 * 9  # stem
    + 16 * 16 * 8 * 1 * 9  # depthwise
    + 8 * 8 * 6 * 8 * 9  # plain
    + 8 * 8 * 4 * 8  # normed
    + 4 * 4 * 8 * 10 * 9  # merged
    + 12 * 32  # hidden
    + 4 * 12  # scores
)
OWN_PARAMS = (
    (8 * 3 * 9 + 2 * 8)
    + (8 * 9 + 8 + 2 * 8)
    + (6 * 8 * 9 + 6)
    + (4 * 8 + 2 * 4)
    + (8 * 10 * 9 + 8)
    + (12 * 32 + 12)
    + (4 * 12 + 4)
)
# vgg-small at an eighth: 4, 4, pool, 8, 8, pool, 16, 16 channels on 16x16 images of 3 channels, 4 classes.
VGG_MACS = 9 * (256 * (3 * 4 + 4 * 4) + 64 * (4 * 8 + 8 * 8) + 16 * (8 * 16 + 16 * 16)) + 16 * 4
VGG_PARAMS = 9 * (3 * 4 + 4 * 4 + 4 * 8 + 8 * 8 + 8 * 16 + 16 * 16) + 2 * 2 * (4 + 8 + 16) + 16 * 4 + 4


@pytest.mark.parametrize(
    ("name", "macs", "params"), [("own", OWN_MACS, OWN_PARAMS), ("vgg-small", VGG_MACS, VGG_PARAMS)]
)
def test_small_networks_cost_what_is_counted_by_hand(networks, name: str, macs: int, params: int) -> None:
    network, _ = networks(name)
    assert count_macs(network, (3, 16, 16)) == macs
    assert count_params(network) == params


@pytest.mark.parametrize("kept", [(1, 1), (3, 5), (4, 8)])
def test_a_narrow_pair_of_convolutions_costs_its_closed_form(kept: tuple[int, int]) -> None:
    first, second = kept
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Flatten())
    network.append(nn.Linear(8 * 16, 5))
    resize(network, {"0": (first, 3), "1": (second, first), "3": (5, second * 16)})
    assert count_macs(network, (3, 8, 8)) == 64 * 9 * 3 * first + 16 * 9 * first * second + 16 * second * 5
    assert count_params(network) == (27 + 1) * first + (9 * first + 1) * second + (16 * second + 1) * 5


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (ModelConfig(name="vgg16"), 32),
        (ModelConfig(name="resnet18"), 32),
        (ModelConfig(name="resnet18", stem="imagenet"), 224),
        (ModelConfig(name="resnet50", stem="imagenet"), 224),
    ],
)
def test_large_networks_cost_what_pytorch_counts(config: ModelConfig, size: int) -> None:
    with torch.device("meta"):
        network = build(config, num_classes=10, in_channels=3).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.zeros(1, 3, size, size))
    assert count_macs(network, (3, size, size)) * 2 == counter.get_total_flops()


def test_vgg16_for_ten_classes_has_the_known_cost() -> None:
    with torch.device("meta"):
        network = build(ModelConfig(name="vgg16"), num_classes=10, in_channels=3)
    assert count_macs(network, (3, 32, 32)) == 313_201_664
    assert count_params(network) == 14_724_042


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_closed_form_equals_the_count_of_the_narrow_network(architecture, networks, random_plan, seed: int) -> None:
    network, channel_map = networks(architecture)
    sizes = macs_model(network, channel_map, (3, 16, 16))
    kept = random_plan(channel_map, seed)
    resize(network, channel_map.narrowed(kept))
    counts = np.array([len(kept[group.name]) for group in channel_map.groups])
    assert sizes.total(counts) == count_macs(network, (3, 16, 16))


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_closed_form_equals_the_parameters_of_the_narrow_network(architecture, networks, random_plan, seed) -> None:
    network, channel_map = networks(architecture)
    sizes = params_model(network, channel_map)
    kept = random_plan(channel_map, seed)
    resize(network, channel_map.narrowed(kept))
    counts = np.array([len(kept[group.name]) for group in channel_map.groups])
    assert sizes.total(counts) == count_params(network)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_what_a_removal_saves_is_the_difference_of_two_sizes(architecture, networks, random_plan, seed: int) -> None:
    network, channel_map = networks(architecture)
    sizes = macs_model(network, channel_map, (3, 16, 16))
    before = np.array([len(k) for k in random_plan(channel_map, seed).values()])
    removed = np.random.default_rng(seed).integers(0, before)
    saved = sizes.saved(before, removed)
    for group in range(len(before)):
        after = before.copy()
        after[group] -= removed[group]
        assert saved[group] == sizes.total(before) - sizes.total(after)
    several = np.stack([before, np.ones_like(before)])
    assert sizes.totals(several).tolist() == [sizes.total(before), sizes.total(np.ones_like(before))]


def test_a_group_on_both_sides_of_a_layer_saves_less_with_each_channel() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 8, 1)
            self.loop = nn.Conv2d(8, 8, 1)
            self.scores = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            scores: torch.Tensor = self.scores((x + self.loop(x)).mean((2, 3)))
            return scores

    network = Residual()
    sizes = macs_model(network, find_groups(network, (3, 4, 4)), (3, 4, 4))
    assert sizes.total(np.array([8])) == 16 * (3 * 8 + 8 * 8) + 16
    assert sizes.saved(np.array([8]), np.array([3])) == [16 * (3 * 3 + 64 - 25) + 6]


def test_layers_that_run_twice_and_parameters_that_are_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.layer(self.layer(x.mean((2, 3))))
            return result

    network = Twice()
    assert count_macs(network, (3, 4, 4)) == 2 * 9
    network.other = network.layer
    assert count_params(network) == 12


def test_counting_leaves_the_network_as_it_was(networks) -> None:
    network, _ = networks("own")
    network.train()
    count_macs(network, (3, 16, 16))
    assert network.training
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert not any(layer._forward_hooks for layer in network.modules())


def test_images_that_are_too_small_are_refused(networks) -> None:
    network = build(ModelConfig(name="vgg16", width=1 / 16), num_classes=4, in_channels=3)
    with pytest.raises(InputError, match="on an image of 3x8x8 cannot be counted"):
        count_macs(network, (3, 8, 8))


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_the_closed_form_equals_the_tables_time_of_the_narrow_network(
    architecture, networks, random_plan, table_of, seed
) -> None:
    network, channel_map = networks(architecture)
    table = table_of(architecture)
    sizes = size_model(network, channel_map, (3, 16, 16), unit="latency", latency=table)
    kept = random_plan(channel_map, seed)
    resize(network, channel_map.narrowed(kept))
    counts = np.array([len(kept[group.name]) for group in channel_map.groups])
    assert sizes.total(counts) == pytest.approx(table.total(network), rel=1e-12)
    narrow_map = find_groups(network, (3, 16, 16))  # as a level starts from a narrow one
    again = latency_model(network, narrow_map, table)
    counts = np.array([group.num_channels for group in narrow_map.groups])
    assert again.total(counts) == pytest.approx(table.total(network), rel=1e-12)


def test_a_tables_time_is_the_sum_over_its_layers() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 2))
    layers = {
        "0": LayerTime(fixed_ms=1.0, output_ms=0.5, product_ms=0.25),
        "1": LayerTime(fixed_ms=2.0, output_ms=0.125, product_ms=0.0),
    }
    table = LatencyTable(layers=layers, fixed_ms=10.0, full_ms=1.0, num_threads=1, batch_size=1)
    assert table.total(network) == 10 + (1 + 4 + 6) + (2 + 1)


def test_sizes_in_latency_take_a_table(networks) -> None:
    network, channel_map = networks("vgg-small")
    with pytest.raises(InputError, match=r"pruning\.size_in is 'latency', but no layers' times were measured; set"):
        size_model(network, channel_map, (3, 16, 16), unit="latency")
    with pytest.raises(InputError, match="table of layers' times is damaged"):
        LatencyTable.from_dict({"layers": {"a": {"fixed_ms": 1.0}}})
