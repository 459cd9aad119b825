"""Batches whose images are mixed with one another, and their labels likewise.

Shape suffixes: N images, C channels, H height, W width, K classes.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torchvision.transforms import v2

from trainables.recipe import Recipe


class Mixer:
    """Mixes each batch as a recipe says: mixup (Zhang et al. 2018) blends images, CutMix (Yun et al. 2019) cuts."""

    def __init__(self, recipe: Recipe, num_classes: int) -> None:
        """Prepare it.

        Args:
            recipe: gives `mix`, which is not `none`, and `mix_alpha`.
            num_classes: K.
        """
        mixup = v2.MixUp(alpha=recipe.mix_alpha, num_classes=num_classes)
        cutmix = v2.CutMix(alpha=recipe.mix_alpha, num_classes=num_classes)
        # One of the two, each as likely as the other.
        self._transform = {"mixup": mixup, "cutmix": cutmix, "both": v2.RandomChoice([mixup, cutmix])}[recipe.mix]

    def __call__(
        self, images_NCHW: torch.Tensor, labels_N: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mix one batch.

        Args:
            images_NCHW: normalised.
            labels_N: classes.
            generator: on the CPU; the same state gives the same result.

        Returns:
            Images of the same shape, and for each the share of every class in it, float32 (N, K), rows of sum 1.
        """
        with _drawing_from(generator):
            mixed: tuple[torch.Tensor, torch.Tensor] = self._transform(images_NCHW, labels_N)
        return mixed


def leave_out(number: int, generator: torch.Generator) -> None:
    """Draw what so many batches would."""
    for _ in range(number):
        _seed_of_batch(generator)


def _seed_of_batch(generator: torch.Generator) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator))


@contextmanager
def _drawing_from(generator: torch.Generator) -> Iterator[None]:
    """Let what draws from torch's global generator on the CPU (torchvision has no other) draw from this one."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_seed_of_batch(generator))
        yield
