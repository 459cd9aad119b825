"""Seeds and batches of an epoch, recalibration."""

import copy

import pytest
import torch
from torch import nn

from trainables.channels import BATCH_NORMS
from trainables.data import DataSplits, normalise, training_batches
from trainables.recipe import Recipe
from trainables.training import (
    batch_layout,
    derive_seed,
    epoch_batches,
    prefixed,
    recalibrate,
    seeded_layers,
    unprefixed,
)


def test_seeds_differ_by_base_and_by_use() -> None:
    seeds = {derive_seed(seed, *parts) for seed in (0, 1) for parts in (("a", 1), ("a", 2), ("b", 1), ("a",), ())}
    assert len(seeds) == 10
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "a", 1) == derive_seed(0, "a", 1)


def test_seeded_layers_are_repeatable_and_leave_the_global_generator() -> None:
    before = torch.get_rng_state()
    drawn = []
    for seed in (5, 5, 6):
        with seeded_layers(seed, torch.device("cpu")):
            drawn.append(nn.functional.dropout(torch.ones(64)))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_recalibration_is_the_cumulative_average_over_batches(architecture, networks, data: DataSplits) -> None:
    network, _ = networks(architecture)
    before = copy.deepcopy(network.state_dict())
    norms = {name: layer for name, layer in network.named_modules() if isinstance(layer, BATCH_NORMS)}
    seen: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in norms}

    def watch(name: str):
        def hook(_layer: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            x = inputs[0].detach().double()
            seen[name].append((x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=True)))

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in norms.items()]
    recalibrate(network, data, batch_size=24, seed=3)
    for hook in hooks:
        hook.remove()
    for name, layer in norms.items():
        assert len(seen[name]) == 2  # 64 images: two whole batches
        for number, buffer in enumerate((layer.running_mean, layer.running_var)):
            naive = torch.stack([batch[number] for batch in seen[name]]).mean(0)
            torch.testing.assert_close(buffer.double(), naive, rtol=1e-3, atol=1e-4)
        assert layer.momentum == 0.1
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    for name, tensor in network.state_dict().items():
        assert name.endswith(statistics) or torch.equal(tensor, before[name])
    assert not any(layer.training for layer in network.modules())


def test_recalibration_depends_on_its_seed_alone(networks, data: DataSplits) -> None:
    found = []
    for seed, noise in ((1, 0), (1, 1), (2, 0)):
        network, _ = networks("own")  # has dropout, which must not draw
        torch.manual_seed(noise)
        recalibrate(network, data, batch_size=24, seed=seed)
        found.append(network.stem[1].running_mean)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_epoch_batches_are_the_seeds(data: DataSplits) -> None:
    recipe = Recipe(batch_size=16)
    first, again, other = (list(epoch_batches(data, recipe, "crop-flip", seed)) for seed in (1, 1, 2))
    assert len(first) == 4
    assert all(torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    plain = training_batches(
        data.train,
        mean=data.mean,
        std=data.std,
        batch_size=64,
        augmentation="none",
        generator=torch.Generator().manual_seed(1),
    )
    images, labels = next(plain)
    everything = normalise(data.train.images_NCHW, data.mean, data.std)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(images, everything[order])
    assert torch.equal(labels, data.train.labels_N[order])


def test_prefixes_come_off_again_and_do_not_mix() -> None:
    one, ten = {"a.b": torch.zeros(1)}, {"a.b": torch.ones(1)}
    both = prefixed("level.1", one) | prefixed("level.10", ten)
    assert set(both) == {"level.1.a.b", "level.10.a.b"}
    assert unprefixed("level.1", both) == one
    assert unprefixed("level.10", both) == ten


class Flat(nn.Module):
    """Views a feature map as flat, as only one with its channels first can be."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.scores = nn.Linear(4 * 14 * 14, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.convolution(x)
        scores: torch.Tensor = self.scores(x.view(len(x), -1))
        return scores


def test_images_lie_channels_last_unless_the_network_cannot_read_them_so(networks, data: DataSplits) -> None:
    assert batch_layout(networks("own")[0], data) == torch.channels_last
    assert batch_layout(Flat(), data) == torch.contiguous_format


@pytest.mark.parametrize("start", [1, 3])
def test_what_follows_the_first_batches_is_what_follows_them(data: DataSplits, start: int) -> None:
    recipe = Recipe(batch_size=16, mix="both")
    whole, rest = (list(epoch_batches(data, recipe, "crop-flip", 3, start=first)) for first in (0, start))
    assert len(rest) == len(whole) - start
    for (images, labels), (expected, their_labels) in zip(rest, whole[start:], strict=True):
        assert torch.equal(images, expected)
        assert torch.equal(labels, their_labels)


def test_layout_changes_nothing_but_the_layout(data: DataSplits) -> None:
    recipe = Recipe(batch_size=16)
    first = list(epoch_batches(data, recipe, "crop-flip", 3))
    last = list(epoch_batches(data, recipe, "crop-flip", 3, torch.channels_last))
    for (images, labels), (others, other_labels) in zip(first, last, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
        assert images.is_contiguous()
        assert others.is_contiguous(memory_format=torch.channels_last)
