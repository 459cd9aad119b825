"""A step of a level whose saliency is that of another loss than the one it is trained on."""

from collections.abc import Callable, Sequence

import torch

from trainables.config import Recipe
from trainables.pruning import LevelPruner
from trainables.training import autocast

Parts = Sequence[tuple[torch.Tensor, torch.Tensor]]
LabelsLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
LevelLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def gradients_of_both(
    pruner: LevelPruner,
    parts: Parts,
    larger_logits: Sequence[torch.Tensor],
    *,
    losses: tuple[LabelsLoss, LevelLoss],
    recipe: Recipe,
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Give a level's meter the gradient of the labels' loss, and leave that of the level's own loss in its network.

    One forward pass and two backward passes.

    Args:
        pruner: of the level, whose network has no gradients yet.
        parts: images and labels of a batch's micro-batches.
        larger_logits: for each of them, what the level learns from.
        losses: of logits and labels; and of logits, larger logits and labels. Means over images.
        recipe: gives the precision.

    Returns:
        The level's own loss over the batch, detached, and its logits for each part.
    """
    of_labels, of_level = losses
    parameters = list(pruner.level.network.parameters())
    own = [torch.zeros_like(parameter) for parameter in parameters]
    num_images = sum(len(labels) for _, labels in parts)
    total = torch.zeros((), device=larger_logits[0].device)
    found = []
    for (images, labels), larger in zip(parts, larger_logits, strict=True):
        with autocast(recipe, images.device):
            logits = pruner.level.network(images)
        logits = logits.float()
        share = len(labels) / num_images
        (of_labels(logits, labels) * share).backward(retain_graph=True)  # type: ignore[no-untyped-call]
        loss = of_level(logits, larger, labels) * share
        for gradient, more in zip(own, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if more is not None:
                gradient += more
        total += loss.detach()
        found.append(logits.detach())
    pruner.meter.add_scores()
    for parameter, gradient in zip(parameters, own, strict=True):
        parameter.grad = gradient
    return total, found
