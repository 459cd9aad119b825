"""Batches of an epoch come from its seed alone."""

import pytest
import torch
from torch import nn

from trainables.datasets.data import DataSplits, normalise, training_batches
from trainables.recipe import Recipe
from trainables.stages.batches import batch_layout, epoch_batches


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
