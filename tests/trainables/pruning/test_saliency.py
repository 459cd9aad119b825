"""Gate gradients against autograd's gradient of a gate that is really there."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainables.errors import InputError
from trainables.pruning.channels import BATCH_NORMS, ChannelMap, Kept, layer_widths
from trainables.pruning.dependencies import find_groups
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.saliency import (
    CRITERIA,
    GateLayer,
    SaliencyMeter,
    find_criterion,
    gate_gradient,
    squared_l2_norm,
)


def training_without_dropout(network: nn.Module) -> nn.Module:
    network.eval()
    for layer in network.modules():
        if isinstance(layer, BATCH_NORMS):
            layer.train()
    return network


def explicit_gates(network: nn.Module, channel_map: ChannelMap, kept: Kept) -> dict[str, torch.Tensor]:
    """Put a gate of ones, one for each kept channel of a group, behind all gate layers of the group."""
    positions = channel_map.kept_positions(kept)
    gates = {}
    for group in channel_map.groups:
        gate_C = gates[group.name] = torch.ones(len(kept[group.name]), requires_grad=True)
        place = {channel: index for index, channel in enumerate(kept[group.name].tolist())}
        for member in group.members:
            if member.axis != "out" or member.layer not in group.gates:
                continue
            channel_at = dict(zip(member.positions_N.tolist(), member.channels_N.tolist(), strict=True))
            outputs = positions[member.layer, "out"].tolist()
            assert layer_widths(network.get_submodule(member.layer))[0] == len(outputs)
            index = torch.tensor([place[channel_at[position]] for position in outputs])
            network.get_submodule(member.layer).register_forward_hook(
                lambda _layer, _inputs, out, gate=gate_C, index=index: out * gate[index].view(-1, *[1] * (out.ndim - 2))
            )
    return gates


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 16, 16, generator=generator), torch.randint(4, (8,), generator=generator)


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_scores_are_the_squared_gradient_of_an_explicit_gate(architecture, networks, random_plan, seed: int) -> None:
    network, channel_map = networks(architecture)
    level = Level(1, SharedWeights(network, channel_map), shared_affine=False)
    level.keep(random_plan(channel_map, seed))
    training_without_dropout(level.network)
    reference = copy.deepcopy(level.network)
    gates = explicit_gates(reference, channel_map, level.kept)
    meter = SaliencyMeter(CRITERIA["gate-gradient"], channel_map)
    meter.reset(level.network, level.kept)
    wanted = {name: torch.zeros(len(kept)) for name, kept in level.kept.items()}
    for number in range(2):  # squares of each micro-batch, then their mean
        images, labels = batch(seed + number)
        level.refresh()
        F.cross_entropy(level.network(images), labels).backward()
        meter.update()
        gradients = torch.autograd.grad(F.cross_entropy(reference(images), labels), list(gates.values()))
        for name, gradient in zip(gates, gradients, strict=True):
            wanted[name] += gradient.square() / 2
    for name, scores in meter.scores().items():
        assert scores.dtype == torch.float64
        torch.testing.assert_close(scores.float(), wanted[name], rtol=1e-2, atol=1e-7)


def test_coupled_layers_are_summed_before_they_are_squared() -> None:
    def norm(weight_gradient: float, bias_gradient: float) -> nn.Module:
        layer = nn.BatchNorm2d(2)
        layer.weight.data[:], layer.bias.data[:] = 2.0, 3.0
        layer.weight.grad, layer.bias.grad = torch.full((2,), weight_gradient), torch.full((2,), bias_gradient)
        return layer

    def gate(layer: nn.Module) -> GateLayer:
        return GateLayer(layer=layer, positions_N=torch.arange(2), channels_N=torch.arange(2), num_channels=2)

    layers = [gate(norm(1.0, 1.0)), gate(norm(-1.0, 0.5))]
    assert gate_gradient(layers).tolist() == [(2 + 3 - 2 + 1.5) ** 2] * 2
    # Gradients that cancel leave a channel that can go, however large each is.
    assert gate_gradient([gate(norm(1.0, 1.0)), gate(norm(-1.0, -1.0))]).tolist() == [0.0, 0.0]


def test_a_layer_without_norm_counts_weight_and_bias() -> None:
    layer = nn.Linear(2, 2)
    layer.weight.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    layer.bias.data = torch.tensor([5.0, 6.0])
    layer.weight.grad, layer.bias.grad = torch.tensor([[0.1, 0.2], [0.0, 1.0]]), torch.tensor([1.0, -1.0])
    gated = GateLayer(layer=layer, positions_N=torch.tensor([1, 0]), channels_N=torch.tensor([0, 1]), num_channels=2)
    expected = torch.tensor([(4 - 6) ** 2, (0.1 + 0.4 + 5) ** 2])
    torch.testing.assert_close(gate_gradient([gated]), expected)
    torch.testing.assert_close(squared_l2_norm([gated]), torch.tensor([9.0 + 16 + 36, 1 + 4 + 25]))


def test_a_channel_at_several_positions_sums_over_them() -> None:
    layer = nn.BatchNorm1d(4)
    layer.weight.data, layer.bias.data = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.zeros(4)
    layer.weight.grad, layer.bias.grad = torch.ones(4), torch.ones(4)
    gated = GateLayer(layer=layer, positions_N=torch.arange(4), channels_N=torch.tensor([0, 0, 1, 1]), num_channels=2)
    assert gate_gradient([gated]).tolist() == [9.0, 49.0]


def test_scores_without_a_batch_are_zero_and_reset_forgets(networks) -> None:
    network, channel_map = networks("own")
    level = Level(1, SharedWeights(network, channel_map), shared_affine=False)
    meter = SaliencyMeter(CRITERIA["weight-magnitude"], channel_map)
    meter.reset(level.network, level.kept)
    assert all(not scores.any() for scores in meter.scores().values())
    meter.update()
    assert all((scores > 0).all() for scores in meter.scores().values())
    meter.reset(level.network, level.kept)
    assert meter.num_batches == 0
    assert all(not scores.any() for scores in meter.scores().values())


def test_groups_that_no_batch_has_run_are_told_from_those_that_are_cut_off_from_the_loss() -> None:
    network = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(3)), nn.Flatten(), nn.Linear(48, 4))
    channel_map = find_groups(network, (3, 4, 4))
    first, second, third = (group.name for group in channel_map.groups)
    meter = SaliencyMeter(CRITERIA["gate-gradient"], channel_map)
    meter.reset(network, channel_map.everything())
    gradients = {first: 1.0, second: 0.0}
    for name in (first, second, None):  # one after the other, and none in the third batch
        for parameter in network.parameters():
            parameter.grad = None
        if name is not None:
            layer = network.get_submodule(name)
            layer.weight.grad = torch.full_like(layer.weight, gradients[name])
        meter.update()
    assert meter.ran == meter.ever_ran == {first, second}
    assert meter.left_out(meter.scores()) == (third,)
    meter.reset(network, channel_map.everything())
    assert meter.ran == set()
    assert meter.ever_ran == {first, second}
    assert meter.left_out(meter.scores()) == (first, second, third)
    assert meter.left_out({first: torch.ones(3), second: torch.zeros(1)}) == ()  # scores that ask for no gradient


def test_scores_of_a_level_do_not_see_other_levels(architecture, networks, random_plan) -> None:
    """Level 2's loss, size or absence leave level 1's scores bit-identical."""

    def scores_of_level_1(others: Sequence[int], scale: float) -> dict[str, torch.Tensor]:
        network, channel_map = networks(architecture)
        shared = SharedWeights(network, channel_map)
        levels = [Level(number, shared, shared_affine=True) for number in range(1, len(others) + 2)]
        for level, seed in zip(levels[1:], others, strict=True):
            level.keep(random_plan(channel_map, seed))
        meter = SaliencyMeter(CRITERIA["gate-gradient"], channel_map)
        meter.reset(levels[0].network, levels[0].kept)
        images, labels = batch(0)
        for level in levels:
            level.refresh()
            training_without_dropout(level.network)
        for level in reversed(levels):
            (F.cross_entropy(level.network(images), labels) * (1.0 if level.number == 1 else scale)).backward()
            level.accumulate_gradients()
        meter.update()
        return meter.scores()

    alone = scores_of_level_1([], 1.0)
    assert any(scores.any() for scores in alone.values())
    for others, scale in (([1], 1.0), ([2], 1e6), ([3, 4], -1.0)):
        beside = scores_of_level_1(others, scale)
        assert all(torch.equal(alone[name], beside[name]) for name in alone)


def test_criteria_are_found_by_name_and_by_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "criteria_of_a_user.py").write_text("def constant(layers):\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_criterion("criteria_of_a_user:constant").score([]) == 1
    assert {name: find_criterion(name) for name in CRITERIA} == dict(CRITERIA)


@pytest.mark.parametrize("name", ["taylor", "os:no_such", "no_such_module:f", "os:", "os.path", "os:sep"])
def test_unknown_criteria_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"pruning\.saliency is"):
        find_criterion(name)


def test_filters_are_looked_at_where_a_criterion_asks_for_them() -> None:
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).eval()
    network[0].weight.data = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.0, 0.5]])[..., None, None]
    network[0].bias.data = torch.tensor([-0.5, 0.0])
    channel_map = find_groups(network, (3, 4, 4))
    for name, wanted in (("filter-l1", [3.5, 3.5]), ("filter-l2", [5.25, 9.25])):
        meter = SaliencyMeter(find_criterion(name), channel_map)
        meter.reset(network, channel_map.everything())
        meter.update()
        (scores,) = meter.scores().values()
        assert scores.tolist() == pytest.approx(wanted)


def test_random_channels_come_from_the_seed() -> None:
    layer = nn.BatchNorm2d(50)
    gated = GateLayer(layer=layer, positions_N=torch.arange(50), channels_N=torch.arange(50), num_channels=50)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(find_criterion("random").score([gated]))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert ((draws[0] > 0) & (draws[0] <= 1)).all()


def test_the_absolute_gradient_is_the_root_of_its_square() -> None:
    layer = nn.BatchNorm2d(2)
    layer.weight.grad, layer.bias.grad = torch.tensor([2.0, -3.0]), torch.ones(2)
    gated = GateLayer(layer=layer, positions_N=torch.arange(2), channels_N=torch.arange(2), num_channels=2)
    assert find_criterion("absolute-gate-gradient").score([gated]).tolist() == [2.0, 3.0]
