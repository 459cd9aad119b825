"""How good a network's class scores are. Shape legend: N images, K classes."""

from dataclasses import dataclass

import torch
from torch import nn

from trainables.data import DataSplits, evaluation_batches

EVALUATION_BATCH = 512
TOP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A network on the validation images.

    Attributes:
        accuracy: top-1, in [0, 1].
        top5: part of the images whose class is among the five most likely, in [0, 1]; `None` with five classes or less.
    """

    accuracy: float
    top5: float | None = None


@torch.no_grad()
def evaluate(network: nn.Module, data: DataSplits) -> Evaluation:
    """A network on the validation images; it is left in evaluation mode."""
    network.eval()
    hits = torch.zeros(2, dtype=torch.int64, device=data.val.labels_N.device)
    for images, labels in evaluation_batches(data.val, mean=data.mean, std=data.std, batch_size=EVALUATION_BATCH):
        logits = network(images)
        hits[0] += (logits.argmax(dim=1) == labels).sum()
        if has_top5(data.num_classes):
            hits[1] += in_top5(logits, labels).sum()
    first, five = (int(number) / len(data.val) for number in hits)
    return Evaluation(accuracy=first, top5=five if has_top5(data.num_classes) else None)


def accuracy(network: nn.Module, data: DataSplits) -> float:
    """Top-1 of a network on the validation images, in [0, 1]; the network is left in evaluation mode."""
    return evaluate(network, data).accuracy


def has_top5(num_classes: int) -> bool:
    """Whether being among the five most likely classes says anything."""
    return num_classes > TOP


def in_top5(logits_NK: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Whether an image's class is among its five most likely, of shape (N,); K must be above five."""
    return (logits_NK.topk(TOP, dim=1).indices == labels_N[:, None]).any(dim=1)


def class_accuracies(logits_NK: torch.Tensor, labels_N: torch.Tensor) -> tuple[float | None, ...]:
    """Of each class the part of its images that are taken for it, in [0, 1]; `None` for one without images."""
    num_classes = logits_NK.shape[1]
    right_N = logits_NK.argmax(dim=1) == labels_N
    images_K = torch.bincount(labels_N, minlength=num_classes).tolist()
    right_K = torch.bincount(labels_N[right_N], minlength=num_classes).tolist()
    return tuple(right / images if images else None for right, images in zip(right_K, images_K, strict=True))
