"""How good a network's class scores are. Shape legend: N images, K classes.

Where an image has one class, what counts is how many are right. Where it may have several, it is the mean average
precision: how far up a class's images stand when all are ranked by its score, the mean over classes.
"""

from dataclasses import dataclass

import torch
from torch import nn

from trainables.datasets.data import DataSplits, evaluation_batches
from trainables.hardware.ranks import ALONE, Ranks

EVALUATION_BATCH = 512
TOP = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """A network on the validation images.

    Attributes:
        accuracy: top-1, in [0, 1]; the mean average precision where images may have several classes.
        top5: part of the images whose class is among the five most likely, in [0, 1]; `None` with five classes or less,
            or with several an image.
    """

    accuracy: float
    top5: float | None = None


@torch.no_grad()
def evaluate(network: nn.Module, data: DataSplits, ranks: Ranks = ALONE) -> Evaluation:
    """A network on the validation images, of which each rank takes a part; it is left in evaluation mode."""
    network.eval()
    own = ranks.part(len(data.val))
    batches = evaluation_batches(data.val, mean=data.mean, std=data.std, batch_size=EVALUATION_BATCH, rows=own)
    if data.multi_label:
        logits_NK = data.val.labels_N.new_zeros(data.val.labels_N.shape, dtype=torch.float32)
        if own.stop > own.start:
            logits_NK[own] = torch.cat([network(images) for images, _ in batches])
        ranks.add_up([logits_NK])
        return Evaluation(accuracy=score(logits_NK, data.val.labels_N))
    hits = torch.zeros(2, dtype=torch.int64, device=data.val.labels_N.device)
    for images, labels in batches:
        logits = network(images)
        hits[0] += (logits.argmax(dim=1) == labels).sum()
        if data.num_classes > TOP:
            hits[1] += in_top5(logits, labels).sum()
    ranks.add_up([hits])
    first, five = (int(number) / len(data.val) for number in hits)
    return Evaluation(accuracy=first, top5=five if data.num_classes > TOP else None)


def score(logits_NK: torch.Tensor, labels: torch.Tensor) -> float:
    """How good scores are, in [0, 1]: top-1, or the mean average precision over classes that have images.

    Args:
        logits_NK: class scores.
        labels: classes, int64 of shape (N,); or bool of shape (N, K).
    """
    if labels.ndim == 1:
        return (logits_NK.argmax(1) == labels).double().mean().item()
    known = [precision for precision in class_scores(logits_NK, labels) if precision is not None]
    return sum(known) / len(known) if known else 0.0


def guess(labels: torch.Tensor) -> float:
    """Accuracy of who does not look: the commonest class every time, or with several labels the same for all images.

    Args:
        labels: as `score` takes them.

    Returns:
        In [0, 1], as `score` counts.
    """
    if labels.ndim == 1:
        return labels.bincount().max().item() / len(labels)
    return score(torch.zeros(labels.shape, device=labels.device), labels)


def top5(logits_NK: torch.Tensor, labels: torch.Tensor) -> float | None:
    """Part of the images whose class is among the five most likely, where that says anything."""
    if labels.ndim == 2 or logits_NK.shape[1] <= TOP:
        return None
    return in_top5(logits_NK, labels).double().mean().item()


def in_top5(logits_NK: torch.Tensor, labels_N: torch.Tensor) -> torch.Tensor:
    """Whether an image's class is among its five most likely, of shape (N,); K must be above five."""
    return (logits_NK.topk(TOP, dim=1).indices == labels_N[:, None]).any(dim=1)


def class_scores(logits_NK: torch.Tensor, labels: torch.Tensor) -> tuple[float | None, ...]:
    """How good scores are for each class, in [0, 1]; `None` for one without images.

    Of one class an image it is the part of the class's images that are taken for it; of several the average precision.
    Arguments are those of `score`.
    """
    if labels.ndim == 2:
        return tuple(_average_precision(logits_NK[:, label], labels[:, label]) for label in range(labels.shape[1]))
    num_classes = logits_NK.shape[1]
    right_N = logits_NK.argmax(dim=1) == labels
    images_K = torch.bincount(labels, minlength=num_classes).tolist()
    right_K = torch.bincount(labels[right_N], minlength=num_classes).tolist()
    return tuple(right / images if images else None for right, images in zip(right_K, images_K, strict=True))


def _average_precision(logits_N: torch.Tensor, labels_N: torch.Tensor) -> float | None:
    """Σ (recall − recall before) · precision down the ranking, without interpolation; equal scores are one rank."""
    num_relevant = int(labels_N.sum())
    if num_relevant == 0:
        return None
    ranked_N, order = logits_N.sort(descending=True)
    found_N = labels_N[order].cumsum(0)
    is_last_N = torch.ones_like(labels_N)
    is_last_N[:-1] = ranked_N[1:] != ranked_N[:-1]
    ends = is_last_N.nonzero().flatten()
    found_R = found_N[ends].double()
    precision_R = found_R / (ends + 1)
    return float((found_R.diff(prepend=found_R.new_zeros(1)) * precision_R).sum()) / num_relevant
