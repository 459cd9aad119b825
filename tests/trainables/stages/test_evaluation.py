"""What accuracies are of, against counting by hand."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import nn

from trainables.datasets.data import DataSplits
from trainables.stages.evaluation import class_scores, evaluate, guess, in_top5, score, top5


def test_accuracy_is_the_part_of_validation_images_that_are_right(data: DataSplits) -> None:
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return torch.tensor([0.0, 0.0, 1.0, 0.0]).expand(len(x), 4)

    assert evaluate(Constant(), data).accuracy == 0.25


def test_who_guesses_names_the_commonest_class_or_ranks_images_all_the_same() -> None:
    assert guess(torch.tensor([2, 0, 2, 1, 2, 0, 1, 0])) == 3 / 8
    labels_NK = torch.tensor([[True, False], [True, False], [True, True], [False, False]])
    assert guess(labels_NK) == pytest.approx((3 / 4 + 1 / 4) / 2)
    assert guess(labels_NK) == pytest.approx(score(torch.full((4, 2), 0.3), labels_NK))


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
    assert class_scores(torch.eye(4)[taken_for], labels) == (pytest.approx(2 / 3), 0.5, None, 1.0)


@given(seed=st.integers(0, 2**31), num_images=st.integers(1, 40), ties=st.booleans())
def test_average_precision_is_scikit_learns(seed: int, num_images: int, *, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_images, 3, generator=generator)
    logits = logits.round() if ties else logits
    labels = torch.rand(num_images, 3, generator=generator) < 0.3
    labels[0, 0] = True
    wanted = [
        average_precision_score(labels[:, k].numpy(), logits[:, k].numpy()) if labels[:, k].any() else None
        for k in range(3)
    ]
    found = class_scores(logits, labels)
    assert [p is None for p in found] == [p is None for p in wanted]
    assert [p for p in found if p is not None] == pytest.approx([p for p in wanted if p is not None])
    known = [p for p in wanted if p is not None]
    assert score(logits, labels) == pytest.approx(sum(known) / len(known))
    assert top5(torch.randn(2, 9), torch.zeros(2, 9, dtype=torch.bool)) is None


def test_a_network_of_several_labels_is_told_by_its_mean_average_precision(data: DataSplits) -> None:
    class Bright(nn.Module):
        """Scores of the four quarters by how bright they are: what tells the classes."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x.mean(1, keepdim=True), 8).flatten(1)

    several = nn.functional.one_hot(data.val.labels_N, 4).bool()
    several[:8] |= several[8:16].roll(1, 0)
    labelled = replace(
        data,
        val=replace(data.val, labels_N=several),
        train=replace(data.train, labels_N=nn.functional.one_hot(data.train.labels_N, 4).bool()),
    )
    found = evaluate(Bright(), labelled)
    images = (data.val.images_NCHW / 255 - 0.3) / 0.25
    assert found.accuracy == pytest.approx(score(Bright()(images), several), abs=1e-6)
    assert 0.8 < found.accuracy < 1.0
    assert found.top5 is None
