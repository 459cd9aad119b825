"""What is kept, positions along layers' axes, and layers that take new widths."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainables.errors import InputError
from trainables.pruning.channels import (
    is_blockwise,
    is_grouped,
    layer_widths,
    network_widths,
    resize,
    skeleton,
    tensor_axes,
)


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_positions_that_stay_are_those_whose_channels_stay(architecture, networks, random_plan, seed: int) -> None:
    _, channel_map = networks(architecture)
    kept = random_plan(channel_map, seed)
    gone = {}
    for group in channel_map.groups:
        stays = set(kept[group.name].tolist())
        for member in group.members:
            places = zip(member.positions_N.tolist(), member.channels_N.tolist(), strict=True)
            gone.setdefault((member.layer, member.axis), set()).update(p for p, c in places if c not in stays)
    positions = channel_map.kept_positions(kept)
    assert positions.keys() == gone.keys()
    for (layer, axis), stays_N in positions.items():
        width = channel_map.widths[layer][0 if axis == "out" else 1]
        assert stays_N.tolist() == [p for p in range(width) if p not in gone[layer, axis]]


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_resized_networks_have_the_plans_widths_and_run(architecture, networks, random_plan, seed: int) -> None:
    network, channel_map = networks(architecture)
    narrowed = channel_map.narrowed(random_plan(channel_map, seed))
    resize(network, narrowed)
    assert network_widths(network).items() >= narrowed.items()
    for name, layer in network.named_modules():
        if name in narrowed and isinstance(layer, nn.Conv2d):
            inputs = narrowed[name][1] // layer.groups
            assert layer.weight.shape[:2] == (narrowed[name][0], inputs)
        elif name in narrowed and isinstance(layer, nn.BatchNorm2d):
            assert {len(t) for t in layer.state_dict().values() if t.ndim} == {narrowed[name][0]}
    assert network(torch.zeros(2, 3, 16, 16)).shape == (2, 4)


def test_keeping_everything_changes_no_width(architecture, networks) -> None:
    network, channel_map = networks(architecture)
    assert channel_map.narrowed(channel_map.everything()) == channel_map.widths
    before = dict(network.named_parameters())
    resize(network, channel_map.widths)
    assert all(parameter is before[name] for name, parameter in network.named_parameters())


@pytest.mark.parametrize(
    ("layer", "widths", "axes"),
    [
        (nn.Conv2d(3, 5, 3), (5, 3), ("out", "in")),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 4), ("out",)),
        (nn.Conv2d(4, 6, 3, groups=2), (6, 4), ("out",)),
        (nn.Linear(6, 2), (2, 6), ("out", "in")),
        (nn.BatchNorm2d(7), (7, 7), ("out",)),
        (nn.BatchNorm1d(7), (7, 7), ("out",)),
        (nn.PReLU(5), (5, 5), ("out",)),
    ],
)
def test_widths_and_axes_of_each_kind_of_layer(layer: nn.Module, widths, axes) -> None:
    assert layer_widths(layer) == widths
    assert tensor_axes(layer, "weight") == axes
    assert is_blockwise(layer) is (axes == ("out",))
    assert tensor_axes(layer, "bias") == ("out",)
    assert tensor_axes(layer, "running_var") == ("out",)
    assert tensor_axes(layer, "num_batches_tracked") == ()


def test_a_depthwise_convolution_stays_one_down_to_a_single_channel() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))
    resize(network, {"0": (3, 3)})
    assert is_grouped(network[0])
    resize(network, {"0": (1, 1)})
    assert network[0].groups == 1
    assert network(torch.zeros(1, 1, 4, 4)).shape == (1, 1, 2, 2)


def test_groups_of_a_grouped_convolution_go_whole() -> None:
    network = nn.Sequential(nn.Conv2d(12, 8, 3, groups=4))
    resize(network, {"0": (4, 6)})
    assert (network[0].groups, network[0].weight.shape) == (2, (4, 3, 3, 3))
    assert network(torch.zeros(1, 6, 4, 4)).shape == (1, 4, 2, 2)


def test_the_last_group_of_a_grouped_convolution_may_lose_channels_of_its_own() -> None:
    network = nn.Sequential(nn.Conv2d(12, 8, 3, groups=4))
    resize(network, {"0": (1, 2)})
    assert (network[0].groups, network[0].weight.shape) == (1, (1, 2, 3, 3))
    assert network(torch.zeros(1, 2, 4, 4)).shape == (1, 1, 2, 2)


def test_a_skeleton_has_the_networks_shapes_and_ties_and_nothing_of_its_memory(networks) -> None:
    network, _ = networks("own")
    network.tied = network.hidden
    bare = skeleton(network.train())
    assert network.training
    assert not bare.training
    assert {tensor.device.type for tensor in bare.state_dict().values()} == {"meta"}
    assert bare.tied.weight is bare.hidden.weight
    assert {name: t.shape for name, t in bare.state_dict().items()} == {
        name: t.shape for name, t in network.state_dict().items()
    }


def test_a_resized_network_keeps_dtype_device_and_parameters_kind() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).double().to("meta")
    resize(network, {"0": (2, 3), "1": (2, 2)})
    tensors = [t for name, t in network.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert {(t.dtype, t.device.type) for t in tensors} == {(torch.float64, "meta")}
    assert [name for name, _ in network.named_parameters()] == ["0.weight", "0.bias", "1.weight", "1.bias"]


@pytest.mark.parametrize(
    ("widths", "message"),
    [({"nowhere": (1, 1)}, "no layer 'nowhere'"), ({"1": (1, 1)}, "a ReLU cannot be narrowed")],
)
def test_widths_of_another_network_are_refused(widths, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resize(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), widths)
