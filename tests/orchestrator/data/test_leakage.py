"""Validation images that training shows, too, are told."""

import pytest
import torch

from orchestrator.data.leakage import leakage_notes
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet


def splits(num_shared: int, num_val: int = 200) -> DataSplits:
    pixels = torch.randint(256, (100 + num_val, 3, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    train, val = pixels[:100], pixels[100:]
    val[:num_shared] = train[:num_shared]

    def images(images_NCHW: torch.Tensor) -> ImageSet:
        return ImageSet(images_NCHW=images_NCHW, labels_N=torch.arange(len(images_NCHW)) % 2)

    return DataSplits(train=images(train), val=images(val), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("a", "b"))


@pytest.mark.parametrize("num_shared", [2, 90])
def test_images_of_both_parts_are_counted(num_shared: int) -> None:
    (note,) = leakage_notes(splits(num_shared))
    assert note.startswith(f"{num_shared} of 200 validation images are training images too")


def test_a_twin_among_many_is_not_worth_a_word() -> None:
    assert list(leakage_notes(splits(1))) == []


def test_pixels_in_another_place_make_another_image() -> None:
    data = splits(0)
    turned = ImageSet(images_NCHW=data.val.pixels(torch.arange(50)).flip(3), labels_N=torch.arange(50) % 2)
    unturned = data.val.first(50)
    for train, number in ((turned, 0), (unturned, 1)):
        mixed = DataSplits(train=train, val=unturned, mean=data.mean, std=data.std, class_names=data.class_names)
        assert len(list(leakage_notes(mixed))) == number
