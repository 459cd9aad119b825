"""Batches of an epoch, and what each rank has of them."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from trainables.data_config import Augmentation
from trainables.datasets.data import DataSplits, training_batches
from trainables.errors import InputError
from trainables.hardware.layout import find_layout
from trainables.hardware.ranks import ALONE, Ranks
from trainables.recipe import Recipe
from trainables.seeds import derive_seed


def batch_layout(network: nn.Module, data: DataSplits) -> torch.memory_format:
    """How training images lie in memory, as `find_layout` says; the network is left in evaluation mode."""
    some = torch.arange(min(2, len(data.val)))
    return find_layout(network, data.val.pixels(some).to(data.val.labels_N.device, torch.float32))


def epoch_batches(
    data: DataSplits,
    recipe: Recipe,
    augmentation: Augmentation,
    seed: int,
    layout: torch.memory_format = torch.contiguous_format,
    *,
    start: int = 0,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of one epoch in a layout, whose order, augmentation and mixing come from `seed` alone.

    The first `start` batches are left out; what follows is what follows them.

    Yields:
        float32 images (batch, C, H, W) and labels: int64 (batch,), or where they are mixed, float32 (batch, classes).
    """
    batches = training_batches(
        data.train,
        mean=data.mean,
        std=data.std,
        batch_size=recipe.batch_size,
        augmentation=augmentation,
        generator=torch.Generator().manual_seed(seed),
        start=start,
    )
    if recipe.mix != "none":
        from trainables.datasets.mixing import Mixer, leave_out  # torchvision takes more than a second to import

        mixer = Mixer(recipe, data.num_classes)
        mixing = torch.Generator().manual_seed(derive_seed(seed, "mix"))
        leave_out(start, mixing)
        batches = (mixer(images, labels, mixing) for images, labels in batches)
    return ((images.contiguous(memory_format=layout), labels) for images, labels in batches)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Part:
    """What a rank has of a micro-batch.

    Attributes:
        images: normalised, N x channels x height x width.
        labels: of these images.
        share: of the whole batch, all micro-batches and all ranks together, that these images are, in (0, 1].
        num_together: images of the micro-batch over all ranks.
    """

    images: torch.Tensor
    labels: torch.Tensor
    share: float
    num_together: int


def micro_batches(images: torch.Tensor, labels: torch.Tensor, number: int, ranks: Ranks = ALONE) -> tuple[Part, ...]:
    """A rank's parts of a batch in so many micro-batches, as equal as can be.

    Args:
        images: of the whole batch, the same on every rank.
        labels: likewise.
        number: micro-batches; there are fewer where one would have less than two images.
        ranks: who share each of them.
    """
    number = _num_parts(len(images), number)
    parts = []
    for some, their_labels in zip(images.tensor_split(number), labels.tensor_split(number), strict=True):
        own = ranks.part(len(some))
        share = (own.stop - own.start) / len(images)
        parts.append(Part(images=some[own], labels=their_labels[own], share=share, num_together=len(some)))
    return tuple(parts)


def _num_parts(num_images: int, accumulate: int) -> int:
    return max(1, min(accumulate, num_images // 2))


def require_parts(recipe: Recipe, *, num_train: int, ranks: int, section: str) -> None:
    """Check that a recipe gives every rank work, of a kind that several can share.

    Args:
        recipe: of a stage.
        num_train: training images.
        ranks: number of processes.
        section: what the recipe's keys are under, for the message.

    Raises:
        InputError: if a micro-batch has fewer images than there are ranks, or steps are compiled.
    """
    if ranks == 1:
        return
    images = min(recipe.batch_size, num_train)
    smallest = images // _num_parts(images, recipe.accumulate)
    if smallest < ranks:
        raise InputError(
            f"{section}.batch_size is {recipe.batch_size} and {section}.accumulate {recipe.accumulate}, so that "
            f"{smallest} images are trained on at once, but each of {ranks} ranks needs one; raise batch_size, or "
            "lower accumulate or the number of ranks"
        )
    if recipe.execution == "compile":
        raise InputError(
            f"{section}.execution is 'compile', but {ranks} ranks take steps one operation after the other; take "
            "eager, or one rank"
        )
