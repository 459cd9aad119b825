"""What classes count, and that the losses are those of the recipe."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from trainables.datasets.data import DataSplits
from trainables.datasets.images import ImageSet
from trainables.errors import InputError
from trainables.recipe import Recipe
from trainables.stages.distillation import coin_divergence, divergence, multi_label_loss
from trainables.stages.objective import Objective


def with_several_labels(data: DataSplits) -> DataSplits:
    parts = (replace(part, labels_N=F.one_hot(part.labels_N, 4).bool()) for part in (data.train, data.val))
    train, val = parts
    return replace(data, train=train, val=val)


@pytest.fixture
def uneven(data: DataSplits) -> DataSplits:
    """Six, three, one and no images of the four classes."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    return replace(data, train=ImageSet(images_NCHW=data.train.images_NCHW[:10], labels_N=labels))


def test_balanced_classes_count_alike_in_all(uneven: DataSplits) -> None:
    weights = Objective.of(Recipe(class_weights="balanced"), uneven).class_weights_K
    assert weights is not None
    counts = torch.tensor([6.0, 3.0, 1.0, 0.0])
    assert (weights * counts).tolist() == pytest.approx([10 / 3, 10 / 3, 10 / 3, 0])
    assert weights[uneven.train.labels_N].mean().item() == pytest.approx(1.0)
    assert weights[3] == 0


def test_of_given_weights_only_the_ratios_count(uneven: DataSplits) -> None:
    found = [Objective.of(Recipe(class_weights=w), uneven).class_weights_K for w in ((1, 2, 3, 4), (2, 4, 6, 8))]
    torch.testing.assert_close(*found)
    assert (found[0] / found[0][0]).tolist() == pytest.approx([1, 2, 3, 4])
    assert found[0][uneven.train.labels_N].mean().item() == pytest.approx(1.0)


def test_as_many_weights_as_classes_are_asked_for(data: DataSplits) -> None:
    with pytest.raises(InputError, match="class_weights has 3 values, but the data has 4 classes; give one a class"):
        Objective.of(Recipe(class_weights=(1.0, 2.0, 3.0)), data)


def test_of_several_labels_an_image_each_class_is_a_question_of_its_own(data: DataSplits) -> None:
    several = with_several_labels(data)
    logits, larger = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    labels = several.train.labels_N[:8]
    objective = Objective.of(Recipe(), several)
    assert torch.equal(objective.of_labels(logits, labels), multi_label_loss(logits, labels))
    assert torch.equal(
        objective.of_level(logits, larger, labels, temperature=2.0, weight=0.4),
        0.6 * multi_label_loss(logits, labels) + 1.6 * coin_divergence(logits / 2.0, larger / 2.0),
    )


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(label_smoothing=0.1), "label_smoothing is 0.1, but is for one class an image, .*; leave it at 0"),
        (Recipe(class_weights="balanced"), "class_weights is balanced, but is for one class an image"),
        (Recipe(class_weights=(1.0, 2.0)), r"class_weights is \[1.0, 2.0\], but is for one class"),
    ],
)
def test_what_several_labels_have_no_use_for_is_refused(data: DataSplits, recipe: Recipe, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Objective.of(recipe, with_several_labels(data))


def test_losses_are_the_recipes(data: DataSplits) -> None:
    logits, larger = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 4
    apart = divergence(logits / 2.0, larger / 2.0)
    plain = Objective.of(Recipe(label_smoothing=0.2), data)
    assert torch.equal(plain.of_labels(logits, labels), F.cross_entropy(logits, labels, label_smoothing=0.2))
    assert torch.equal(
        plain.of_level(logits, larger, labels, temperature=2.0, weight=0.4),
        0.6 * F.cross_entropy(logits, labels, label_smoothing=0.2) + 1.6 * apart,
    )
    weighted = Objective.of(Recipe(class_weights=(1.0, 2.0, 3.0, 4.0)), data)
    assert weighted.of_labels(logits, labels) != plain.of_labels(logits, labels)
    for weight in (0.0, 0.4):
        torch.testing.assert_close(
            weighted.of_level(logits, larger, labels, temperature=2.0, weight=weight),
            (1 - weight) * weighted.of_labels(logits, labels) + 4.0 * weight * apart,
        )
