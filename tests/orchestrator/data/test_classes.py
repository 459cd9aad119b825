"""What is said of classes that a part lacks."""

import pytest
import torch

from orchestrator.data.classes import class_notes, named, require_differences
from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.errors import InputError


def splits(val_labels, train_labels=None):
    def images(labels):
        return ImageSet(images_NCHW=torch.zeros(len(labels), 1, 8, 8, dtype=torch.uint8), labels_N=labels)

    several = torch.tensor(val_labels).ndim == 2
    kind = torch.bool if several else torch.int64
    train = torch.eye(3) if several else torch.arange(3)
    train = (train if train_labels is None else torch.tensor(train_labels)).to(kind)
    return DataSplits(
        train=images(train),
        val=images(torch.tensor(val_labels, dtype=kind)),
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


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1, 1], "all 2 training images are of the class bee, so that there is nothing to learn"),
        (
            [[1, 1, 0]] * 4,
            r"all 4 training images have the same labels \(2 of 3 classes\).*not a 0 or a 1 for each class",
        ),
        ([[0, 0, 0]] * 4, r"all 4 training images have the same labels \(0 of 3 classes\)"),
    ],
)
def test_training_images_that_are_all_labelled_alike_are_refused(labels, message):
    data = splits(labels, labels)
    with pytest.raises(InputError, match=message):
        require_differences(data)


def test_classes_that_no_or_all_training_images_have_are_named():
    labels = [[1, 0, 0], [1, 0, 1]]
    data = splits([[1, 0, 0], [0, 1, 0], [0, 0, 1]] * 2, labels)
    require_differences(data)
    assert [note.partition(", which")[0] for note in class_notes(data)] == [
        "no training image shows 1 of 3 classes (bee)",
        "all training images show 1 of 3 classes (ant)",
    ]


def test_few_validation_images_are_said():
    (note,) = class_notes(splits([0, 1, 2, 2]))
    assert note.startswith("validation has 4 images for 3 classes, so that accuracies differ by steps of 25 points")


def test_of_many_classes_the_first_are_named():
    assert named([str(number) for number in range(7)], 10) == "7 of 10 classes (0, 1, 2, 3, 4, …)"
