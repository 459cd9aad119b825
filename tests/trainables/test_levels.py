"""Levels against a gather that autograd differentiates by itself."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from trainables.channels import BATCH_NORMS, resize, tensor_axes
from trainables.levels import Level, SharedWeights, unused


def make_levels(networks, random_plan, architecture: str, seeds: list[int], *, shared_affine: bool = False):
    network, channel_map = networks(architecture)
    shared = SharedWeights(network, channel_map)
    levels = [Level(number, shared, shared_affine=shared_affine) for number in range(1, len(seeds) + 1)]
    for level, seed in zip(levels, seeds, strict=True):
        level.keep(random_plan(channel_map, seed))
        level.network.eval()  # dropout draws nothing
        for layer in level.network.modules():
            if isinstance(layer, BATCH_NORMS):
                layer.train()
    return shared, levels


def gathered(dense: dict[str, torch.Tensor], level: Level) -> dict[str, torch.Tensor]:
    """The level's parameters, indexed out of dense ones so that autograd sees it."""
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
    return torch.randn(8, 3, 16, 16, generator=generator), torch.randint(4, (8,), generator=generator)


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
        logits = torch.func.functional_call(level.network, gathered(dense | own, level), (images,))
        total = total + level.number * F.cross_entropy(logits, labels)
    total.backward()

    for level in levels:
        level.refresh()
        (level.number * F.cross_entropy(level.network(images), labels)).backward()
        level.accumulate_gradients()
    for name, parameter in shared.network.named_parameters():
        wanted = torch.zeros_like(parameter) if dense[name].grad is None else dense[name].grad
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-4, atol=1e-5)
    for level, own in zip(levels, private, strict=True):
        for name, parameter in level.private.items():
            torch.testing.assert_close(parameter.grad, own[name].grad, rtol=1e-4, atol=1e-5)


@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_refreshed_parameters_are_the_kept_ones_bit_for_bit(architecture, networks, random_plan, seed: int) -> None:
    shared, (level,) = make_levels(networks, random_plan, architecture, [seed])
    with torch.no_grad():
        for parameter in shared.network.parameters():
            parameter.add_(1.0)
    level.refresh()
    wanted = gathered(dict(shared.network.named_parameters()) | level.private, level)
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
    tensors = [set() for _ in levels]
    for level, seen in zip(levels, tensors, strict=True):
        seen.update(dense for dense, _ in level.sources() if dense.ndim == 1)
    norms = {p for norm in shared.norms for p in shared.network.get_submodule(norm).parameters()}
    assert (norms <= tensors[0]) is equal
    assert bool(norms & tensors[1]) is equal
    assert len(levels[0].private) == (0 if shared_affine else 2 * len(shared.norms))
    assert set(levels[0].private.values()).isdisjoint(levels[1].private.values())


def test_unused_is_what_no_level_reads(architecture, networks, random_plan) -> None:
    shared, levels = make_levels(networks, random_plan, architecture, [7, 8])
    dense = {name: torch.zeros_like(p, requires_grad=True) for name, p in shared.network.named_parameters()}
    sum(tensor.sum() for level in levels for tensor in gathered(dense, level).values()).backward()
    masks = unused(levels)
    for name, parameter in shared.network.named_parameters():
        if parameter in masks:
            assert torch.equal(masks[parameter], dense[name].grad == 0), name
    for level in levels:
        for tensor in level.private.values():
            assert tensor in masks


def test_a_level_is_an_ordinary_narrow_network(architecture, networks, random_plan) -> None:
    shared, (level,) = make_levels(networks, random_plan, architecture, [11])
    network, channel_map = networks(architecture)
    resize(network, channel_map.narrowed(level.kept))
    network.load_state_dict(level.network.state_dict())
    images, _ = batch()
    with torch.no_grad():
        assert torch.equal(network.eval()(images), level.network.eval()(images))
    assert isinstance(level.network, nn.Module)
    assert type(level.network) is type(shared.network)
