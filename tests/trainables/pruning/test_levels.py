"""Levels against a gather that autograd differentiates by itself."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainables.pruning.channels import BATCH_NORMS, resize, tensor_axes
from trainables.pruning.levels import Level, SharedWeights
from trainables.pruning.views import find_indices, pick
from trainables.stages.optimizers import cut_state


def make_levels(networks, random_plan, architecture: str, seeds: list[int], *, shared_affine: bool = False):
    network, channel_map = networks(architecture)
    shared = SharedWeights(network.double(), channel_map)  # so that sums in any order agree
    levels = [Level(number, shared, shared_affine=shared_affine) for number in range(1, len(seeds) + 1)]
    for level, seed in zip(levels, seeds, strict=True):
        level.keep(random_plan(channel_map, seed))
        level.network.eval()  # dropout draws nothing
        for layer in level.network.modules():
            if isinstance(layer, BATCH_NORMS):
                layer.train()
    return shared, levels


def gathered(dense: dict[str, torch.Tensor], level: Level) -> dict[str, torch.Tensor]:
    """The level's parameters, but for private ones, indexed out of dense ones so that autograd sees it."""
    channel_map = level.shared.channel_map
    positions = channel_map.kept_positions(level.kept)
    narrow = {}
    for name, tensor in dense.items():
        layer, _, kind = name.rpartition(".")
        for dimension, axis in enumerate(tensor_axes(level.shared.network.get_submodule(layer), kind)):
            if (layer, axis) in positions:
                index = [slice(None)] * tensor.ndim
                index[dimension] = positions[layer, axis]
                tensor = tensor[tuple(index)]
        narrow[name] = tensor
    return narrow


def batch(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(8, 3, 16, 16, generator=generator).double(), torch.randint(4, (8,), generator=generator)


@pytest.mark.parametrize("shared_affine", [False, True])
@settings(max_examples=2, deadline=None)
@given(seeds=st.lists(st.integers(0, 2**31), min_size=2, max_size=3))
def test_gradients_are_the_sum_over_levels_of_autograds(architecture, networks, random_plan, shared_affine, seeds):
    shared, levels = make_levels(networks, random_plan, architecture, seeds, shared_affine=shared_affine)
    images, labels = batch()
    dense = {name: p.detach().clone().requires_grad_() for name, p in shared.network.named_parameters()}
    private = [{name: p.detach().clone().requires_grad_() for name, p in level.private.items()} for level in levels]
    total = torch.zeros(())
    for level, own in zip(levels, private, strict=True):
        logits = torch.func.functional_call(level.network, gathered(dense, level) | own, (images,))
        total = total + level.number * F.cross_entropy(logits, labels)
    total.backward()

    for level in levels:
        level.refresh()
        F.cross_entropy(level.network(images), labels).backward()
        level.accumulate_gradients(float(level.number))
    for name, parameter in shared.network.named_parameters():
        wanted = torch.zeros_like(parameter) if dense[name].grad is None else dense[name].grad
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-9, atol=1e-10)
    for level, own in zip(levels, private, strict=True):
        for name, parameter in level.private.items():
            torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-9, atol=1e-10)


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_refreshed_parameters_are_the_kept_ones_bit_for_bit(architecture, networks, random_plan, seed: int) -> None:
    shared, (level,) = make_levels(networks, random_plan, architecture, [seed])
    with torch.no_grad():
        for parameter in shared.network.parameters():
            parameter.add_(1.0)
    level.refresh()
    wanted = gathered(dict(shared.network.named_parameters()), level) | level.private
    for name, parameter in level.network.named_parameters():
        assert torch.equal(parameter, wanted[name])
        assert parameter.grad is None


def test_shrinking_in_two_steps_is_shrinking_in_one(architecture, networks, random_plan) -> None:
    shared, (twice,) = make_levels(networks, random_plan, architecture, [3])
    half = {name: kept[: (len(kept) + 1) // 2] for name, kept in twice.kept.items()}
    once = Level(2, shared, shared_affine=False)
    once.keep(half)
    twice.keep(half)
    wanted = once.network.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in twice.network.state_dict().items())


def test_statistics_follow_the_channels_that_stay(networks, random_plan) -> None:
    shared, (level,) = make_levels(networks, random_plan, "own", [5])
    positions = shared.channel_map.kept_positions(level.kept)
    for norm in shared.norms:
        narrow, dense = level.network.get_submodule(norm), shared.network.get_submodule(norm)
        assert torch.equal(narrow.running_mean, dense.running_mean[positions[norm, "out"]])
        assert torch.equal(narrow.running_var, dense.running_var[positions[norm, "out"]])
        assert narrow.num_batches_tracked == dense.num_batches_tracked


@pytest.mark.parametrize(("shared_affine", "equal"), [(True, True), (False, False)])
def test_scale_and_shift_are_private_unless_they_are_shared(
    networks, random_plan, *, shared_affine: bool, equal: bool
) -> None:
    shared, levels = make_levels(networks, random_plan, "own", [1, 1], shared_affine=shared_affine)
    norms = [p for norm in shared.norms for p in shared.network.get_submodule(norm).parameters()]
    for level in levels:
        for parameter in level.network.parameters():
            parameter.grad = torch.ones_like(parameter)
        level.accumulate_gradients()
    assert all(p.grad.any() for p in norms) is equal
    assert any(p.grad.any() for p in norms) is equal
    assert all(p.grad.all() for level in levels for p in level.private.values())
    assert len(levels[0].private) == (0 if shared_affine else 2 * len(shared.norms))
    assert set(levels[0].private.values()).isdisjoint(levels[1].private.values())


@pytest.mark.parametrize("shared_affine", [False, True])
def test_levels_do_not_see_that_what_none_of_them_reads_is_gone(
    architecture, networks, random_plan, *, shared_affine: bool
) -> None:
    """Parameters, and gradients at what stays, are those of levels that view all of θ, bit for bit."""
    whole, wanted = make_levels(networks, random_plan, architecture, [8, 9], shared_affine=shared_affine)
    cut, levels = make_levels(networks, random_plan, architecture, [8, 9], shared_affine=shared_affine)
    cuts = cut.drop_unread(levels)
    assert cuts
    kept = find_indices(whole.network, whole.channel_map, wide=whole.kept, narrow=cut.kept)
    images, labels = batch()
    for level in (*wanted, *levels):
        level.refresh()
        F.cross_entropy(level.network(images), labels).backward()
        level.accumulate_gradients()
    for level, other in zip(levels, wanted, strict=True):
        for name, parameter in level.network.named_parameters():
            assert torch.equal(parameter, other.network.get_parameter(name)), name
        for name, parameter in level.private.items():
            assert parameter.shape == level.network.get_parameter(name).shape
            assert torch.equal(parameter.grad, other.private[name].grad)
    for name, parameter in cut.network.named_parameters():
        dense = whole.network.get_parameter(name)
        assert torch.equal(parameter, pick(dense, kept[name])), name
        assert torch.equal(parameter.grad, pick(dense.grad, kept[name])), name
        assert (parameter.shape != dense.shape) is (parameter in cuts)
    assert sum(p.numel() for p in cut.network.parameters()) < sum(p.numel() for p in whole.network.parameters())


def test_shared_weights_may_be_cut_again(networks, random_plan) -> None:
    shared, levels = make_levels(networks, random_plan, "own", [8, 9])
    shared.drop_unread(levels)
    for level in levels:
        level.keep({name: kept[len(kept) // 2 :] for name, kept in level.kept.items()})
    wanted = [{name: p.clone() for name, p in level.network.named_parameters()} for level in levels]
    shared.drop_unread(levels)
    for level, parameters in zip(levels, wanted, strict=True):
        level.refresh()
        assert all(torch.equal(level.network.get_parameter(name), p) for name, p in parameters.items())
    assert shared.drop_unread(levels) == {}


def test_an_optimisers_state_is_cut_as_its_parameter_and_counts_of_steps_stay() -> None:
    parameter, whole = (nn.Parameter(torch.arange(12.0).view(4, 3)) for _ in range(2))
    optimizers = [torch.optim.AdamW([p], lr=0.1, amsgrad=True) for p in (parameter, whole)]
    rows, columns = torch.tensor([0, 3]), torch.tensor([1])
    for step in range(4):
        for p, optimizer in zip((parameter, whole), optimizers, strict=True):
            full = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
            p.grad = full if p.shape == full.shape else pick(full, (rows, columns))
            optimizer.step()
        if step == 1:
            parameter.grad, parameter.data = None, pick(parameter.data, (rows, columns))
            cut_state(optimizers[0], {parameter: (rows, columns)})
    assert torch.equal(parameter, pick(whole, (rows, columns)))
    assert optimizers[0].state[parameter]["step"] == 4
    assert parameter.shape == optimizers[0].state[parameter]["exp_avg_sq"].shape == (2, 1)


def test_a_level_is_an_ordinary_narrow_network(architecture, networks, random_plan) -> None:
    shared, (level,) = make_levels(networks, random_plan, architecture, [11])
    network, channel_map = networks(architecture)
    resize(network.double(), channel_map.narrowed(level.kept))
    network.load_state_dict(level.network.state_dict())
    images, _ = batch()
    with torch.no_grad():
        assert torch.equal(network.eval()(images), level.network.eval()(images))
    assert isinstance(level.network, nn.Module)
    assert type(level.network) is type(shared.network)
