"""What accuracies are of, against counting by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from trainables.data import DataSplits
from trainables.evaluation import accuracy, class_accuracies, evaluate, in_top5


def test_accuracy_is_the_part_of_validation_images_that_are_right(data: DataSplits) -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(len(x), 4)

    assert accuracy(Constant(), data) == 0.25


def test_top5_is_told_of_more_than_five_classes(data: DataSplits) -> None:
    class Ranked(nn.Module):
        """Takes class 0 for the most likely one, then 1 and so on."""

        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.num_classes = num_classes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -torch.arange(self.num_classes).float().expand(len(x), self.num_classes)

    labels = torch.arange(32) % 8
    eight = replace(data, val=replace(data.val, labels_N=labels), class_names=tuple("abcdefgh"))
    found = evaluate(Ranked(8), eight)
    assert (found.accuracy, found.top5) == (1 / 8, 5 / 8)
    five = replace(data, val=replace(data.val, labels_N=labels % 5), class_names=tuple("abcde"))
    assert evaluate(Ranked(5), five).top5 is None


def test_an_image_is_in_the_top_five_if_at_most_four_classes_are_likelier() -> None:
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(50) % 9
    wanted = [int((row > row[label]).sum()) < 5 for row, label in zip(logits, labels, strict=True)]
    assert in_top5(logits, labels).tolist() == wanted
    assert 0 < sum(wanted) < 50


def test_each_class_has_an_accuracy_of_its_own() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 3])
    taken_for = torch.tensor([0, 0, 1, 1, 0, 3])
    assert class_accuracies(torch.eye(4)[taken_for], labels) == (pytest.approx(2 / 3), 0.5, None, 1.0)
