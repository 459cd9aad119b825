import pytest
import torch

from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet


@pytest.fixture(scope="module")
def data():
    """Images of four classes for what looks at no pixel."""
    images = ImageSet(images_NCHW=torch.zeros(64, 3, 16, 16, dtype=torch.uint8), labels_N=torch.arange(64) % 4)
    return DataSplits(train=images, val=images, mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("a", "b", "c", "d"))
