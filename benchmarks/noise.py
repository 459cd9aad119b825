"""Images of noise, for what does not depend on what is in them."""

from collections.abc import Sequence

import torch

from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet

NUM_CLASSES = 10


def noise(counts: Sequence[int], size: int = 32) -> DataSplits:
    """So many images for training and for validation, of `size` pixels a side, their classes in turn."""
    generator = torch.Generator().manual_seed(0)
    train, val = (
        ImageSet(
            images_NCHW=torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8),
            labels_N=torch.arange(count) % NUM_CLASSES,
        )
        for count in counts
    )
    names = tuple(str(label) for label in range(NUM_CLASSES))
    return DataSplits(train=train, val=val, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=names)
