"""What is said of classes that a part lacks."""

import pytest
import torch

from orchestrator.classes import class_notes, named
from trainables.data import DataSplits
from trainables.images import ImageSet


def splits(val_labels):
    def images(labels):
        return ImageSet(images_NCHW=torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels_N=labels)

    several = torch.tensor(val_labels).ndim == 2
    train = torch.eye(3, dtype=torch.bool) if several else torch.arange(3)
    return DataSplits(
        train=images(train),
        val=images(torch.tensor(val_labels, dtype=torch.bool if several else torch.int64)),
        mean=(0.5,),
        std=(0.25,),
        class_names=("ant", "bee", "cat"),
    )


@pytest.mark.parametrize("labels", [[0, 1, 2] * 2, [[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2])
def test_nothing_is_said_where_each_class_has_images(labels):
    assert list(class_notes(splits(labels))) == []


@pytest.mark.parametrize("labels", [[1] * 6, [[0, 1, 0]] * 6])
def test_classes_without_validation_images_are_named(labels):
    (note,) = class_notes(splits(labels))
    assert note.startswith("validation has no images of 2 of 3 classes (ant, cat), so networks are chosen without")
    assert "data.val_fraction" in note


def test_few_validation_images_are_said():
    (note,) = class_notes(splits([0, 1, 2, 2]))
    assert note.startswith("validation has 4 images for 3 classes, so that accuracies differ by steps of 25 points")


def test_of_many_classes_the_first_are_named():
    assert named([str(number) for number in range(7)], 10) == "7 of 10 classes (0, 1, 2, 3, 4, …)"
